// SPDX-License-Identifier: MIT
#pragma once

#include "../../tools/byte_vocabulary.hpp"
#include "../../tools/random_model.hpp"
#include "files.hpp"

#include <gpt2/config.hpp>
#include <gpt2/float16.hpp>
#include <gpt2/io/checkpoint.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// @file
/// What tests of whole models share: small models on disk and edited checkpoints.

namespace gpt2::test {

inline constexpr std::size_t byte_vocabulary_size = 259;

/// Writes vocab.json and merges.txt of a tokenizer in which token b < 256 is byte b, 256 is <|endoftext|>,
/// 257 "th" and 258 "the".
inline void write_byte_vocabulary(const std::filesystem::path& directory) {
    write_file(directory / "vocab.json", tools::byte_vocabulary_json({"<|endoftext|>", "th", "the"}));
    write_file(directory / "merges.txt", "#version: 0.2\nt h\nth e\n");
}

/// A shape with no round number in it: heads of 9, outputs and inputs that fill no panel.
[[nodiscard]] inline Config odd_config() {
    Config config;
    config.vocab_size = byte_vocabulary_size;
    config.n_positions = 150;
    config.n_embd = 45;
    config.n_head = 5;
    config.n_layer = 3;
    config.n_inner = 101;
    config.bos_token_id = config.eos_token_id = 256;
    return config;
}

/// All elements, exactly.
[[nodiscard]] inline std::vector<float> widened(const CheckpointTensor& tensor) {
    std::vector<float> values(tensor.size());
    const auto read = [&]<class Stored>(Stored element) {
        for (std::size_t i = 0; i < values.size(); ++i) {
            std::memcpy(&element, tensor.data.data() + i * sizeof element, sizeof element);
            values[i] = static_cast<float>(element);
        }
    };
    if (tensor.dtype == Dtype::F16) {
        read(half());
    } else if (tensor.dtype == Dtype::BF16) {
        read(bfloat16());
    } else {
        read(float());
    }
    return values;
}

/// Changes a tensor's values.
using Edit = std::function<void(std::string_view name, std::span<float> values)>;

/// Writes the tensors and the configuration of a checkpoint once more, in another type or with other values.
inline void write_checkpoint(const std::filesystem::path& directory, const Checkpoint& from, Dtype dtype,
                             const Edit& edit = {}) {
    const auto list = expected_tensors(from.config(), from.has_separate_head());
    tools::RandomModelOptions options;
    options.dtype = dtype;
    std::string bytes = tools::detail::safetensors_header(list, options);
    const auto append = [&bytes](const auto& element) {
        bytes.append(reinterpret_cast<const char*>(&element), sizeof element);
    };
    for (const ExpectedTensor& tensor : list) {
        std::vector<float> values = widened(from.tensor(tensor.name));
        if (edit) {
            edit(tensor.name, values);
        }
        for (const float value : values) {
            if (dtype == Dtype::F16) {
                append(half(value));
            } else if (dtype == Dtype::BF16) {
                append(bfloat16(value));
            } else {
                append(value);
            }
        }
    }
    write_file(directory / "model.safetensors", bytes);
    write_file(directory / "config.json", tools::config_json_text(from.config(), !from.has_separate_head()));
}

/// A directory with random weights and the byte vocabulary, which config.vocab_size must have room for.
/// @p edit changes the weights.
inline void write_model(const std::filesystem::path& directory, const Config& config,
                        const tools::RandomModelOptions& options = {}, const Edit& edit = {}) {
    tools::write_random_model(directory, config, options);
    write_byte_vocabulary(directory);
    if (edit) {
        const TemporaryDirectory edited;
        write_checkpoint(edited.path(), Checkpoint::open(directory), options.dtype, edit);
        std::filesystem::copy_file(edited / "model.safetensors", directory / "model.safetensors",
                                   std::filesystem::copy_options::overwrite_existing);
    }
}

/// An edit that makes a model's matrices 15 times as large. As initialised, a model has scores and arguments
/// of GELU next to 0: attention is an average, GELU is x / 2, and a mistake in either hardly shows.
inline void enlarge_matrices(std::string_view name, std::span<float> values) {
    if (name.starts_with("h.") && name.find(".c_") != std::string_view::npos && name.ends_with("weight")) {
        for (float& value : values) {
            value *= 15.0f;
        }
    }
}

/// Some tokens below @p n_tokens, the same for the same seed.
[[nodiscard]] inline std::vector<TokenId> some_tokens(std::size_t count, std::size_t n_tokens,
                                                      std::uint32_t seed = 1) {
    std::mt19937 random(seed);
    std::vector<TokenId> tokens(count);
    for (TokenId& token : tokens) {
        token = static_cast<TokenId>(random() % n_tokens);
    }
    return tokens;
}

/// One after the other.
[[nodiscard]] inline std::vector<TokenId> joined(std::span<const TokenId> a, std::span<const TokenId> b) {
    std::vector<TokenId> all(a.begin(), a.end());
    all.insert(all.end(), b.begin(), b.end());
    return all;
}

/// The default model.
[[nodiscard]] inline std::filesystem::path novella() {
    return std::filesystem::path(GPT2_SOURCE_DIR) / "models" / "novella-f16.safetensors";
}

/// What tests/convert/make_fixtures.py made.
[[nodiscard]] inline std::filesystem::path fixture(std::string_view name) {
    return std::filesystem::path(GPT2_FIXTURES) / name;
}

} // namespace gpt2::test
