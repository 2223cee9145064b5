// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/byte_alphabet.hpp>
#include <gpt2/config.hpp>
#include <gpt2/error.hpp>

#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>

/// @file
/// The smallest tokenizer there is, for models with random weights.

namespace gpt2::tools {

/// vocab.json of a tokenizer in which token b < 256 is the byte b, and 256 and up are @p others, which are
/// spelled as they stand.
[[nodiscard]] inline std::string byte_vocabulary_json(std::initializer_list<std::string_view> others) {
    std::string json = "{";
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        const std::string key = gpt2::detail::spell({&c, 1});
        json += byte == 0 ? "" : ", ";
        json += gpt2::detail::concat('"', key == "\"" || key == "\\" ? "\\" : "", key, "\": ", byte);
    }
    int id = 256;
    for (const std::string_view token : others) {
        json += gpt2::detail::concat(", \"", token, "\": ", id++);
    }
    return json + "}\n";
}

/// Writes vocab.json and merges.txt of a tokenizer in which token b < 256 is the byte b and token 256, where
/// the model has room for it, is `<|endoftext|>`. There are no merges; the model's other tokens stay unused.
/// @param config  vocab_size is at least 256
/// @throws FileError
inline void write_byte_vocabulary(const std::filesystem::path& directory, const Config& config) {
    std::ofstream(directory / "vocab.json")
        << (config.vocab_size > 256 ? byte_vocabulary_json({"<|endoftext|>"}) : byte_vocabulary_json({}));
    std::ofstream(directory / "merges.txt") << "#version: 0.2\n";
    if (!std::filesystem::exists(directory / "merges.txt")) {
        throw FileError(detail::concat("cannot write into ", detail::quoted(directory.string())));
    }
}

} // namespace gpt2::tools
