// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

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
    relu,      ///< max(x, 0)
};

/// Hugging Face's names and meanings (`config.json`).
struct Config {
    std::size_t vocab_size = 50257; ///< V
    std::size_t n_positions = 1024; ///< T, the longest sequence
    std::size_t n_embd = 768;       ///< C
    std::size_t n_layer = 12;
    std::size_t n_head = 12; ///< H
    std::size_t n_inner = 3072;  ///< F; `null` in config.json means 4 C
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

} // namespace gpt2
