// SPDX-License-Identifier: MIT

// The input is a config.json, a zero byte, the header of a safetensors file, a zero byte, the data.

#include <gpt2/io/checkpoint.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const std::string_view config = input.substr(0, input.find('\0'));
    const std::string_view rest = input.substr(std::min(size, config.size() + 1));
    const std::string_view header = rest.substr(0, rest.find('\0'));
    const std::string_view contents = rest.substr(std::min(rest.size(), header.size() + 1));

    const std::uint64_t length = header.size();
    std::vector<char> model(sizeof length);
    std::memcpy(model.data(), &length, sizeof length);
    model.insert(model.end(), header.begin(), header.end());
    model.insert(model.end(), contents.begin(), contents.end());
    try {
        const auto checkpoint =
            gpt2::Checkpoint::from_bytes(config, std::as_bytes(std::span(model)), "input");
        for (const auto& expected :
             gpt2::expected_tensors(checkpoint.config(), checkpoint.has_separate_head())) {
            const gpt2::CheckpointTensor& tensor = checkpoint.tensor(expected.name, expected.shape);
            const auto bad = gpt2::first_non_finite(tensor);
            if (bad && *bad >= tensor.size()) {
                std::abort();
            }
            gpt2::require_finite(tensor);
        }
    } catch (const gpt2::FormatError& error) {
        if (std::string_view(error.what()).find("\"input/") == std::string_view::npos) {
            std::abort(); // an error must name the file
        }
    }
    return 0;
}
