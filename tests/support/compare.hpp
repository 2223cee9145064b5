// SPDX-License-Identifier: MIT
#pragma once

#include "bounded.hpp"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sstream>
#include <string>

/// @file
/// Comparators. Each returns what is wrong, or nothing: `CHECK(mismatch(found, expected) == "")`. NaN and
/// infinity are refused first, on either side: they compare in surprising ways.

namespace gpt2::test {

namespace detail {

template <class Expected>
[[nodiscard]] std::string describe(std::size_t i, float found, const Expected& expected) {
    std::ostringstream out;
    out.precision(9);
    out << "element " << i << ": found " << found << ", expected " << expected;
    return std::move(out).str();
}

[[nodiscard]] inline std::string check_sizes(std::size_t found, std::size_t expected) {
    std::ostringstream out;
    if (found != expected || found == 0) {
        out << "found " << found << " elements, expected " << expected << ", at least one";
    }
    return std::move(out).str();
}

} // namespace detail

/// Equal to the last bit.
[[nodiscard]] inline std::string mismatch(std::span<const float> found, std::span<const float> expected) {
    if (std::string sizes = detail::check_sizes(found.size(), expected.size()); !sizes.empty()) {
        return sizes;
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (!std::isfinite(found[i]) || !std::isfinite(expected[i]) ||
            std::bit_cast<std::uint32_t>(found[i]) != std::bit_cast<std::uint32_t>(expected[i])) {
            return detail::describe(i, found[i], expected[i]);
        }
    }
    return {};
}

/// Within the error bounds.
[[nodiscard]] inline std::string mismatch(std::span<const float> found, std::span<const Bounded> expected) {
    if (std::string sizes = detail::check_sizes(found.size(), expected.size()); !sizes.empty()) {
        return sizes;
    }
    for (std::size_t i = 0; i < found.size(); ++i) {
        const auto [value, error] = expected[i];
        if (!std::isfinite(found[i]) || !std::isfinite(value) || !std::isfinite(error) ||
            !(std::fabs(static_cast<double>(found[i]) - value) <= error)) {
            std::ostringstream out;
            out.precision(9);
            out << value << " within " << error;
            return detail::describe(i, found[i], out.str());
        }
    }
    return {};
}

} // namespace gpt2::test
