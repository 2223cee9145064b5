// SPDX-License-Identifier: MIT
#pragma once

#include "bounded.hpp"
#include "kernel_fixture.hpp"

#include <gpt2/linear.hpp>
#include <gpt2/packed_matrix.hpp>

#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

/// @file
/// Layers with random weights, and what they compute in float64.

namespace gpt2::test {

/// A tensor of a checkpoint with memory of its own, at an odd address.
struct OwnedTensor {
    std::vector<std::byte> memory;
    CheckpointTensor tensor;
};

template <class Source>
[[nodiscard]] OwnedTensor make_tensor(std::string name, std::vector<std::size_t> shape,
                                      std::span<const Source> values) {
    OwnedTensor owned{std::vector<std::byte>(values.size_bytes() + 1), {}};
    std::memcpy(owned.memory.data() + 1, values.data(), values.size_bytes());
    owned.tensor.name = std::move(name);
    owned.tensor.file = "test.safetensors";
    owned.tensor.dtype = std::is_same_v<Source, half>       ? Dtype::F16
                         : std::is_same_v<Source, bfloat16> ? Dtype::BF16
                                                            : Dtype::F32;
    owned.tensor.shape = std::move(shape);
    owned.tensor.data = std::span<const std::byte>(owned.memory).subspan(1);
    return owned;
}

/// A linear layer beside the numbers in it.
struct LinearReference {
    std::size_t n_inputs, n_outputs;
    std::vector<float> weight; ///< [K, N], as the layer's format holds them
    std::vector<float> bias;   ///< [N]
    Linear layer;

    LinearReference(std::size_t K, std::size_t N, WeightType type, std::uint64_t seed, float scale = 0.5f)
        : n_inputs(K), n_outputs(N) {
        Numbers numbers(seed);
        weight = numbers.numbers(K * N, scale);
        bias = numbers.numbers(N);
        ThreadPool pool(1);
        const auto owned = make_tensor<float>("weight", {K, N}, weight);
        layer = Linear(PackedMatrix::pack(owned.tensor, MatrixLayout::inputs_by_outputs, type, pool),
                       Linear::padded_bias(N, bias));
        std::vector<float> output(K);
        for (std::size_t n = 0; n < N; ++n) {
            layer.weight().read_output(n, output.data());
            for (std::size_t k = 0; k < K; ++k) {
                weight[k * N + n] = output[k];
            }
        }
    }

    /// x W + b for one row, in the kernels' order.
    [[nodiscard]] std::vector<Bounded> operator()(std::span<const Bounded> x) const {
        std::vector<Bounded> y;
        for (std::size_t n = 0; n < n_outputs; ++n) {
            Bounded sum = static_cast<double>(bias[n]);
            for (std::size_t k = 0; k < n_inputs; ++k) {
                sum = multiply_add(x[k], static_cast<double>(weight[k * n_outputs + n]), sum);
            }
            y.push_back(sum);
        }
        return y;
    }
};

[[nodiscard]] inline std::vector<Bounded> exactly(std::span<const float> x) {
    std::vector<Bounded> list;
    for (const float value : x) {
        list.push_back(static_cast<double>(value));
    }
    return list;
}

} // namespace gpt2::test
