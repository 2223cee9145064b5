// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/compiled.hpp"
#include "gpt2/constraint/pattern_reader.hpp"
#include "gpt2/constraint/syntax.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// The syntax of regular expressions. docs/constraints.md has the table.

namespace gpt2::detail {

/// Reads a regular expression.
class RegexParser {
public:
    explicit RegexParser(std::string_view text) : reader_("regex", text) {}

    [[nodiscard]] Syntax parse() && {
        (void)reader_.take("^"); // the whole text has to match anyway
        Syntax syntax{.what = "regex"};
        syntax.rules.push_back({"regex", choice()});
        if (!reader_.at_end()) {
            reader_.fail("a parenthesis that was opened before (\\) is the character)");
        }
        return syntax;
    }

private:
    using Kind = Expression::Kind;

    [[nodiscard]] Expression choice() {
        std::vector<Expression> parts;
        do {
            parts.push_back(sequence());
        } while (reader_.take("|"));
        return Expression::of_parts(Kind::choice, std::move(parts));
    }

    [[nodiscard]] Expression sequence() {
        std::vector<Expression> parts;
        while (!reader_.at_end() && !reader_.sees("|") && !reader_.sees(")")) {
            if (reader_.rest() == "$") { // as ^
                reader_.skip(1);
                break;
            }
            Expression part = atom();
            std::uint32_t min = 0;
            std::uint32_t max = 0;
            if (reader_.quantifier(min, max)) {
                if (reader_.sees("+")) {
                    reader_.fail("no possessive quantifier: they are not supported");
                }
                (void)reader_.take("?"); // lazy: the same texts
                part = Expression::repeated(std::move(part), min, max);
            }
            parts.push_back(std::move(part));
        }
        return parts.empty() ? Expression() : Expression::of_parts(Kind::sequence, std::move(parts));
    }

    [[nodiscard]] Expression atom() {
        if (reader_.take("(")) {
            return group();
        }
        if (reader_.take("[")) {
            return Expression::of_characters(
                read_class(reader_, [this](CodePointSet& set) { return escape(&set); }));
        }
        if (reader_.take(".")) {
            CodePointSet line_end;
            line_end.add('\n');
            return Expression::of_characters(line_end.complement());
        }
        if (reader_.take("\\")) {
            CodePointSet set;
            const std::optional<std::uint32_t> one = escape(&set);
            return one ? character(*one) : Expression::of_characters(set.tidy());
        }
        if (reader_.sees("^") || reader_.sees("$")) {
            reader_.fail(
                "^ at the begin and $ at the end of the pattern only, which always matches the whole "
                "text");
        }
        if (reader_.sees("*") || reader_.sees("+") || reader_.sees("?") || reader_.sees("{")) {
            reader_.fail("something to repeat before this, or a backslash");
        }
        return character(reader_.character("a character"));
    }

    [[nodiscard]] static Expression character(std::uint32_t code_point) {
        std::string bytes;
        append_utf8(bytes, code_point);
        return Expression::of_bytes(std::move(bytes));
    }

    /// The rest behind the parenthesis.
    [[nodiscard]] Expression group() {
        reader_.enter();
        if (reader_.sees("?=") || reader_.sees("?!") || reader_.sees("?<=") || reader_.sees("?<!")) {
            reader_.fail("no look-around, which is not supported");
        }
        if (reader_.take("?<") || reader_.take("?P<")) {
            const std::size_t end = reader_.rest().find('>');
            if (end == 0 || end == std::string_view::npos) {
                reader_.fail("the name of a group, and >");
            }
            reader_.skip(end + 1);
        } else if (!reader_.take("?:") && reader_.sees("?")) {
            reader_.fail("a group, (...), (?:...) or (?<name>...): flags and other kinds are not supported");
        }
        Expression inside = choice();
        reader_.require(")", ")");
        reader_.leave();
        return inside;
    }

    /// What stands behind a backslash. @returns the character if it means one, else adds to @p set
    [[nodiscard]] std::optional<std::uint32_t> escape(CodePointSet* set) {
        static constexpr std::string_view simple = "n\nt\tr\rf\fv\v";
        const std::string_view rest = reader_.rest();
        const char c = rest.empty() ? '\0' : rest.front();
        if (const std::size_t at = simple.find(c); !rest.empty() && at % 2 == 0) {
            reader_.skip(1);
            return static_cast<std::uint32_t>(simple[at + 1]);
        }
        if (const auto members = shorthand(c)) {
            reader_.skip(1);
            set->add(*members);
            return std::nullopt;
        }
        if (reader_.take("x")) {
            return reader_.hexadecimal(2);
        }
        if (reader_.take("u{")) {
            return reader_.hexadecimal(0);
        }
        if (reader_.take("u")) {
            return reader_.hexadecimal(4);
        }
        if ((c >= '1' && c <= '9') || c == 'k') {
            reader_.fail("no back-reference, which is not supported");
        }
        const bool is_punctuation = c > ' ' && c < 0x7f && !(c >= '0' && c <= '9') &&
                                    !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z');
        if (!is_punctuation && c != ' ') {
            reader_.fail("an escape: \\d \\w \\s \\D \\W \\S \\n \\t \\r \\f \\v \\xHH \\uHHHH \\u{H} or a "
                         "punctuation mark");
        }
        reader_.skip(1);
        return static_cast<std::uint32_t>(c);
    }

    /// The characters of \d, \w and \s, which are ASCII, or those that are not among them.
    [[nodiscard]] static std::optional<CodePointSet> shorthand(char letter) {
        CodePointSet set;
        switch (letter) {
        case 'w':
        case 'W':
            set.add('a', 'z');
            set.add('A', 'Z');
            set.add('_');
            [[fallthrough]];
        case 'd':
        case 'D':
            set.add('0', '9');
            break;
        case 's':
        case 'S':
            set.add('\t', '\r');
            set.add(' ');
            break;
        default:
            return std::nullopt;
        }
        return letter < 'a' ? set.complement() : set.tidy();
    }

    PatternReader reader_;
};

/// @throws OptionError  where it is wrong, and how
GPT2_HEAVY [[nodiscard]] Syntax parse_regex(std::string_view text) {
    return RegexParser(text).parse();
}

#if defined(GPT2_COMPILED)
GPT2_INSTANCE Syntax parse_regex<void>(std::string_view);
#endif

} // namespace gpt2::detail
