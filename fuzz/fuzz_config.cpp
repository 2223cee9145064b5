// SPDX-License-Identifier: MIT

// The input is a config.json.

#include <gpt2/io/config_json.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const gpt2::ConfigJson json =
            gpt2::parse_config({reinterpret_cast<const char*>(data), size}, "input");
        gpt2::validate(json.config, "parsed"); // what is accepted is valid
        if (json.config.head_size() * json.config.n_head != json.config.n_embd) {
            std::abort();
        }
    } catch (const gpt2::FormatError& error) {
        if (std::string_view(error.what()).find("\"input\"") == std::string_view::npos) {
            std::abort(); // an error must name the file
        }
    }
    return 0;
}
