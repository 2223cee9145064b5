// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/float16.hpp"
#include "gpt2/kernels/panel.hpp"

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

/// @file
/// From floats to the weight types: rounding to nearest. tools/convert_weights.py makes the same bytes.

namespace gpt2::detail {

/// One number for each output of a panel.
using PanelLanes = std::array<float, kernels::panel_width>;

/// Groups of weights whose largest magnitude, or int8 scale, is below this are zeros: quotients stay normal.
inline constexpr float smallest_group = 0x1p-100f;

/// @p x >= 0 to the next bfloat16 that is not smaller: with such a scale no quotient exceeds the range.
[[nodiscard]] inline bfloat16 rounded_up(float x) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    bfloat16 result;
    result.bits = static_cast<std::uint16_t>((bits + 0xffffu) >> 16);
    return result;
}

/// The nearest integer, ties to even, for |x| < 2^22; compilers turn it into vector instructions.
[[nodiscard]] inline float nearest(float x) noexcept {
    const float shifted = x + 12582912.0f; // 1.5 * 2^23
    return shifted - 12582912.0f;
}

/// A group of weights [n][32] of one unit, as floats.
struct WeightGroup {
    const float* values;
    std::size_t n; ///< inputs; up to the size of the group the rest are zeros

    [[nodiscard]] float at(std::size_t k, std::size_t lane) const noexcept {
        return k < n ? values[k * kernels::panel_width + lane] : 0.0f;
    }
};

inline void store_scales(const PanelLanes& scales, std::byte* out) noexcept {
    for (std::size_t lane = 0; lane < kernels::panel_width; ++lane) {
        const auto scale = static_cast<bfloat16>(scales[lane]); // exact
        std::memcpy(out + kernels::paired_slot(lane) * sizeof scale, &scale, sizeof scale);
    }
}

/// q = w / scale with the scale max|w| / 127, rounded up to bfloat16.
inline void encode_int8(const WeightGroup& group, std::byte* unit) noexcept {
    constexpr kernels::UnitShape shape = kernels::int8_unit;
    PanelLanes largest{};
    for (std::size_t k = 0; k < group.n; ++k) {
        for (std::size_t lane = 0; lane < largest.size(); ++lane) {
            const float magnitude = std::fabs(group.at(k, lane));
            largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
        }
    }
    PanelLanes scales{};
    for (std::size_t lane = 0; lane < scales.size(); ++lane) {
        const float scale = largest[lane] / 127.0f;
        scales[lane] = scale < smallest_group ? 0.0f : static_cast<float>(rounded_up(scale));
    }
    for (std::size_t k = 0; k < shape.group; ++k) {
        for (std::size_t lane = 0; lane < scales.size(); ++lane) {
            const float q = scales[lane] == 0.0f ? 0.0f : nearest(group.at(k, lane) / scales[lane]);
            unit[(k / 4 * 32 + lane) * 4 + k % 4] =
                static_cast<std::byte>(static_cast<std::int32_t>(q) + shape.zero);
        }
    }
    store_scales(scales, unit + shape.scales_at);
}

/// The integer of an int4 weight.
[[nodiscard]] inline float int4_of(float w, float scale) noexcept {
    const float q = nearest(w / scale);
    return q < -8.0f ? -8.0f : (q > 7.0f ? 7.0f : q);
}

/// Scales for int4, by search: the weight m of largest magnitude becomes -8 or thereabouts, the scale being
/// m / -(6 + i / 4) for the i of 0 to 15 that has the least squared error.
[[nodiscard]] inline PanelLanes int4_scales(const WeightGroup& group) noexcept {
    PanelLanes largest{};
    for (std::size_t k = 0; k < group.n; ++k) {
        for (std::size_t lane = 0; lane < largest.size(); ++lane) {
            const float w = group.at(k, lane);
            largest[lane] = std::fabs(w) > std::fabs(largest[lane]) ? w : largest[lane];
        }
    }
    PanelLanes best{};
    std::array<double, kernels::panel_width> least{};
    least.fill(HUGE_VAL);
    for (int i = 0; i < 16; ++i) {
        PanelLanes scales{};
        for (std::size_t lane = 0; lane < scales.size(); ++lane) {
            const float divisor = -(6.0f + 0.25f * static_cast<float>(i));
            scales[lane] = std::fabs(largest[lane]) < smallest_group
                               ? 1.0f
                               : static_cast<float>(static_cast<bfloat16>(largest[lane] / divisor));
        }
        std::array<double, kernels::panel_width> errors{};
        for (std::size_t k = 0; k < group.n; ++k) {
            for (std::size_t lane = 0; lane < scales.size(); ++lane) {
                const float w = group.at(k, lane);
                const float q = int4_of(w, scales[lane]);
                // The product is exact, and so is the square: it makes no difference whether they are fused.
                const auto error = static_cast<double>(static_cast<float>(
                    static_cast<double>(w) - static_cast<double>(scales[lane]) * static_cast<double>(q)));
                errors[lane] += error * error;
            }
        }
        for (std::size_t lane = 0; lane < scales.size(); ++lane) {
            if (errors[lane] < least[lane]) {
                least[lane] = errors[lane];
                best[lane] = std::fabs(largest[lane]) < smallest_group ? 0.0f : scales[lane];
            }
        }
    }
    return best;
}

inline void encode_int4(const WeightGroup& group, std::byte* unit) noexcept {
    constexpr kernels::UnitShape shape = kernels::int4_unit;
    const PanelLanes scales = int4_scales(group);
    const auto code = [&](std::size_t k, std::size_t lane) {
        const float q = scales[lane] == 0.0f ? 0.0f : int4_of(group.at(k, lane), scales[lane]);
        return static_cast<std::uint32_t>(static_cast<std::int32_t>(q) + shape.zero);
    };
    for (std::size_t k = 0; k < shape.group; ++k) {
        for (std::size_t lane = 0; lane < 16; ++lane) {
            unit[(k / 4 * 16 + lane) * 4 + k % 4] =
                static_cast<std::byte>(code(k, lane) | code(k, lane + 16) << 4);
        }
    }
    store_scales(scales, unit + shape.scales_at);
}

/// Fills a panel from its weights [K][32], rounded to the type. Finite numbers may become infinite in a
/// 16-bit format. @p panel has kernels::panel_bytes() bytes.
inline void encode_panel(WeightType type, const float* values, std::size_t n_inputs,
                         std::byte* panel) noexcept {
    const kernels::UnitShape shape = kernels::unit_of(type);
    const auto write = [panel](std::size_t index, auto value) {
        std::memcpy(panel + index * sizeof value, &value, sizeof value);
    };
    for (std::size_t first = 0; first < n_inputs; first += shape.group) {
        const float* const from = values + first * kernels::panel_width;
        std::byte* const unit = panel + first / shape.group * shape.bytes;
        const WeightGroup group{from, n_inputs - first < shape.group ? n_inputs - first : shape.group};
        if (type == WeightType::int8) {
            encode_int8(group, unit);
            continue;
        }
        if (type == WeightType::int4) {
            encode_int4(group, unit);
            continue;
        }
        for (std::size_t lane = 0; lane < kernels::panel_width; ++lane) {
            const std::size_t at = first * kernels::panel_width;
            if (type == WeightType::float32) {
                write(at + lane, from[lane]);
            } else if (type == WeightType::float16) {
                write(at + lane, static_cast<half>(from[lane]));
            } else {
                write(at + kernels::paired_slot(lane), static_cast<bfloat16>(from[lane]));
            }
        }
    }
}

} // namespace gpt2::detail
