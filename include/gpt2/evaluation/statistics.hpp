// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/error.hpp"
#include "gpt2/math.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

/// @file
/// Averages over tokens, and how far they can be trusted. Logarithms are natural; a standard error counts
/// what it averages as independent. All functions are thread-safe.

namespace gpt2::evaluation {

/// A number and its standard error, in the same unit.
struct Estimate {
    double value = 0.0;
    double standard_error = 0.0;
};

/// Mean and variance of numbers that come one at a time (Welford, "Note on a method for calculating corrected
/// sums of squares and products", Technometrics 1962). The members are the whole state: whoever stores them
/// and goes on later gets the same bits. One caller at a time.
struct RunningStatistics {
    std::uint64_t count = 0;
    double mean = 0.0;
    double squares = 0.0; ///< sum of the squared distances from the mean

    void add(double x) noexcept {
        ++count;
        const double before = x - mean;
        mean += before / static_cast<double>(count);
        squares = std::fma(before, x - mean, squares);
    }

    [[nodiscard]] double total() const noexcept { return mean * static_cast<double>(count); }

    /// Of the population that the numbers are a sample of (divided by n - 1); 0 for fewer than two.
    [[nodiscard]] double variance() const noexcept {
        return count < 2 ? 0.0 : squares / static_cast<double>(count - 1);
    }

    /// Of the mean; 0 for fewer than two.
    [[nodiscard]] double standard_error() const noexcept {
        return count == 0 ? 0.0 : std::sqrt(variance() / static_cast<double>(count));
    }

    [[nodiscard]] Estimate estimate() const noexcept { return {mean, standard_error()}; }

    friend bool operator==(const RunningStatistics&, const RunningStatistics&) = default;
};

/// e^mean. To first order the error of e^m is e^m times that of m. With negative log-likelihoods of tokens it
/// is their perplexity; with those of a candidate less those of a reference, token by token, it is the ratio
/// of the two perplexities, whose error is small because both meet the same hard tokens.
[[nodiscard]] inline Estimate exponential(const RunningStatistics& x) noexcept {
    const double value = detail::portable_exp(x.mean);
    return {value, value * x.standard_error()};
}

/// A share, and the standard error of the binomial distribution, sqrt(p (1 - p) / n).
/// @param n  0 gives 0
[[nodiscard]] inline Estimate proportion(std::uint64_t successes, std::uint64_t n) noexcept {
    if (n == 0) {
        return {};
    }
    const double p = static_cast<double>(successes) / static_cast<double>(n);
    return {p, std::sqrt(p * (1.0 - p) / static_cast<double>(n))};
}

/// The number below which @p share of the numbers lie: linear between the two nearest (Hyndman and Fan,
/// "Sample Quantiles in Statistical Packages", 1996, definition 7, numpy's default).
/// @param sorted  ascending, not empty
/// @param share   0 to 1
/// @throws OptionError for anything else
[[nodiscard]] inline double percentile(std::span<const double> sorted, double share) {
    if (sorted.empty() || !(share >= 0.0 && share <= 1.0)) {
        throw OptionError(detail::concat("percentile: expected numbers and a share from 0 to 1, found ",
                                         sorted.size(), " numbers and a share of ", share));
    }
    const double place = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    return std::lerp(sorted[below], sorted[above], place - static_cast<double>(below));
}

} // namespace gpt2::evaluation
