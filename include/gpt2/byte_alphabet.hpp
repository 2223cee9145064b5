// SPDX-License-Identifier: MIT
#pragma once

#include "gpt2/utf8.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// @file
/// The alphabet in which vocabulary files spell bytes: `bytes_to_unicode` of GPT-2's encoder.py. Bytes
/// that print in Latin-1 stand for themselves, the other 68 are U+0100, U+0101, ... in their order.

namespace gpt2::detail {

/// The character of each byte.
inline constexpr auto byte_characters = [] {
    std::array<std::uint16_t, 256> table{};
    std::uint16_t next = 256;
    for (std::uint16_t byte = 0; byte < 256; ++byte) {
        const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        table[byte] = prints ? byte : next++;
    }
    return table;
}();

/// The byte of each character below U+0144, or -1 where there is none.
inline constexpr auto character_bytes = [] {
    std::array<std::int16_t, 256 + 68> table{};
    table.fill(-1);
    for (std::int16_t byte = 0; byte < 256; ++byte) {
        table[byte_characters[static_cast<std::size_t>(byte)]] = byte;
    }
    return table;
}();

/// Appends the bytes that @p spelling, UTF-8 in the alphabet, stands for. When a character is not of the
/// alphabet, returns false and leaves @p out as it was.
[[nodiscard]] inline bool append_spelled(std::string_view spelling, std::string& out) {
    const std::size_t before = out.size();
    while (!spelling.empty()) {
        const auto first = static_cast<unsigned char>(spelling[0]);
        // By far the most frequent characters; the rest can be decoded at leisure.
        const Utf8Char character =
            first < 0x80 ? Utf8Char{first, 1, Utf8Status::valid} : decode_utf8(spelling);
        if (character.status != Utf8Status::valid || character.code_point >= character_bytes.size() ||
            character_bytes[character.code_point] < 0) {
            out.resize(before);
            return false;
        }
        out += static_cast<char>(static_cast<unsigned char>(character_bytes[character.code_point]));
        spelling.remove_prefix(character.size);
    }
    return true;
}

/// @p bytes in the alphabet, the inverse of append_spelled().
[[nodiscard]] inline std::string spell(std::string_view bytes) {
    std::string out;
    for (const char byte : bytes) {
        append_utf8(out, byte_characters[static_cast<unsigned char>(byte)]);
    }
    return out;
}

} // namespace gpt2::detail
