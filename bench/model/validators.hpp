// SPDX-License-Identifier: MIT
#pragma once

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <vector>

/// @file
/// What options may be.

namespace gpt2::bench::detail {

/// Accepts the names in @p known, and complains with the list of them.
inline CLI::Validator one_of(const std::vector<std::string>& known) {
    const auto check = [known](const std::string& name) -> std::string {
        if (std::find(known.begin(), known.end(), name) != known.end()) {
            return {};
        }
        std::string message = "expected";
        for (const std::string& other : known) {
            message += (other == known.front() ? " " : ", ") + other;
        }
        return message + "; found \"" + name + "\"";
    };
    return {check, ""};
}

/// Accepts whole numbers from @p least to @p most.
inline CLI::Validator within(std::size_t least, std::size_t most) {
    const auto check = [least, most](const std::string& text) -> std::string {
        std::size_t number = 0;
        if (CLI::detail::lexical_cast(text, number) && number >= least && number <= most) {
            return {};
        }
        return "expected a number from " + std::to_string(least) + " to " + std::to_string(most) +
               ", found \"" + text + "\"";
    };
    return {check, ""};
}

template <class T> void sort_and_unite(std::vector<T>& values) {
    const std::set<T> set(values.begin(), values.end());
    values.assign(set.begin(), set.end());
}

} // namespace gpt2::bench::detail
