// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>

/// @file
/// Random numbers as a function of (seed, sample, draw), without state.
///
/// The generator is Philox4x32 with 10 rounds: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw,
/// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011. It uses nothing but unsigned integers of
/// fixed width, and the step from integer to double is exact, so that a seed gives the same numbers
/// with every compiler on every machine.
///
///     key      = (low, high 32 bits of the seed)
///     counter  = (low, high 32 bits of the draw, low, high 32 bits of the sample)
///     w        = Philox4x32-10(counter, key)
///     uniform  = floor((w[1] * 2^32 + w[0]) / 2^11) * 2^-53
///
/// and the same with w[3] and w[2] for the second number of a draw.

namespace gpt2 {

namespace detail {

/// One block of Philox4x32-10. Source of the constants: the paper, table 2 and section 3.1.
[[nodiscard]] constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                                std::array<std::uint32_t, 2> key) noexcept {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
                   static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
        key[0] += 0x9E3779B9; // the golden ratio
        key[1] += 0xBB67AE85; // sqrt(3) - 1
    }
    return counter;
}

/// Words 2 @p pair and the next of the block of a draw as a number in [0, 1).
[[nodiscard]] constexpr double uniform(std::uint64_t seed, std::uint64_t sample, std::uint64_t draw,
                                       std::size_t pair) noexcept {
    const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
    const auto words =
        philox4x32({low(draw), high(draw), low(sample), high(sample)}, {low(seed), high(seed)});
    const std::uint64_t bits = (std::uint64_t{words[2 * pair + 1]} << 32) | words[2 * pair];
    return static_cast<double>(bits >> 11) * 0x1p-53;
}

} // namespace detail

/// A number in [0, 1), a multiple of 2^-53. The same arguments give the same number everywhere;
/// different arguments give independent ones. Thread-safe.
/// @param seed    chosen by the user
/// @param sample  which of the texts that share the seed
/// @param draw    which draw within the text, counted from 0
[[nodiscard]] constexpr double uniform(std::uint64_t seed, std::uint64_t sample,
                                       std::uint64_t draw) noexcept {
    return detail::uniform(seed, sample, draw, 0);
}

/// Another number of the same draw, independent of uniform(). Thread-safe.
[[nodiscard]] constexpr double second_uniform(std::uint64_t seed, std::uint64_t sample,
                                              std::uint64_t draw) noexcept {
    return detail::uniform(seed, sample, draw, 1);
}

/// A seed nobody chose, from the operating system. Thread-safe.
[[nodiscard]] inline std::uint64_t fresh_seed() {
    std::random_device device;
    const std::uint64_t high = device() & 0xFFFFFFFFu;
    return (high << 32) | (device() & 0xFFFFFFFFu);
}

} // namespace gpt2
