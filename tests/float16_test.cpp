// SPDX-License-Identifier: MIT
// half and bfloat16: every pattern, and rounding against a plain reference.
#include "support/kernel_fixture.hpp"

#include <gpt2/float16.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace {

using gpt2::bfloat16;
using gpt2::half;

constexpr float infinity = std::numeric_limits<float>::infinity();

template <class Type> Type from_bits(unsigned bits) {
    Type value;
    value.bits = static_cast<std::uint16_t>(bits);
    return value;
}

/// Value of a binary format with an implicit leading one, from the definition.
double decode(unsigned bits, int exponent_bits, int mantissa_bits) {
    const unsigned mantissa = bits & ((1u << mantissa_bits) - 1u);
    const auto exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1u));
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const double fraction = std::ldexp(static_cast<double>(mantissa), -mantissa_bits);
    const double magnitude =
        exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias);
    return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

/// To the nearest multiple of the format's step at x, ties to even: exact in double.
double round_to(double x, int lowest_exponent, int mantissa_bits, double largest) {
    if (x == 0.0) {
        return x;
    }
    const double step = std::ldexp(1.0, std::max(std::ilogb(x), lowest_exponent) - mantissa_bits);
    const double rounded = std::nearbyint(x / step) * step;
    return std::fabs(rounded) > largest ? std::copysign(static_cast<double>(infinity), x) : rounded;
}

bool same(float a, double b) {
    return static_cast<double>(a) == b && std::signbit(a) == std::signbit(b);
}

bool half_rounds(float x) {
    return same(static_cast<float>(half(x)), round_to(static_cast<double>(x), -14, 10, 65504.0));
}
bool bfloat16_rounds(float x) {
    const auto largest = static_cast<double>(static_cast<float>(from_bits<bfloat16>(0x7f7f)));
    return same(static_cast<float>(bfloat16(x)), round_to(static_cast<double>(x), -126, 7, largest));
}

TEST_CASE("every half: the value that IEEE 754 gives it, and back to the same bits") {
    std::size_t wrong = 0;
    for (unsigned bits = 0; bits < 65536; ++bits) {
        const auto value = static_cast<float>(from_bits<half>(bits));
        if ((bits & 0x7c00u) != 0x7c00u) {
            wrong += same(value, decode(bits, 5, 10)) && half(value).bits == bits ? 0 : 1;
        } else if ((bits & 0x3ffu) == 0) {
            wrong +=
                value == ((bits & 0x8000u) != 0 ? -infinity : infinity) && half(value).bits == bits ? 0 : 1;
        } else { // NaN becomes quiet, keeps sign and payload
            wrong += std::isnan(value) && half(value).bits == (bits | 0x200u) ? 0 : 1;
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("every bfloat16: the upper half of a float, and back to the same bits") {
    std::size_t wrong = 0;
    for (unsigned bits = 0; bits < 65536; ++bits) {
        const auto value = static_cast<float>(from_bits<bfloat16>(bits));
        if ((bits & 0x7f80u) != 0x7f80u) {
            wrong += same(value, decode(bits, 8, 7)) && bfloat16(value).bits == bits ? 0 : 1;
        } else if ((bits & 0x7fu) == 0) {
            wrong += value == ((bits & 0x8000u) != 0 ? -infinity : infinity) && bfloat16(value).bits == bits
                         ? 0
                         : 1;
        } else {
            wrong += std::isnan(value) && bfloat16(value).bits == (bits | 0x40u) ? 0 : 1;
        }
    }
    CHECK(wrong == 0);
}

/// Between each two neighbours: the middle, a tie, and the floats around it.
template <class Type> std::size_t wrong_ties(unsigned infinity_bits, bool (*rounds)(float)) {
    std::size_t wrong = 0;
    for (unsigned bits = 0; bits + 1 < infinity_bits; ++bits) {
        const auto low = static_cast<float>(from_bits<Type>(bits));
        const auto high = static_cast<float>(from_bits<Type>(bits + 1));
        const float middle = low + (high - low) / 2;
        for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, infinity)}) {
            wrong += (rounds(x) ? 0 : 1) + (rounds(-x) ? 0 : 1);
        }
    }
    return wrong;
}

TEST_CASE("rounding: ties, and next to ties") {
    CHECK(wrong_ties<half>(0x7c00, half_rounds) == 0);
    CHECK(wrong_ties<bfloat16>(0x7f80, bfloat16_rounds) == 0);
}

TEST_CASE("rounding: any floats") {
    gpt2::test::Numbers numbers(16);
    std::size_t wrong = 0;
    for (int i = 0; i < 300'000; ++i) {
        const auto word = static_cast<std::uint32_t>(numbers.bits());
        const auto x = std::bit_cast<float>(word);
        if (std::isfinite(x)) {
            wrong += (half_rounds(x) ? 0 : 1) + (bfloat16_rounds(x) ? 0 : 1);
        } else {
            wrong += std::isnan(static_cast<float>(half(x))) == std::isnan(x) ? 0 : 1;
            wrong += std::isnan(static_cast<float>(bfloat16(x))) == std::isnan(x) ? 0 : 1;
        }
        // Few of those are in half's range: the same mantissa with an exponent that is.
        const std::uint32_t exponent = 127u - 26u + (word >> 8) % 44u;
        const auto near = std::bit_cast<float>((word & 0x807fffffu) | (exponent << 23));
        wrong += half_rounds(near) ? 0 : 1;
    }
    CHECK(wrong == 0);
}

TEST_CASE("rounding: where the range ends") {
    CHECK(half(65504.0f).bits == 0x7bff);
    CHECK(half(65519.996f).bits == 0x7bff);
    CHECK(half(65520.0f).bits == 0x7c00);
    CHECK(half(-65520.0f).bits == 0xfc00);
    CHECK(half(std::numeric_limits<float>::max()).bits == 0x7c00);
    CHECK(half(0x1p-24f).bits == 1);
    CHECK(half(0x1p-25f).bits == 0); // a tie, to even
    CHECK(half(std::nextafter(0x1p-25f, 1.0f)).bits == 1);
    CHECK(half(-0x1p-26f).bits == 0x8000);
    CHECK(half(std::numeric_limits<float>::denorm_min()).bits == 0);
    CHECK(bfloat16(std::numeric_limits<float>::max()).bits == 0x7f80);
    CHECK(bfloat16(std::numeric_limits<float>::denorm_min()).bits == 0);
}

} // namespace
