// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

/// @file
/// Tables, and the numbers in them.

namespace gpt2::bench {

namespace detail {

/// Three significant digits, but all digits of whole numbers: 0.0123, 1.23, 12.3, 123, 1234.
inline std::string number(double x) {
    const double magnitude = std::fabs(x);
    const int decimals = magnitude >= 99.95 || magnitude == 0.0 ? 0
                         : magnitude >= 9.995                   ? 1
                         : magnitude >= 0.9995                  ? 2
                                                                : 3;
    char text[64];
    std::snprintf(text, sizeof text, "%.*f", decimals, x);
    return text;
}

inline std::string percent(double share) {
    char text[32];
    std::snprintf(text, sizeof text, "%.0f %%", share * 100.0);
    return text;
}

} // namespace detail

/// Rows of cells, the first the headings.
using Table = std::vector<std::vector<std::string>>;

/// Columns padded to one width, the first @p n_left to the left, the others to the right.
[[nodiscard]] inline std::string aligned(const Table& table, std::size_t n_left) {
    std::vector<std::size_t> widths;
    for (const auto& row : table) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t i = 0; i < row.size(); ++i) {
            widths[i] = std::max(widths[i], row[i].size());
        }
    }
    std::string text;
    for (const auto& row : table) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i) {
            const std::string space(widths[i] - row[i].size(), ' ');
            line += (i == 0 ? "" : "  ") + (i < n_left ? row[i] + space : space + row[i]);
        }
        text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
    return text;
}

/// The same in Markdown.
[[nodiscard]] inline std::string markdown(const Table& table, std::size_t n_left) {
    std::string text;
    for (std::size_t i = 0; i < table.size(); ++i) {
        text += "|";
        for (const std::string& cell : table[i]) {
            text += " " + cell + " |";
        }
        text += "\n";
        if (i == 0) {
            text += "|";
            for (std::size_t column = 0; column < table[0].size(); ++column) {
                text += column < n_left ? "---|" : "---:|";
            }
            text += "\n";
        }
    }
    return text;
}

} // namespace gpt2::bench
