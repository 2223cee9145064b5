// SPDX-License-Identifier: MIT
#include "tokenizer_reference.hpp"

#include <gpt2/utf8.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace {

using gpt2::Utf8Stream;
using gpt2::detail::decode_utf8;
using gpt2::detail::Utf8Status;

std::string bytes(std::initializer_list<int> values) {
    std::string out;
    for (const int value : values) {
        out += static_cast<char>(static_cast<unsigned char>(value));
    }
    return out;
}

std::string repeated(std::string_view text, std::size_t n) {
    std::string out;
    while (n-- > 0) {
        out += text;
    }
    return out;
}

/// The bytes at which the decoder decides something, and neighbours of them.
const std::string& interesting_bytes() {
    static const std::string all =
        bytes({0x00, 0x20, 0x41, 0x7f, 0x80, 0x81, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2,
               0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff});
    return all;
}

void check_against_reference(std::string_view text) {
    const std::vector<reference::Character> expected = reference::characters(text);
    std::size_t at = 0;
    for (const reference::Character& character : expected) {
        const gpt2::detail::Utf8Char found = decode_utf8(text.substr(at));
        REQUIRE(found.size == character.bytes.size());
        REQUIRE((found.status == Utf8Status::valid) == character.valid);
        at += found.size;
        if (found.status == Utf8Status::truncated) {
            REQUIRE(at == text.size());
        }
    }
    REQUIRE(at == text.size());
    REQUIRE(gpt2::to_valid_utf8(text) == reference::replaced(text));
    REQUIRE(gpt2::is_valid_utf8(text) == (gpt2::to_valid_utf8(text) == text));
}

} // namespace

TEST_CASE("every code point is decoded, and surrogates and what lies above are not") {
    for (std::uint32_t code_point = 0; code_point < 0x110000; ++code_point) {
        std::string text;
        gpt2::detail::append_utf8(text, code_point);
        const auto found = decode_utf8(text);
        if (code_point >= 0xd800 && code_point < 0xe000) {
            REQUIRE(found.status == Utf8Status::invalid);
            REQUIRE(found.size == 1);
        } else {
            REQUIRE(found.status == Utf8Status::valid);
            REQUIRE(found.code_point == code_point);
            REQUIRE(found.size == text.size());
            // Each proper beginning could still become a character.
            for (std::size_t n = 1; n < text.size(); ++n) {
                const auto part = decode_utf8(std::string_view(text).substr(0, n));
                REQUIRE(part.status == Utf8Status::truncated);
                REQUIRE(part.size == n);
            }
        }
    }
}

TEST_CASE("sequences of up to four bytes agree with the standard's table") {
    std::string text(2, '\0');
    for (int a = 0; a < 256; ++a) { // every pair
        for (int b = 0; b < 256; ++b) {
            text = bytes({a, b});
            check_against_reference(text);
        }
    }
    const std::string& some = interesting_bytes();
    for (const char a : some) {
        for (const char b : some) {
            for (const char c : some) {
                text = {a, b, c};
                check_against_reference(text);
            }
        }
    }
    for (const int a : {0xe0, 0xed, 0xf0, 0xf1, 0xf4, 0xf5}) {
        for (const char b : some) {
            for (const char c : some) {
                for (const char d : some) {
                    text = bytes({a}) + std::string{b, c, d};
                    check_against_reference(text);
                }
            }
        }
    }
}

TEST_CASE("the standard's own examples of maximal subparts") {
    const std::string& r = std::string(gpt2::replacement_character);
    // Tables 3-8 to 3-11 of The Unicode Standard 15.0.
    CHECK(gpt2::to_valid_utf8(bytes({0xc0, 0xaf, 0xe0, 0x80, 0xbf, 0xf0, 0x81, 0x82, 0x41})) ==
          repeated(r, 8) + "A");
    CHECK(gpt2::to_valid_utf8(bytes({0xed, 0xa0, 0x80, 0xed, 0xbf, 0xbf, 0xed, 0xaf, 0x41})) ==
          repeated(r, 8) + "A");
    CHECK(gpt2::to_valid_utf8(bytes({0xf4, 0x91, 0x92, 0x93, 0xff, 0x41, 0x80, 0xbf, 0x42})) ==
          repeated(r, 5) + "A" + repeated(r, 2) + "B");
    CHECK(gpt2::to_valid_utf8(bytes({0xe1, 0x80, 0xe2, 0xf0, 0x91, 0x92, 0xf1, 0xbf, 0x41})) ==
          repeated(r, 4) + "A");
}

TEST_CASE("a stream gives the same text however its bytes are cut") {
    std::mt19937 random(1);
    const std::string& some = interesting_bytes();
    for (int round = 0; round < 3000; ++round) {
        std::string text;
        for (std::size_t n = random() % 12; n > 0; --n) {
            switch (random() % 3) {
            case 0:
                text += some[random() % some.size()];
                break;
            case 1:
                gpt2::detail::append_utf8(text, std::uint32_t(0x20 + random() % 0xd000));
                break;
            default:
                gpt2::detail::append_utf8(text, std::uint32_t(0x10000 + random() % 0x100000));
            }
        }
        const std::string expected = reference::replaced(text);
        for (int cut = 0; cut < 8; ++cut) {
            Utf8Stream stream;
            std::string out;
            for (std::size_t at = 0; at < text.size();) {
                const std::size_t n =
                    cut == 0 ? 1 : random() % 5; // byte by byte, or in pieces, empty ones too
                out += stream.push(std::string_view(text).substr(at, n));
                at += std::min(n, text.size() - at);
                REQUIRE(gpt2::is_valid_utf8(out));
            }
            out += stream.flush();
            REQUIRE(out == expected);
            REQUIRE(stream.empty());
        }
    }
}

TEST_CASE("a stream holds back what may become a character, and nothing longer") {
    Utf8Stream stream;
    CHECK(stream.empty());
    CHECK(stream.push("a\xf0\x9f") == "a");
    CHECK_FALSE(stream.empty());
    CHECK(stream.push("\x98") == "");
    CHECK(stream.push("\x80z") == "\xf0\x9f\x98\x80z");
    CHECK(stream.empty());
    CHECK(stream.push("\xff") == "\xef\xbf\xbd"); // can begin nothing
    CHECK(stream.empty());
    CHECK(stream.push("\xe2\x82") == "");
    CHECK(stream.push("A") == "\xef\xbf\xbd"
                              "A"); // two bytes, one subpart
    CHECK(stream.push("\xe2\x82") == "");
    CHECK(stream.flush() == "\xef\xbf\xbd");
    CHECK(stream.empty());
    CHECK(stream.flush() == "");
    CHECK(stream.push("\xac") == "\xef\xbf\xbd"); // flush() has forgotten what came before
    CHECK(stream.push("") == "");
}
