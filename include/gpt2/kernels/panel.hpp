// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/float16.hpp"

#include <cstddef>
#include <cstring>
#include <string_view>

/// @file
/// How weight matrices lie in memory: panels of 32 outputs, with the inputs running inside.
///
/// A matrix W of K inputs and N outputs is ceil(N / 32) panels, one after the other. A panel holds, for
/// each input k in order, the weights of its 32 outputs: `[K][32]`, padded with zeros past output N. So a
/// thread reads one contiguous stream, the lanes of a vector are outputs, and each output is one chain of
/// multiply-adds over the inputs in order, at any vector width and for any number of rows.
/// bfloat16 stores outputs j and j + 16 side by side, so that a shift and a mask widen 32 bits to both.

namespace gpt2 {

/// The element type of a weight matrix.
enum class WeightType { float32, float16, bfloat16 };

[[nodiscard]] constexpr std::string_view to_string(WeightType type) noexcept {
    switch (type) {
    case WeightType::float16:
        return "float16";
    case WeightType::bfloat16:
        return "bfloat16";
    case WeightType::float32:
        break;
    }
    return "float32";
}

[[nodiscard]] constexpr std::size_t size_of(WeightType type) noexcept {
    return type == WeightType::float32 ? 4 : 2;
}

namespace kernels {

inline constexpr std::size_t panel_width = 32;

[[nodiscard]] constexpr std::size_t panel_count(std::size_t n_outputs) noexcept {
    return (n_outputs + panel_width - 1) / panel_width;
}

/// Where output @p lane of a panel stands within the 32 values of one input.
template <class Weight> [[nodiscard]] constexpr std::size_t panel_slot(std::size_t lane) noexcept {
    return lane;
}
template <> [[nodiscard]] constexpr std::size_t panel_slot<bfloat16>(std::size_t lane) noexcept {
    return lane < 16 ? 2 * lane : 2 * (lane - 16) + 1;
}

/// Index of weight (k, n) in a matrix of @p n_inputs inputs.
template <class Weight>
[[nodiscard]] constexpr std::size_t panel_index(std::size_t n_inputs, std::size_t k, std::size_t n) noexcept {
    return ((n / panel_width) * n_inputs + k) * panel_width + panel_slot<Weight>(n % panel_width);
}

/// Rows of activations [rows][K] into tiles of @p tile rows, each [K][tile], which the linear kernels
/// read. Rows past the last are zero.
inline void pack_rows(const float* x, std::size_t stride, std::size_t rows, std::size_t n_inputs,
                      std::size_t tile, float* packed) {
    for (std::size_t first = 0; first < rows; first += tile) {
        float* const out = packed + first * n_inputs;
        for (std::size_t i = 0; i < tile; ++i) {
            if (first + i >= rows) {
                for (std::size_t k = 0; k < n_inputs; ++k) {
                    out[k * tile + i] = 0.0f;
                }
                continue;
            }
            const float* const row = x + (first + i) * stride;
            for (std::size_t k = 0; k < n_inputs; ++k) {
                out[k * tile + i] = row[k];
            }
        }
    }
}

} // namespace kernels
} // namespace gpt2
