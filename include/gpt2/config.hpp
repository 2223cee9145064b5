// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

/// @file
/// The shape of a model. Shape letters used in every comment of the library:
///   B rows (tokens that go through one forward pass), T positions, C embedding (`n_embd`), H heads,
///   D head size (C / H), F width inside the MLP (`n_inner`), V vocabulary.

namespace gpt2 {

/// The number of a token in the vocabulary.
using TokenId = std::int32_t;

/// The function inside the MLP.
enum class Activation {
    gelu_tanh, ///< 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), Hugging Face's `gelu_new`
    gelu_erf,  ///< x Phi(x) = 0.5 x (1 + erf(x / sqrt 2)), Hugging Face's `gelu`
    relu,      ///< max(x, 0)
};

/// Hugging Face's names and meanings (`config.json`).
struct Config {
    std::size_t vocab_size = 50257; ///< V
    std::size_t n_positions = 1024; ///< T, the longest sequence
    std::size_t n_embd = 768;       ///< C
    std::size_t n_layer = 12;
    std::size_t n_head = 12;    ///< H
    std::size_t n_inner = 3072; ///< F; `null` in config.json means 4 C
    float layer_norm_epsilon = 1e-5f;
    Activation activation = Activation::gelu_tanh;
    bool scale_attn_weights = true;               ///< scores are divided by sqrt(D)
    bool scale_attn_by_inverse_layer_idx = false; ///< and by the layer's number, counted from 1
    std::optional<TokenId> bos_token_id;
    std::optional<TokenId> eos_token_id;

    /// D
    [[nodiscard]] std::size_t head_size() const noexcept { return n_embd / n_head; }

    friend bool operator==(const Config&, const Config&) = default;
};

static_assert(sizeof(std::size_t) >= 8, "gpt2: sizes of models need 64 bits");

namespace detail {

/// The largest extent that a model may have. With it no product of three extents and an element size
/// overflows 64 bits. (GPT-2 1558M: V 50257, C 1600, F 6400.)
inline constexpr std::size_t max_extent = std::size_t{1} << 20;
inline constexpr std::size_t max_layers = 4096;

inline void check_extent(std::string_view source, std::string_view key, std::size_t value, std::size_t most) {
    if (value == 0 || value > most) {
        throw FormatError(
            concat(quoted(source, 4096), ": ", quoted(key), ": expected 1 to ", most, ", found ", value));
    }
}

inline void check_token(std::string_view source, std::string_view key, std::optional<TokenId> id,
                        std::size_t vocab_size) {
    if (id && (*id < 0 || static_cast<std::size_t>(*id) >= vocab_size)) {
        throw FormatError(concat(quoted(source, 4096), ": ", quoted(key),
                                 ": expected a token of the vocabulary, 0 to ", vocab_size - 1, ", found ",
                                 *id));
    }
}

} // namespace detail

/// Checks that a model of this shape can exist: extents positive and small enough that no product of them
/// overflows, C a multiple of H, epsilon positive and finite, special tokens inside the vocabulary.
/// @param source  what the configuration came from, for messages
/// @throws FormatError naming @p source, the key, what was expected and what was found
inline void validate(const Config& config, std::string_view source) {
    detail::check_extent(source, "vocab_size", config.vocab_size, detail::max_extent);
    detail::check_extent(source, "n_positions", config.n_positions, detail::max_extent);
    detail::check_extent(source, "n_embd", config.n_embd, detail::max_extent);
    detail::check_extent(source, "n_layer", config.n_layer, detail::max_layers);
    detail::check_extent(source, "n_head", config.n_head, detail::max_extent);
    detail::check_extent(source, "n_inner", config.n_inner, detail::max_extent);
    if (config.n_embd % config.n_head != 0) {
        throw FormatError(detail::concat(detail::quoted(source, 4096),
                                         ": \"n_head\": expected a divisor of n_embd (", config.n_embd,
                                         "), found ", config.n_head));
    }
    if (!std::isfinite(config.layer_norm_epsilon) || config.layer_norm_epsilon <= 0.0f) {
        throw FormatError(detail::concat(detail::quoted(source, 4096),
                                         ": \"layer_norm_epsilon\": expected a positive number, found ",
                                         config.layer_norm_epsilon));
    }
    detail::check_token(source, "bos_token_id", config.bos_token_id, config.vocab_size);
    detail::check_token(source, "eos_token_id", config.eos_token_id, config.vocab_size);
}

} // namespace gpt2
