// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// @file
/// Finds how far down a list of tokens one has to go to collect a share of the probability, without sorting.

namespace gpt2::sampling {

/// The bits of a float >= 0: a whole number that sorts as the float does.
[[nodiscard]] inline std::uint32_t sort_key(float x) noexcept {
    return std::bit_cast<std::uint32_t>(x);
}

/// Where a MassSearch ends.
struct MassCut {
    std::uint32_t key = 0; ///< the key at which the mass is reached
    double above = 0.0;    ///< the mass of all larger keys, less than what was looked for
    /// The mass was missed by rounding, as the parts came out smaller than the whole: all keys from `key` up
    /// belong to it.
    bool is_missed = false;
};

/// The key at which tokens, taken by falling key, first hold a given mass. Nothing is sorted: a radix search
/// over the bits of the keys sums what lies in each range, from the top, and goes into the range where the
/// mass is reached. Sums run in the order of the tokens.
class MassSearch {
public:
    MassSearch() : mass_(std::size_t{1} << widest) {}

    /// @param weights >= 0
    /// @param target  the mass to reach
    /// @param key     the key of token i, below 2^31
    template <class Key> [[nodiscard]] MassCut find(std::span<const float> weights, double target, Key key) {
        double above = 0.0;
        std::uint32_t prefix = 0;
        // 31 bits: of a float below the sign 8 of the exponent and 3 of the fraction, then 10 and 10.
        for (const auto& [shift, width] : {Level{20, widest}, Level{10, 10}, Level{0, 10}}) {
            sum_ranges(weights, prefix, shift, width, key);
            std::uint32_t range = std::uint32_t{1} << width;
            while (range > 0 && !(mass_[range - 1] > 0.0 && above + mass_[range - 1] >= target)) {
                above += mass_[--range];
            }
            if (range == 0) {
                return {prefix << (shift + width), above, true};
            }
            prefix = (prefix << width) | (range - 1);
        }
        return {prefix, above};
    }

private:
    struct Level {
        unsigned shift;
        unsigned width;
    };
    static constexpr unsigned widest = 11;

    /// mass_[i] = sum of the weights, in the order of tokens, whose bits of the key above `shift` are
    /// (prefix, i).
    template <class Key>
    void sum_ranges(std::span<const float> weights, std::uint32_t prefix, unsigned shift, unsigned width,
                    Key key) {
        const std::uint32_t ranges = std::uint32_t{1} << width;
        std::fill_n(mass_.begin(), ranges, 0.0);
        for (std::size_t i = 0; i < weights.size(); ++i) {
            const std::uint32_t bits = key(i) >> shift;
            if ((bits >> width) == prefix) {
                mass_[bits & (ranges - 1)] += static_cast<double>(weights[i]);
            }
        }
    }

    std::vector<double> mass_;
};

} // namespace gpt2::sampling
