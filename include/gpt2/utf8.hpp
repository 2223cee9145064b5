// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// @file
/// UTF-8 as bytes that may be wrong. Where a sequence is ill-formed, its *maximal subpart* counts as one
/// error: the longest beginning of a well-formed sequence that stands there, or else a single byte
/// (The Unicode Standard 15.0, section 3.9, "U+FFFD Substitution of Maximal Subparts"). Python's, the
/// WHATWG's and ICU's decoders find the same errors.

namespace gpt2 {

namespace detail {

enum class Utf8Status : std::uint8_t {
    valid,
    invalid,   ///< a maximal subpart that no further byte can make well-formed
    truncated, ///< the text ends inside a sequence that is well-formed as far as it goes
};

/// What stands at one place of a text.
struct Utf8Char {
    std::uint32_t code_point; ///< only where valid
    std::uint8_t size;        ///< bytes, 1 to 4
    Utf8Status status;
};

/// Decodes the sequence at the front of @p text, which must not be empty.
[[nodiscard]] constexpr Utf8Char decode_utf8(std::string_view text) noexcept {
    const auto lead = static_cast<std::uint8_t>(text[0]);
    if (lead < 0x80) {
        return {lead, 1, Utf8Status::valid};
    }
    if (lead < 0xc2 || lead > 0xf4) {
        return {0, 1, Utf8Status::invalid};
    }
    const std::uint8_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    std::uint32_t code_point = lead & (0x7fu >> length);
    // Table 3-7 of the standard: the second byte excludes overlong forms, surrogates and what lies
    // above U+10FFFF; every other byte is 80..BF.
    std::uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    std::uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (std::uint8_t i = 1; i < length; ++i) {
        if (i == text.size()) {
            return {0, i, Utf8Status::truncated};
        }
        const auto byte = static_cast<std::uint8_t>(text[i]);
        if (byte < low || byte > high) {
            return {0, i, Utf8Status::invalid};
        }
        code_point = code_point << 6 | (byte & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    return {code_point, length, Utf8Status::valid};
}

/// The length of the ASCII characters at the front of @p text.
[[nodiscard]] constexpr std::size_t ascii_prefix(std::string_view text) noexcept {
    std::size_t size = 0;
    while (size < text.size() && static_cast<std::uint8_t>(text[size]) < 0x80) {
        ++size;
    }
    return size;
}

/// Appends the UTF-8 form of @p code_point, which must be a Unicode scalar value.
inline void append_utf8(std::string& out, std::uint32_t code_point) {
    const auto put = [&out](std::uint32_t byte) {
        out += static_cast<char>(static_cast<unsigned char>(byte));
    };
    if (code_point < 0x80) {
        put(code_point);
        return;
    }
    if (code_point < 0x800) {
        put(0xc0 | code_point >> 6);
    } else {
        if (code_point < 0x10000) {
            put(0xe0 | code_point >> 12);
        } else {
            put(0xf0 | code_point >> 18);
            put(0x80 | (code_point >> 12 & 0x3f));
        }
        put(0x80 | (code_point >> 6 & 0x3f));
    }
    put(0x80 | (code_point & 0x3f));
}

} // namespace detail

/// U+FFFD REPLACEMENT CHARACTER in UTF-8.
inline constexpr std::string_view replacement_character = "\xef\xbf\xbd";

/// Whether @p bytes are well-formed UTF-8 from beginning to end.
[[nodiscard]] constexpr bool is_valid_utf8(std::string_view bytes) noexcept {
    while (!bytes.empty()) {
        const detail::Utf8Char character = detail::decode_utf8(bytes);
        if (character.status != detail::Utf8Status::valid) {
            return false;
        }
        bytes.remove_prefix(character.size);
    }
    return true;
}

/// Turns a stream of bytes into valid UTF-8. The beginning of a character that is still incomplete (at
/// most 3 bytes) is held back until it is whole; a maximal invalid subpart becomes U+FFFD as soon as it
/// cannot be the beginning of a character. However the bytes are cut into pushes, the concatenated
/// results, flush() included, are the same. One thread at a time.
class Utf8Stream {
public:
    /// The text that @p bytes complete.
    [[nodiscard]] std::string push(std::string_view bytes) {
        std::string joined;
        if (!held_.empty()) {
            joined = held_;
            joined += bytes;
            bytes = joined;
        }
        std::string out;
        out.reserve(bytes.size());
        std::string_view rest = bytes;
        while (!rest.empty()) {
            const std::size_t ascii = detail::ascii_prefix(rest);
            out += rest.substr(0, ascii);
            rest.remove_prefix(ascii);
            if (rest.empty()) {
                break;
            }
            const detail::Utf8Char character = detail::decode_utf8(rest);
            if (character.status == detail::Utf8Status::truncated) {
                break;
            }
            const bool valid = character.status == detail::Utf8Status::valid;
            out += valid ? rest.substr(0, character.size) : replacement_character;
            rest.remove_prefix(character.size);
        }
        held_ = std::string(rest);
        return out;
    }

    /// The end of the stream: what was held back is one maximal subpart, so one U+FFFD. The stream is as
    /// new afterwards.
    [[nodiscard]] std::string flush() {
        const bool nothing = held_.empty();
        held_.clear();
        return std::string(nothing ? std::string_view() : replacement_character);
    }

    /// Whether nothing is held back.
    [[nodiscard]] bool empty() const noexcept { return held_.empty(); }

private:
    std::string held_; ///< at most 3 bytes, so it never leaves the string's own storage
};

/// @p bytes with each maximal invalid subpart replaced by U+FFFD.
[[nodiscard]] inline std::string to_valid_utf8(std::string_view bytes) {
    Utf8Stream stream;
    std::string out = stream.push(bytes);
    return out += stream.flush();
}

} // namespace gpt2
