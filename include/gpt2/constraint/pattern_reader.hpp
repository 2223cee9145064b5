// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/constraint/code_points.hpp"
#include "gpt2/constraint/syntax.hpp"
#include "gpt2/error.hpp"
#include "gpt2/utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// @file
/// What the readers of regular expressions and of grammars share: characters, numbers, classes, messages.

namespace gpt2::detail {

/// What patterns may be, so that reading and running them ends soon, whatever they are.
struct PatternLimits {
    static constexpr std::size_t bytes = 65'536;   ///< of the text of a pattern
    static constexpr std::size_t groups = 200;     ///< inside each other
    static constexpr std::uint32_t count = 65'536; ///< in {m,n}
};

/// The text of a pattern, from the first character to the last.
class PatternReader {
public:
    /// @param what  what messages call the pattern
    /// @throws OptionError for one that is too long
    PatternReader(const char* what, std::string_view text) : what_(what), text_(text) {
        if (text.size() > PatternLimits::bytes) {
            throw OptionError(
                concat(what, ": expected at most ", PatternLimits::bytes, " bytes, found ", text.size()));
        }
    }

    [[nodiscard]] bool at_end() const noexcept { return at_ == text_.size(); }
    [[nodiscard]] std::size_t position() const noexcept { return at_; }
    [[nodiscard]] std::string_view rest() const noexcept { return text_.substr(at_); }
    [[nodiscard]] bool sees(std::string_view prefix) const noexcept { return rest().starts_with(prefix); }
    void skip(std::size_t n) noexcept { at_ += n; }

    [[nodiscard]] bool take(std::string_view prefix) noexcept {
        const bool found = sees(prefix);
        at_ += found ? prefix.size() : 0;
        return found;
    }

    void require(std::string_view prefix, std::string_view expected) {
        if (!take(prefix)) {
            fail(expected);
        }
    }

    /// The next character. @param expected  what it should be, for the message at the end of the text
    [[nodiscard]] std::uint32_t character(std::string_view expected) {
        if (at_end()) {
            fail(expected);
        }
        const Utf8Char c = decode_utf8(rest());
        if (c.status != Utf8Status::valid) {
            fail("UTF-8");
        }
        at_ += c.size;
        return c.code_point;
    }

    /// A character as \xHH, \uHHHH, \UHHHHHHHH and \u{H...} give it, behind the letter.
    /// @param n_digits  0: as many as there are, between braces
    [[nodiscard]] std::uint32_t hexadecimal(std::size_t n_digits) {
        const std::size_t begin = at_;
        std::uint32_t value = 0;
        std::size_t n = 0;
        for (; !at_end() && (n_digits == 0 ? n < 8 : n < n_digits); ++n, ++at_) {
            const int digit = hex_digit(text_[at_]);
            if (digit < 0) {
                break;
            }
            value = value << 4 | static_cast<std::uint32_t>(digit);
        }
        if (n == 0 || n < n_digits) {
            fail(n_digits == 0 ? "hexadecimal digits" : concat(n_digits, " hexadecimal digits"));
        }
        if (n_digits == 0) {
            require("}", "}");
        }
        if (value > CodePointSet::largest || (value >= 0xd800 && value < 0xe000)) {
            at_ = begin;
            fail("the number of a character, up to 10FFFF and no surrogate");
        }
        return value;
    }

    /// What repeats the expression before it: *, +, ?, {m}, {m,} or {m,n}. @returns whether there is one
    [[nodiscard]] bool quantifier(std::uint32_t& min, std::uint32_t& max) {
        if (take("*") || take("+")) {
            min = text_[at_ - 1] == '+' ? 1 : 0;
            max = Expression::no_limit;
            return true;
        }
        if (take("?")) {
            min = 0;
            max = 1;
            return true;
        }
        if (!take("{")) {
            return false;
        }
        min = count();
        max = min;
        if (take(",")) {
            max = sees("}") ? Expression::no_limit : count();
        }
        if (max < min) {
            fail(concat("a maximum of at least ", min));
        }
        require("}", "}");
        return true;
    }

    /// Enters a group. @throws OptionError if it is too deep inside others
    void enter() {
        if (++depth_ > PatternLimits::groups) {
            fail(concat("at most ", PatternLimits::groups, " groups inside each other"));
        }
    }
    void leave() noexcept { --depth_; }

    /// @throws OptionError  "<what>, line 1, column 3: expected <expected>, found <what stands there>"
    [[noreturn]] GPT2_COLD void fail(std::string_view expected) const {
        const std::string_view before = text_.substr(0, at_);
        const auto line = 1 + std::ranges::count(before, '\n');
        const std::size_t begin = before.rfind('\n') + 1; // 0 for none
        throw OptionError(concat(what_, ", line ", line, ", column ", at_ - begin + 1, ": expected ",
                                 expected, ", found ",
                                 at_end() ? std::string("the end") : detail::quoted(rest(), 20)));
    }

private:
    [[nodiscard]] static int hex_digit(char c) noexcept {
        return c >= '0' && c <= '9'   ? c - '0'
               : c >= 'a' && c <= 'f' ? c - 'a' + 10
               : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                      : -1;
    }

    [[nodiscard]] std::uint32_t count() {
        const std::size_t begin = at_;
        std::uint32_t value = 0;
        while (!at_end() && text_[at_] >= '0' && text_[at_] <= '9' && value <= PatternLimits::count) {
            value = 10 * value + static_cast<std::uint32_t>(text_[at_++] - '0');
        }
        if (at_ == begin || value > PatternLimits::count) {
            at_ = begin;
            fail(concat("a number up to ", PatternLimits::count));
        }
        return value;
    }

    const char* what_;
    std::string_view text_;
    std::size_t at_ = 0;
    std::size_t depth_ = 0;
};

/// The rest of a class behind its `[`, up to and with the `]`.
/// @param escape  called behind a backslash with the set, adds to it; answers the character if it was one
template <class Escape> [[nodiscard]] CodePointSet read_class(PatternReader& reader, Escape escape) {
    const bool negated = reader.take("^");
    CodePointSet set;
    const auto one = [&]() -> std::optional<std::uint32_t> {
        if (reader.sees("[:")) {
            reader.fail("characters (there are no POSIX classes; \\[ is a bracket)");
        }
        if (reader.take("\\")) {
            return escape(set);
        }
        return reader.character("]");
    };
    for (bool empty = true; empty || !reader.take("]"); empty = false) {
        if (reader.sees("]")) {
            reader.fail("a character (\\] is a bracket)");
        }
        const std::optional<std::uint32_t> first = one();
        if (!first) {
            continue;
        }
        std::uint32_t last = *first;
        if (reader.sees("-") && !reader.sees("-]")) {
            reader.skip(1);
            const std::optional<std::uint32_t> end = one();
            if (!end || *end < *first) {
                reader.fail("a range to a character that does not come before its first");
            }
            last = *end;
        }
        set.add(*first, last);
    }
    set = negated ? set.complement() : set.tidy();
    if (set.ranges().empty()) {
        reader.fail("a class with a character in it before this");
    }
    return set;
}

} // namespace gpt2::detail
