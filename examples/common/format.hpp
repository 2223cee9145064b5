// SPDX-License-Identifier: MIT
#pragma once

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
