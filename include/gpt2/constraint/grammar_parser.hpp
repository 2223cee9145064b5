// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/constraint/pattern_reader.hpp"
#include "gpt2/constraint/syntax.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The syntax of grammars, which is llama.cpp's GBNF (its grammars/README.md). docs/constraints.md has the
/// table.

namespace gpt2::detail {

/// Reads a grammar.
class GrammarParser {
public:
    explicit GrammarParser(std::string_view text) : reader_("grammar", text) {}

    [[nodiscard]] Syntax parse() && {
        skip_space();
        while (!reader_.at_end()) {
            rule();
        }
        for (std::size_t i = 0; i < syntax_.rules.size(); ++i) {
            if (!is_defined_[i]) {
                throw OptionError(concat("grammar: expected a rule ", detail::quoted(syntax_.rules[i].name),
                                         ", which is used, found none"));
            }
        }
        const auto root = numbers_.find("root");
        if (root == numbers_.end()) {
            throw OptionError("grammar: expected a rule \"root\", where the text begins, found none");
        }
        syntax_.root = root->second;
        return std::move(syntax_);
    }

private:
    using Kind = Expression::Kind;

    void rule() {
        const std::string_view name = name_here();
        if (name.empty()) {
            reader_.fail("the name of a rule");
        }
        const std::size_t number = number_of(name);
        if (is_defined_[number]) {
            reader_.fail("a rule that was not defined before");
        }
        is_defined_[number] = true;
        reader_.skip(name.size());
        skip_space();
        reader_.require("::=", "::=");
        skip_space();
        Expression body = choice();
        if (!reader_.at_end() && !at_rule()) {
            reader_.fail("a literal, a class, a rule, a group or |");
        }
        syntax_.rules[number].body = std::move(body);
    }

    [[nodiscard]] Expression choice() {
        std::vector<Expression> parts;
        do {
            skip_space();
            parts.push_back(sequence());
        } while (reader_.take("|"));
        return Expression::of_parts(Kind::choice, std::move(parts));
    }

    [[nodiscard]] Expression sequence() {
        std::vector<Expression> parts;
        while (std::optional<Expression> part = atom()) {
            skip_space();
            std::uint32_t min = 0;
            std::uint32_t max = 0;
            while (reader_.quantifier(min, max)) {
                reader_.enter(); // not a group, but it nests like one
                ++nested_;
                part = Expression::repeated(std::move(*part), min, max);
                skip_space();
            }
            for (; nested_ > 0; --nested_) {
                reader_.leave();
            }
            parts.push_back(std::move(*part));
        }
        return parts.empty() ? Expression() : Expression::of_parts(Kind::sequence, std::move(parts));
    }

    /// Nothing where none begins.
    [[nodiscard]] std::optional<Expression> atom() {
        if (reader_.take("\"")) {
            return literal();
        }
        if (reader_.take("[")) {
            return Expression::of_characters(
                read_class(reader_, [this](CodePointSet&) { return std::optional(escape()); }));
        }
        if (reader_.take(".")) {
            return Expression::of_characters(CodePointSet().complement());
        }
        if (reader_.take("(")) {
            reader_.enter();
            Expression inside = choice();
            reader_.require(")", ")");
            reader_.leave();
            return inside;
        }
        const std::string_view name = name_here();
        if (name.empty() || at_rule()) {
            return std::nullopt;
        }
        reader_.skip(name.size());
        return Expression::of_rule(number_of(name));
    }

    [[nodiscard]] Expression literal() {
        std::string bytes;
        while (!reader_.take("\"")) {
            append_utf8(bytes, reader_.take("\\") ? escape() : reader_.character("\""));
        }
        return Expression::of_bytes(std::move(bytes));
    }

    /// The character that stands behind a backslash.
    [[nodiscard]] std::uint32_t escape() {
        static constexpr std::string_view simple = "n\nt\tr\r\"\"\\\\[[]]--^^";
        const std::string_view rest = reader_.rest();
        for (std::size_t i = 0; i < simple.size() && !rest.empty(); i += 2) {
            if (rest.front() == simple[i]) {
                reader_.skip(1);
                return static_cast<std::uint32_t>(simple[i + 1]);
            }
        }
        if (reader_.take("x")) {
            return reader_.hexadecimal(2);
        }
        if (reader_.take("u")) {
            return reader_.hexadecimal(4);
        }
        if (reader_.take("U")) {
            return reader_.hexadecimal(8);
        }
        reader_.fail("an escape: \\n \\t \\r \\\" \\\\ \\[ \\] \\- \\^ \\xHH \\uHHHH or \\UHHHHHHHH");
    }

    [[nodiscard]] std::string_view name_here() const noexcept {
        const std::string_view rest = reader_.rest();
        const auto end = std::ranges::find_if_not(rest, [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                   c == '_';
        });
        return rest.substr(0, static_cast<std::size_t>(end - rest.begin()));
    }

    /// Whether a rule begins here: a name and ::=.
    [[nodiscard]] bool at_rule() const {
        PatternReader ahead = reader_;
        const std::size_t size = name_here().size();
        ahead.skip(size);
        skip_space(ahead);
        return size > 0 && ahead.sees("::=");
    }

    [[nodiscard]] std::size_t number_of(std::string_view name) {
        const auto [found, is_new] = numbers_.try_emplace(std::string(name), syntax_.rules.size());
        if (is_new) {
            syntax_.rules.push_back({found->first});
            is_defined_.push_back(false);
        }
        return found->second;
    }

    void skip_space() { skip_space(reader_); }

    /// White space, line ends and comments.
    static void skip_space(PatternReader& reader) {
        while (!reader.at_end()) {
            const std::string_view rest = reader.rest();
            if (rest.front() == '#') {
                reader.skip(std::min(rest.find('\n'), rest.size()));
            } else if (rest.front() == ' ' || (rest.front() >= '\t' && rest.front() <= '\r')) {
                reader.skip(1);
            } else {
                return;
            }
        }
    }

    PatternReader reader_;
    Syntax syntax_;
    std::map<std::string, std::size_t, std::less<>> numbers_; ///< of rules by name
    std::vector<bool> is_defined_;
    std::size_t nested_ = 0; ///< repetitions of repetitions
};

/// @throws OptionError  where it is wrong, and how
GPT2_HEAVY [[nodiscard]] Syntax parse_grammar(std::string_view text) {
    return GrammarParser(text).parse();
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE Syntax parse_grammar<void>(std::string_view);
#endif

} // namespace gpt2::detail
