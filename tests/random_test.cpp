// SPDX-License-Identifier: MIT
#include "gpt2/random.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

using Words = std::array<std::uint32_t, 4>;

// Source: Random123 (https://github.com/DEShawResearch/random123), tests/kat_vectors, "philox4x32 10".
TEST_CASE("philox4x32-10 gives the published answers") {
    using gpt2::detail::philox4x32;
    CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
          Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
          Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform is the documented function of the block") {
    // 0xe169c58d6627e8d5 >> 11, exact in a double
    CHECK(gpt2::uniform(0, 0, 0) == std::ldexp(static_cast<double>(0xe169c58d6627e8d5u >> 11), -53));
    // The pi vector above, taken apart into (seed, sample, draw).
    CHECK(gpt2::uniform(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) ==
          std::ldexp(static_cast<double>(0x94fdccebd16cfe09u >> 11), -53));
    static_assert(gpt2::uniform(42, 0, 0) >= 0.0);
}

TEST_CASE("second_uniform is the other half of the block, and independent of the first") {
    CHECK(gpt2::second_uniform(0, 0, 0) == std::ldexp(static_cast<double>(0x9b00dbd8bc57ac4cu >> 11), -53));
    CHECK(gpt2::second_uniform(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) ==
          std::ldexp(static_cast<double>(0x24126ea15001e420u >> 11), -53));
    // Both in tenths: a table of 100 cells, all as frequent.
    constexpr std::size_t n = 100000;
    std::vector<double> counts(100);
    for (std::uint64_t i = 0; i < n; ++i) {
        const auto row = static_cast<std::size_t>(gpt2::uniform(7, 0, i) * 10.0);
        const auto column = static_cast<std::size_t>(gpt2::second_uniform(7, 0, i) * 10.0);
        counts[10 * row + column] += 1.0;
    }
    double chi_square = 0.0;
    for (const double count : counts) {
        chi_square += (count - n / 100) * (count - n / 100) / (n / 100);
    }
    CHECK(chi_square > 99.0 - 3.5 * 14.0);
    CHECK(chi_square < 99.0 + 3.5 * 14.0);
}

TEST_CASE("uniform stays in [0, 1) and every argument matters") {
    std::set<double> seen;
    for (std::uint64_t seed : {0ull, 1ull, 1ull << 32, ~0ull}) {
        for (std::uint64_t sample : {0ull, 1ull, 1ull << 32, ~0ull}) {
            for (std::uint64_t draw : {0ull, 1ull, 1ull << 32, ~0ull}) {
                const double u = gpt2::uniform(seed, sample, draw);
                CHECK(u >= 0.0);
                CHECK(u < 1.0);
                seen.insert(u);
            }
        }
    }
    CHECK(seen.size() == 64);
}

TEST_CASE("uniform fills [0, 1) evenly, draw by draw and sample by sample") {
    constexpr std::size_t cells = 100;
    constexpr std::size_t n = 100000;
    std::vector<double> by_draw(cells);
    std::vector<double> by_sample(cells);
    for (std::uint64_t i = 0; i < n; ++i) {
        by_draw[static_cast<std::size_t>(gpt2::uniform(7, 0, i) * cells)] += 1.0;
        by_sample[static_cast<std::size_t>(gpt2::uniform(7, i, 3) * cells)] += 1.0;
    }
    for (const auto& counts : {by_draw, by_sample}) {
        double chi_square = 0.0;
        for (const double count : counts) {
            chi_square += (count - n / cells) * (count - n / cells) / (n / cells);
        }
        // 99 degrees of freedom: mean 99, standard deviation 14
        CHECK(chi_square > 99.0 - 3.5 * 14.0);
        CHECK(chi_square < 99.0 + 3.5 * 14.0);
    }
}

TEST_CASE("fresh seeds differ") {
    CHECK(gpt2::fresh_seed() != gpt2::fresh_seed());
}
