// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstdint>

/// @file
/// The two 16-bit floating-point formats, as storage: arithmetic happens in float.

namespace gpt2 {

/// IEEE 754 binary16: 1 sign, 5 exponent, 10 mantissa bits. Largest finite value 65504.
struct half {
    std::uint16_t bits = 0;

    half() = default;

    /// Rounds to nearest, ties to even; values from 65520 on become infinity, NaN stays NaN.
    explicit half(float value) noexcept : bits(round(std::bit_cast<std::uint32_t>(value))) {}

    /// Exact. Integer arithmetic only, so that no floating-point state can disturb it.
    explicit operator float() const noexcept {
        const std::uint32_t sign = (bits & 0x8000u) << 16;
        const std::uint32_t exponent = (bits >> 10) & 0x1fu;
        const std::uint32_t mantissa = bits & 0x3ffu;
        if (exponent == 0x1f) { // infinity or NaN
            return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
        }
        if (exponent != 0) {
            return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
        }
        if (mantissa == 0) {
            return std::bit_cast<float>(sign);
        }
        // Subnormal, mantissa * 2^-24: normal in float, with the leading one made implicit.
        const auto shift = static_cast<std::uint32_t>(std::countl_zero(mantissa)) - 21u;
        return std::bit_cast<float>(sign | ((113 - shift) << 23) | (((mantissa << shift) & 0x3ffu) << 13));
    }

private:
    static std::uint16_t round(std::uint32_t value) noexcept {
        const std::uint32_t sign = (value >> 16) & 0x8000u;
        const std::uint32_t magnitude = value & 0x7fffffffu;
        if (magnitude > 0x7f800000u) { // NaN: keep the upper payload, make it quiet
            return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
        }
        if (magnitude >= 0x477ff000u) { // 65520 and above
            return static_cast<std::uint16_t>(sign | 0x7c00u);
        }
        if (magnitude >= 0x38800000u) { // normal: rebias the exponent by 112, round to 10 bits
            const std::uint32_t rebased = magnitude - (112u << 23);
            return static_cast<std::uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
        }
        if (magnitude <= 0x33000000u) { // up to 2^-25, whose tie goes to the even zero
            return static_cast<std::uint16_t>(sign);
        }
        // Subnormal: a multiple of 2^-24.
        const std::uint32_t shift = 126u - (magnitude >> 23);
        const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        const std::uint32_t kept = mantissa >> shift;
        const std::uint32_t dropped = mantissa & ((1u << shift) - 1u);
        const std::uint32_t tie = 1u << (shift - 1u);
        const bool up = dropped > tie || (dropped == tie && (kept & 1u) != 0);
        return static_cast<std::uint16_t>(sign | (kept + (up ? 1u : 0u)));
    }
};

/// bfloat16: the upper half of a binary32; 1 sign, 8 exponent, 7 mantissa bits.
struct bfloat16 {
    std::uint16_t bits = 0;

    bfloat16() = default;

    /// Rounds to nearest, ties to even; NaN stays NaN.
    explicit bfloat16(float value) noexcept {
        const auto word = std::bit_cast<std::uint32_t>(value);
        const bool nan = (word & 0x7fffffffu) > 0x7f800000u;
        bits =
            static_cast<std::uint16_t>((nan ? word | 0x400000u : word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
    }

    /// Exact.
    explicit operator float() const noexcept {
        return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
    }
};

static_assert(sizeof(half) == 2 && sizeof(bfloat16) == 2);

} // namespace gpt2
