// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/config.hpp"
#include "gpt2/linear.hpp"

#include <cstddef>

/// @file
/// The feed-forward half of a block.

namespace gpt2 {

namespace detail {

[[nodiscard]] constexpr kernels::Epilogue epilogue_of(Activation activation) noexcept {
    switch (activation) {
    case Activation::gelu_erf:
        return kernels::Epilogue::gelu_erf;
    case Activation::relu:
        return kernels::Epilogue::relu;
    case Activation::gelu_tanh:
        break;
    }
    return kernels::Epilogue::gelu_tanh;
}

} // namespace detail

/// Two linear layers with the model's activation between them. Immutable and thread-safe.
struct Mlp {
    Linear c_fc;   ///< C -> F
    Linear c_proj; ///< F -> C
    Activation activation = Activation::gelu_tanh;

    /// residual [B, C] += c_proj(activation(c_fc(x))) for x [B, C]; @p inner is scratch [B, F].
    void forward(const Compute& compute, const float* x, std::size_t rows, float* residual, float* inner,
                 PackedRows& packed) const {
        {
            const Profile::Span span(compute.profile, "mlp.c_fc");
            c_fc.forward(compute, x, rows, inner, detail::epilogue_of(activation), packed);
        }
        const Profile::Span span(compute.profile, "mlp.c_proj");
        c_proj.forward(compute, inner, rows, residual, kernels::Epilogue::add, packed);
    }
};

} // namespace gpt2
