// SPDX-License-Identifier: MIT

// The input is the file of a session of a small model. Its checksum is put right first, or hardly an input
// would come to what lies behind it.

#include "../tools/byte_vocabulary.hpp"
#include "../tools/random_model.hpp"

#include <gpt2/gpt2.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>

namespace {

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

/// The model of the sessions in fuzz/corpus/session_file: always the same weights.
gpt2::Gpt2Model make_model() {
    gpt2::Config config;
    config.vocab_size = 257;
    config.n_positions = 20;
    config.n_embd = 6;
    config.n_head = 2;
    config.n_layer = 2;
    config.n_inner = 5;
    config.bos_token_id = config.eos_token_id = 256;
    const std::filesystem::path directory =
        std::filesystem::temp_directory_path() / ("gpt2-fuzz-" + std::to_string(std::random_device()()));
    gpt2::tools::write_random_model(directory, config);
    std::ofstream(directory / "vocab.json") << gpt2::tools::byte_vocabulary_json({"<|endoftext|>"});
    std::ofstream(directory / "merges.txt") << "#version: 0.2\n";
    gpt2::Gpt2Model model = gpt2::Gpt2Model::load(directory, {.pool = std::make_shared<gpt2::ThreadPool>(1)});
    std::filesystem::remove_all(directory);
    return model;
}

/// The file with the checksum of the data that it has, if it says where both are.
std::string with_checksum(std::string file) {
    constexpr std::string_view key = R"("gpt2.crc32":")";
    const std::size_t at = file.find(key);
    std::uint64_t length = 0;
    if (file.size() < sizeof length || at == std::string::npos || file.size() - at < key.size() + 8) {
        return file;
    }
    std::memcpy(&length, file.data(), sizeof length);
    if (length <= file.size() - sizeof length) {
        const auto data = std::as_bytes(std::span(file)).subspan(sizeof length + length);
        file.replace(at + key.size(), 8, gpt2::detail::hexadecimal(gpt2::detail::crc32(data)));
    }
    return file;
}

/// What was restored can be used.
void use(gpt2::Session& session, std::size_t n_positions) {
    require(session.position() <= n_positions);
    for (const float logit : session.logits().flat()) {
        require(std::isfinite(logit));
    }
    if (session.position() < n_positions) {
        const gpt2::TokenId token = 65;
        try {
            (void)session.forward({&token, 1});
        } catch (const gpt2::NumericError&) { // finite keys may be large
        }
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const gpt2::Gpt2Model model = make_model();
    static const auto pool = std::make_shared<gpt2::ThreadPool>(1);
    const std::string file = with_checksum({reinterpret_cast<const char*>(data), size});
    try {
        gpt2::Session session =
            gpt2::Session::restore(model, std::as_bytes(std::span(file)), {.pool = pool, .kv_dtype = {}});
        use(session, model.config().n_positions);
    } catch (const gpt2::FormatError& error) {
        require(std::string_view(error.what()).starts_with("\"memory")); // it names the file
    }
    return 0;
}
