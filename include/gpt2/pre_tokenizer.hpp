// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/unicode_tables.hpp"
#include "gpt2/utf8.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

/// @file
/// Cuts a text into the pieces that byte-pair encoding works on, each for itself. GPT-2's pattern
/// (https://github.com/openai/gpt-2, src/encoder.py), written out as a hand-made scanner:
///
///     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
///
/// The original knows only valid text. Here a maximal invalid subpart (utf8.hpp) is a piece of its own,
/// a non-space of no class: it ends the run before it, a space before it does not attach to it, and white
/// space before it is cut as before any other non-space.

namespace gpt2::detail {

/// As many bytes as @p Word has, the first of them in the lowest bits on every machine.
template <class Word> [[nodiscard]] Word load_bytes(const char* at) noexcept {
    Word word = 0;
    std::memcpy(&word, at, sizeof word);
    if constexpr (std::endian::native == std::endian::big) {
        Word reversed = 0;
        for (std::size_t i = 0; i < sizeof word; ++i, word >>= 8) {
            reversed = static_cast<Word>(reversed << 8 | (word & 0xff));
        }
        return reversed;
    }
    return word;
}

/// The number of ASCII letters at the front of eight bytes from load_bytes(). Each byte is compared
/// in its own lane: all sums stay below 256, so nothing carries into the neighbour.
[[nodiscard]] constexpr std::size_t leading_ascii_letters(std::uint64_t word) noexcept {
    constexpr std::uint64_t ones = 0x0101010101010101u;
    constexpr std::uint64_t high_bits = 0x80 * ones;
    const std::uint64_t lower = (word | 0x20 * ones) & ~high_bits; // 'A'..'Z' become 'a'..'z'
    const std::uint64_t from_a = lower + (0x80 - 'a') * ones;      // high bit where >= 'a'
    const std::uint64_t after_z = lower + (0x7f - 'z') * ones;     // high bit where > 'z'
    const std::uint64_t others = (~from_a | after_z | word) & high_bits;
    return static_cast<std::size_t>(std::countr_zero(others)) / 8; // countr_zero(0) is 64
}

/// The classes of ASCII characters, for a single look-up.
inline constexpr auto ascii_classes = [] {
    std::array<CharacterClass, 128> table{};
    for (std::uint32_t c = 0; c < 128; ++c) {
        table[c] = unicode_class(c);
    }
    return table;
}();

/// Walks over a text piece by piece. Every byte belongs to exactly one piece; a piece has at least one.
class PreTokenizer {
public:
    explicit PreTokenizer(std::string_view text) noexcept : text_(text.data()), size_(text.size()) {}

    /// The end of the piece that begins at @p begin, which must be inside the text.
    [[nodiscard]] std::size_t piece_end(std::size_t begin) const noexcept {
        // By far the most frequent: an optional space and ASCII letters.
        const std::size_t after_space = begin + (text_[begin] == ' ' ? 1 : 0);
        if (after_space + 8 <= size_) {
            const std::size_t letters = leading_ascii_letters(load_bytes<std::uint64_t>(text_ + after_space));
            if (letters != 0) {
                const std::size_t end = after_space + letters;
                // A byte below 0x80 after less than eight letters is no letter.
                return letters < 8 && ascii(end) ? end : run_end(end, CharacterClass::letter);
            }
        }
        return general_piece_end(begin);
    }

private:
    struct Character {
        CharacterClass kind;
        bool valid;
        std::uint8_t size;
    };

    [[nodiscard]] bool ascii(std::size_t at) const noexcept {
        return static_cast<unsigned char>(text_[at]) < 0x80;
    }

    [[nodiscard]] Character character(std::size_t at) const noexcept {
        if (ascii(at)) {
            return {ascii_classes[static_cast<unsigned char>(text_[at])], true, 1};
        }
        const Utf8Char decoded = decode_utf8({text_ + at, size_ - at});
        if (decoded.status != Utf8Status::valid) {
            return {CharacterClass::other, false, decoded.size};
        }
        return {unicode_class(decoded.code_point), true, decoded.size};
    }

    /// The end of the characters of class @p kind that stand from @p at on.
    [[nodiscard]] std::size_t run_end(std::size_t at, CharacterClass kind) const noexcept {
        while (at < size_) {
            const Character next = character(at);
            if (next.kind != kind || !next.valid) {
                break;
            }
            at += next.size;
        }
        return at;
    }

    [[nodiscard]] std::size_t general_piece_end(std::size_t begin) const noexcept {
        const Character first = character(begin);
        if (!first.valid) {
            return begin + first.size;
        }
        if (text_[begin] == '\'') {
            if (const std::size_t size = contraction(begin); size != 0) {
                return begin + size;
            }
        }
        if (first.kind != CharacterClass::space) {
            return run_end(begin + first.size, first.kind);
        }
        if (text_[begin] == ' ' && begin + 1 < size_) {
            const Character second = character(begin + 1);
            if (second.valid && second.kind != CharacterClass::space) {
                return run_end(begin + 1 + second.size, second.kind);
            }
        }
        return space_end(begin);
    }

    /// The length of 's|'t|'re|'ve|'m|'ll|'d at an apostrophe, or 0.
    [[nodiscard]] std::size_t contraction(std::size_t at) const noexcept {
        const char first = at + 1 < size_ ? text_[at + 1] : '\0';
        if (first == 's' || first == 't' || first == 'm' || first == 'd') {
            return 2;
        }
        const char second = at + 2 < size_ ? text_[at + 2] : '\0';
        const bool three = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                           (first == 'l' && second == 'l');
        return three ? 3 : 0;
    }

    /// `\s+(?!\S)|\s+`: white space up to the end of the text, or else all but its last character, which
    /// must not stand before a non-space; one character alone is taken by the second alternative.
    [[nodiscard]] std::size_t space_end(std::size_t begin) const noexcept {
        std::size_t last = begin;
        std::size_t at = begin;
        while (at < size_) {
            const Character next = character(at);
            if (next.kind != CharacterClass::space) {
                return last == begin ? at : last;
            }
            last = at;
            at += next.size;
        }
        return at;
    }

    const char* text_;
    std::size_t size_;
};

} // namespace gpt2::detail
