// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/byte_alphabet.hpp>
#include <gpt2/config.hpp>
#include <gpt2/error.hpp>

#include <cstddef>
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

/// Writes vocab.json and merges.txt of a tokenizer in which every id of the model has a text: token b < 256
/// is the byte b, then come `t256` and so on, which no text is encoded as, and the last is `<|endoftext|>`.
/// There are no merges.
/// @param config  vocab_size is at least 256; with no more there is no `<|endoftext|>`
/// @throws FileError
inline void write_byte_vocabulary(const std::filesystem::path& directory, const Config& config) {
    std::string json = byte_vocabulary_json({});
    json.erase(json.rfind('}'));
    for (std::size_t id = 256; id < config.vocab_size; ++id) {
        const bool last = id + 1 == config.vocab_size;
        json +=
            gpt2::detail::concat(", \"", last ? "<|endoftext|>" : gpt2::detail::concat('t', id), "\": ", id);
    }
    std::ofstream vocabulary(directory / "vocab.json");
    vocabulary << json << "}\n";
    vocabulary.close();
    std::ofstream merges(directory / "merges.txt");
    merges << "#version: 0.2\n";
    merges.close();
    if (!vocabulary || !merges) {
        throw FileError(gpt2::detail::concat("cannot write into ", gpt2::detail::quoted(directory.string())));
    }
}

} // namespace gpt2::tools
