// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

/// @file
/// Medians and spreads.

namespace gpt2::bench {

/// The value below which a share @p q of the values lies, interpolated between neighbours (type 7 of Hyndman
/// and Fan 1996, "Sample quantiles in statistical packages"); NaN for none.
[[nodiscard]] inline double quantile(std::vector<double> values, double q) {
    if (values.empty()) {
        return std::nan("");
    }
    std::sort(values.begin(), values.end());
    const double place = q * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], place - static_cast<double>(below));
}

/// What is reported of the rounds of one case.
struct Summary {
    double median, min, lower_quartile, upper_quartile, max;
};

[[nodiscard]] inline Summary summarize(const std::vector<double>& values) {
    return {quantile(values, 0.5), quantile(values, 0.0), quantile(values, 0.25), quantile(values, 0.75),
            quantile(values, 1.0)};
}

} // namespace gpt2::bench
