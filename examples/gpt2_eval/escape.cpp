// SPDX-License-Identifier: MIT
#include "escape.hpp"

#include <gpt2/utf8.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>

namespace {

void append_hex(std::string& out, char byte) {
    constexpr std::string_view digits = "0123456789abcdef";
    const auto value = static_cast<unsigned char>(byte);
    out += digits[value >> 4];
    out += digits[value & 15];
}

/// Bytes of the UTF-8 character at the front of @p text; 0 if none is whole there.
std::size_t character_size(std::string_view text) {
    for (std::size_t n = 1; n <= 4 && n <= text.size(); ++n) {
        if (gpt2::is_valid_utf8(text.substr(0, n))) {
            return n;
        }
    }
    return 0;
}

/// What some programs end a line at, or a terminal obeys: C0, DEL, C1 and Unicode's separators.
bool is_control(std::string_view character) {
    const auto first = static_cast<unsigned char>(character[0]);
    return first < 0x20 || first == 0x7f ||
           (first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0) || character == "\u2028" ||
           character == "\u2029";
}

void append_escaped(std::string& out, std::string_view bytes) {
    for (const char byte : bytes) {
        out += "\\x";
        append_hex(out, byte);
    }
}

} // namespace

std::string escaped(std::string_view bytes) {
    std::string out;
    while (!bytes.empty()) {
        const std::size_t size = character_size(bytes);
        const std::string_view character = bytes.substr(0, size == 0 ? 1 : size);
        bytes.remove_prefix(character.size());
        const auto named = std::string_view("\\\t\n\r").find(character);
        if (named != std::string_view::npos) {
            out += '\\';
            out += "\\tnr"[named];
        } else if (size == 0 || is_control(character)) {
            append_escaped(out, character);
        } else {
            out += character;
        }
    }
    return out;
}

std::string json_member(std::string_view bytes) {
    if (gpt2::is_valid_utf8(bytes)) {
        return "\"token\":" + nlohmann::json(bytes).dump();
    }
    std::string out = "\"bytes\":\"";
    for (const char byte : bytes) {
        append_hex(out, byte);
    }
    return out += '"';
}

std::string html(std::string_view text) {
    std::string out;
    for (const char c : text) {
        switch (c) {
        case '&':
            out += "&amp;";
            break;
        case '<':
            out += "&lt;";
            break;
        case '>':
            out += "&gt;";
            break;
        case '"':
            out += "&quot;";
            break;
        case '\r':
            out += "&#13;";
            break;
        case '\0':
            out += "\u2400";
            break;
        default:
            out += c;
        }
    }
    return out;
}
