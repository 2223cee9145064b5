// SPDX-License-Identifier: MIT
#pragma once

#include "../common/format.hpp"

#include <gpt2/evaluation/statistics.hpp>

#include <string>

/// @file
/// Estimates as text.

/// "39.23 ± 0.45".
[[nodiscard]] inline std::string with_error(const gpt2::evaluation::Estimate& x, int digits) {
    return format("%.*f ± %.*f", digits, x.value, digits, x.standard_error);
}

/// A share as "98.12 ± 0.15 %".
[[nodiscard]] inline std::string percent(const gpt2::evaluation::Estimate& x) {
    return format("%.2f ± %.2f %%", 100.0 * x.value, 100.0 * x.standard_error);
}
