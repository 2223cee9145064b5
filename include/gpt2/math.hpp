// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/floating_point.hpp" // refuses -ffast-math

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

/// @file
/// exp and log that give the same bits on every machine. The C library's differ between systems and
/// releases; these use only IEEE operations in a fixed order, and wherever a product meets an
/// addition std::fma, so that no compiler has anything left to contract. They assume rounding to
/// nearest. Errors: below 0.75 ulp (tests/math_test.cpp measures it). Thread-safe.

namespace gpt2::detail {

/// ln 2 as the sum of two doubles, the first so short that an exponent times it is exact (Cody and Waite,
/// "Software Manual for the Elementary Functions", 1980).
inline constexpr double ln2_high = 0x1.62e42feep-1;
inline constexpr double ln2_low = 0x1.a39ef35793c76p-33;

/// 2^k for -1022 <= k <= 1023.
[[nodiscard]] inline double power_of_two(int k) noexcept {
    return std::bit_cast<double>(static_cast<std::uint64_t>(k + 1023) << 52);
}

/// e^x. Infinite above 709.78, subnormal below -708.39, 0 below -745.13; NaN for NaN.
/// x = k ln 2 + r with |r| <= ln 2 / 2, and e^r by its Taylor series to r^13 (the rest is below 2^-57).
[[nodiscard]] inline double portable_exp(double x) noexcept {
    if (!(x < 710.0)) {
        return x >= 710.0 ? std::numeric_limits<double>::infinity() : x; // x: NaN
    }
    if (x < -746.0) {
        return 0.0;
    }
    constexpr double log2_e = 0x1.71547652b82fep0;
    constexpr double round = 0x1.8p52; // adding it leaves no bits for a fraction
    const double k = std::fma(x, log2_e, round) - round;
    const double high = std::fma(-k, ln2_high, x); // exact
    const double r = std::fma(-k, ln2_low, high);
    const double rest = std::fma(-k, ln2_low, high - r); // what r lost to rounding
    double tail = 1.0 / 6227020800.0;                    // 1/13!
    for (const double factorial :
         {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0}) {
        tail = std::fma(tail, r, 1.0 / factorial);
    }
    const double sum = 1.0 + r;
    const double lost = (1.0 - sum) + r; // by that sum, exactly
    const double y = sum + (lost + std::fma(r * r, tail, rest));
    // In two steps, as 2^k alone may be out of range; the first is exact.
    const int exponent = static_cast<int>(k);
    const int half = exponent / 2;
    return y * power_of_two(half) * power_of_two(exponent - half);
}

/// The natural logarithm. -infinity for 0, NaN below.
/// x = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2); with s = f / (2 + f),
///   log(1 + f) = 2 atanh(s) = f - (f^2/2 - s (f^2/2 + R)),  R = 2 s^2 (1/3 + s^2/5 + s^4/7 + ...),
/// a form that keeps f, the largest part, unrounded (as in FreeBSD's msun, e_log.c).
[[nodiscard]] inline double portable_log(double x) noexcept {
    if (!(x > 0.0) || x > std::numeric_limits<double>::max()) {
        return x == 0.0  ? -std::numeric_limits<double>::infinity()
               : x > 0.0 ? x
                         : std::numeric_limits<double>::quiet_NaN();
    }
    int exponent = 0;
    if (x < std::numeric_limits<double>::min()) {
        x *= 0x1p54; // a subnormal number becomes a normal one
        exponent = -54;
    }
    const auto bits = std::bit_cast<std::uint64_t>(x);
    constexpr std::uint64_t sqrt_half = 0x3fe6a09e667f3bcdu;
    const auto shift = static_cast<std::int64_t>(bits - sqrt_half) >> 52;
    const double m = std::bit_cast<double>(bits - (static_cast<std::uint64_t>(shift) << 52));
    const double k = static_cast<double>(exponent + static_cast<int>(shift));
    const double f = m - 1.0;
    const double s = f / (2.0 + f);
    const double z = s * s;
    double series = 2.0 / 25.0;
    for (const double n : {23.0, 21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0}) {
        series = std::fma(series, z, 2.0 / n);
    }
    const double half_f = 0.5 * f;
    const double inner = std::fma(z, series, half_f * f);
    const double correction = std::fma(half_f, f, -std::fma(s, inner, k * ln2_low));
    return std::fma(k, ln2_high, f - correction);
}

} // namespace gpt2::detail
