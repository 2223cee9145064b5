// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/constraint/code_points.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

/// @file
/// What regular expressions and grammars say, as a tree.

namespace gpt2::detail {

/// A set of texts. A tree as deep as the groups of a pattern, which its reader limits.
struct Expression {
    enum class Kind : std::uint8_t {
        bytes,      ///< these, which may be none
        characters, ///< one of a set
        rule,       ///< what a rule says
        sequence,   ///< one of each part, one after the other
        choice,     ///< one of one part
        repeat,     ///< min to max of parts[0], one after the other
    };

    static constexpr std::uint32_t no_limit = std::numeric_limits<std::uint32_t>::max();

    Kind kind = Kind::bytes;
    std::string bytes{};
    CodePointSet characters{}; ///< tidy, not empty
    std::size_t rule = 0;      ///< number among Syntax::rules
    std::uint32_t min = 0;
    std::uint32_t max = 0;
    std::vector<Expression> parts{};

    [[nodiscard]] static Expression of_bytes(std::string bytes) {
        return {.kind = Kind::bytes, .bytes = std::move(bytes)};
    }
    [[nodiscard]] static Expression of_characters(CodePointSet characters) {
        return {.kind = Kind::characters, .characters = std::move(characters)};
    }
    [[nodiscard]] static Expression of_rule(std::size_t rule) { return {.kind = Kind::rule, .rule = rule}; }
    [[nodiscard]] static Expression repeated(Expression part, std::uint32_t min, std::uint32_t max) {
        Expression out{.kind = Kind::repeat, .min = min, .max = max};
        out.parts.push_back(std::move(part));
        return out;
    }
    /// @param kind  sequence or choice
    [[nodiscard]] static Expression of_parts(Kind kind, std::vector<Expression> parts) {
        if (parts.size() == 1) {
            return std::move(parts.front());
        }
        return {.kind = kind, .parts = std::move(parts)};
    }
};

/// A rule of a grammar.
struct Rule {
    std::string name;
    Expression body{};
};

/// A grammar; a regular expression is one with a single rule.
struct Syntax {
    const char* what = "grammar"; ///< what messages call it
    std::vector<Rule> rules{};
    std::size_t root = 0; ///< the rule that is the whole text
};

} // namespace gpt2::detail
