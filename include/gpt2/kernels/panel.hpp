// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/float16.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

/// @file
/// How weight matrices lie in memory: panels of 32 outputs, with the inputs running inside.
///
/// A matrix W of K inputs and N outputs is ceil(N / 32) panels, one after the other. A panel is a sequence of
/// units, each the weights of its 32 outputs for a group of inputs; weights past input K or output N are
/// zeros. So a thread reads one contiguous stream, the lanes of a vector are outputs, and each output is one
/// chain of multiply-adds over the groups in order, at any vector width and for any number of rows.
///
/// | type | group | unit |
/// |---|---|---|
/// | float32, float16 | 1 | `[32]` |
/// | bfloat16 | 1 | `[32]`, outputs j and j + 16 side by side: a shift and a mask widen 32 bits to both |
/// | int8 | 64 | `[16][32][4]` bytes q + 128, then 32 scales |
/// | int4 | 32 | `[8][16][4]` bytes, the low half q + 8 of output j, the high half of j + 16, then 32 scales
/// |
///
/// An integer weight is q times the scale of its group and output. Four inputs of an output stand side by
/// side, as instructions for dot products of bytes want them. Scales are bfloat16, paired as the weights of
/// that type are: they have the range of float32, so that no group of weights is too small or too large.

namespace gpt2 {

/// The element type of a weight matrix.
enum class WeightType { float32, float16, bfloat16, int8, int4 };

inline constexpr std::size_t n_weight_types = 5;

[[nodiscard]] constexpr std::string_view to_string(WeightType type) noexcept {
    switch (type) {
    case WeightType::float16:
        return "float16";
    case WeightType::bfloat16:
        return "bfloat16";
    case WeightType::int8:
        return "int8";
    case WeightType::int4:
        return "int4";
    case WeightType::float32:
        break;
    }
    return "float32";
}

namespace kernels {

inline constexpr std::size_t panel_width = 32;

[[nodiscard]] constexpr std::size_t panel_count(std::size_t n_outputs) noexcept {
    return (n_outputs + panel_width - 1) / panel_width;
}

/// N filled up to whole panels.
[[nodiscard]] constexpr std::size_t padded_outputs(std::size_t n_outputs) noexcept {
    return panel_count(n_outputs) * panel_width;
}

/// What the units of a type are.
struct UnitShape {
    std::size_t group = 1;     ///< inputs
    std::size_t bytes = 0;     ///< of the unit
    std::size_t x_bytes = 4;   ///< of one row's activations for the group, as the kernels read them
    std::int32_t zero = 0;     ///< what stands for q = 0
    std::size_t scales_at = 0; ///< bytes before the scales
};

inline constexpr UnitShape int8_unit{
    .group = 64, .bytes = 2112, .x_bytes = 72, .zero = 128, .scales_at = 2048};
inline constexpr UnitShape int4_unit{.group = 32, .bytes = 576, .x_bytes = 40, .zero = 8, .scales_at = 512};

[[nodiscard]] constexpr UnitShape unit_of(WeightType type) noexcept {
    switch (type) {
    case WeightType::float16:
    case WeightType::bfloat16:
        return {.bytes = panel_width * 2};
    case WeightType::int8:
        return int8_unit;
    case WeightType::int4:
        return int4_unit;
    case WeightType::float32:
        break;
    }
    return {.bytes = panel_width * 4};
}

[[nodiscard]] constexpr bool is_integer(WeightType type) noexcept {
    return type == WeightType::int8 || type == WeightType::int4;
}

/// Units of a panel.
[[nodiscard]] constexpr std::size_t unit_count(WeightType type, std::size_t n_inputs) noexcept {
    const std::size_t group = unit_of(type).group;
    return (n_inputs + group - 1) / group;
}

[[nodiscard]] constexpr std::size_t panel_bytes(WeightType type, std::size_t n_inputs) noexcept {
    return unit_count(type, n_inputs) * unit_of(type).bytes;
}

/// Where output @p lane of a panel stands within 32 values of bfloat16.
[[nodiscard]] constexpr std::size_t paired_slot(std::size_t lane) noexcept {
    return lane < 16 ? 2 * lane : 2 * (lane - 16) + 1;
}

/// The weights [K] of output @p lane of a panel: the definition of the layout.
inline void read_lane(WeightType type, const std::byte* panel, std::size_t n_inputs, std::size_t lane,
                      float* out) noexcept {
    const UnitShape shape = unit_of(type);
    const auto at = [&panel]<class T>(T value, std::size_t index) {
        std::memcpy(&value, panel + index * sizeof(T), sizeof(T));
        return value;
    };
    if (!is_integer(type)) {
        for (std::size_t k = 0; k < n_inputs; ++k, panel += shape.bytes) {
            out[k] = type == WeightType::float32   ? at(0.0f, lane)
                     : type == WeightType::float16 ? static_cast<float>(at(half{}, lane))
                                                   : static_cast<float>(at(bfloat16{}, paired_slot(lane)));
        }
        return;
    }
    const std::size_t width = type == WeightType::int8 ? panel_width : panel_width / 2; // quads side by side
    for (std::size_t first = 0; first < n_inputs; first += shape.group, panel += shape.bytes) {
        const auto scale = static_cast<float>(at(bfloat16{}, shape.scales_at / 2 + paired_slot(lane)));
        for (std::size_t i = 0; i < shape.group && first + i < n_inputs; ++i) {
            const auto byte = at(std::uint8_t{}, (i / 4 * width + lane % width) * 4 + i % 4);
            const int q = type == WeightType::int8 ? byte : lane < width ? byte & 15 : byte >> 4;
            out[first + i] = static_cast<float>(q - shape.zero) * scale;
        }
    }
}

/// Rows of activations [rows][K] into tiles of @p tile rows, each [K][tile], which the kernels of the float
/// formats read. Rows past the last are zero.
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
