// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/linear.hpp"

#include <cstddef>

/// @file
/// The feed-forward half of a block.

namespace gpt2 {

/// Two linear layers with the model's activation between them. Immutable and thread-safe.
struct Mlp {
    Linear c_fc;   ///< C -> F
    Linear c_proj; ///< F -> C
    Activation activation = Activation::gelu_tanh;

    /// residual [B, C] += c_proj(activation(c_fc(x))) for x [B, C]; @p inner is scratch [B, F].
    void forward(const Compute& compute, const float* x, std::size_t rows, float* residual, float* inner,
                 PackedRows& packed) const {
        const auto activate =
            activation == Activation::relu ? kernels::Epilogue::relu : kernels::Epilogue::gelu_tanh;
        c_fc.forward(compute, x, rows, inner, activate, packed);
        c_proj.forward(compute, inner, rows, residual, kernels::Epilogue::add, packed);
    }
};

} // namespace gpt2
