// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/linear.hpp"

#include <cstddef>
#include <span>
#include <utility>

/// @file
/// Layer normalisation.

namespace gpt2 {

/// y = (x - mean(x)) / sqrt(variance(x) + epsilon) * gain + bias, over the C values of each row
/// (Ba, Kiros and Hinton, 2016; the epsilon stands inside the root). Immutable and thread-safe.
class LayerNorm {
public:
    LayerNorm() = default;

    /// @param gain, bias  [C]
    LayerNorm(SharedTensor<float, 1> gain, SharedTensor<float, 1> bias, float epsilon)
        : gain_(std::move(gain)), bias_(std::move(bias)), epsilon_(epsilon) {}

    /// x and y are [B, C] and may be the same.
    void forward(const Compute& compute, const float* x, std::size_t rows, float* y) const {
        const Profile::Span span(compute.profile, "layer_norm");
        const std::size_t n = gain_.size();
        compute.pool.parallel_for(rows, 8, [&](std::size_t begin, std::size_t end) {
            for (std::size_t row = begin; row < end; ++row) {
                compute.kernels.layer_norm(x + row * n, gain_.data(), bias_.data(), epsilon_, n, y + row * n);
            }
        });
    }

    [[nodiscard]] std::span<const float> gain() const noexcept { return gain_.flat(); }
    [[nodiscard]] std::span<const float> bias() const noexcept { return bias_.flat(); }

private:
    SharedTensor<float, 1> gain_;
    SharedTensor<float, 1> bias_;
    float epsilon_ = 1e-5f;
};

} // namespace gpt2
