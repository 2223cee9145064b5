// SPDX-License-Identifier: MIT
#pragma once

#include <gpt2/evaluation/statistics.hpp>

#include <cstdio>
#include <string>

/// @file
/// Numbers as text.

/// As printf, at most 511 bytes.
template <class... Values> [[nodiscard]] std::string format(const char* pattern, Values... values) {
    char line[512];
    std::snprintf(line, sizeof line, pattern, values...);
    return line;
}

/// "39.23 ± 0.45".
[[nodiscard]] inline std::string with_error(const gpt2::evaluation::Estimate& x, int digits) {
    return format("%.*f ± %.*f", digits, x.value, digits, x.standard_error);
}

/// A share as "98.12 ± 0.15 %".
[[nodiscard]] inline std::string percent(const gpt2::evaluation::Estimate& x) {
    return format("%.2f ± %.2f %%", 100.0 * x.value, 100.0 * x.standard_error);
}
