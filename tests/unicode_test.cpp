// SPDX-License-Identifier: MIT
#include <gpt2/unicode_tables.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using gpt2::detail::CharacterClass;
using gpt2::detail::unicode_class;

std::size_t count(CharacterClass kind) {
    std::size_t n = 0;
    for (std::uint32_t c = 0; c < 0x110000; ++c) {
        n += unicode_class(c) == kind ? 1 : 0;
    }
    return n;
}

} // namespace

// tools/generate_unicode_tables.py --check compares the whole table with the Unicode Character Database.

TEST_CASE("the tables are of Unicode 15.0") {
    CHECK(std::string(gpt2::detail::unicode_version) == "15.0.0");
    // Sums of DerivedGeneralCategory.txt, 15.0.0: Lu 1831, Ll 2233, Lt 31, Lm 397, Lo 131612; Nd 680, Nl 236,
    // No 915.
    CHECK(count(CharacterClass::letter) == 1831 + 2233 + 31 + 397 + 131612);
    CHECK(count(CharacterClass::number) == 680 + 236 + 915);
    CHECK(unicode_class(0x1e4d0) == CharacterClass::letter); // Nag Mundari, new in 15.0
    CHECK(unicode_class(0x31350) == CharacterClass::letter); // CJK extension H, new in 15.0
    CHECK(unicode_class(0x2ebf0) == CharacterClass::other);  // CJK extension I came in 15.1
}

TEST_CASE("white space is White_Space of PropList.txt, and not what C or Python take for it") {
    const std::vector<std::uint32_t> spaces = {0x09,   0x0a,   0x0b,   0x0c,   0x0d,   0x20,   0x85,
                                               0xa0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004,
                                               0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200a, 0x2028,
                                               0x2029, 0x202f, 0x205f, 0x3000};
    CHECK(count(CharacterClass::space) == spaces.size());
    for (const std::uint32_t space : spaces) {
        CHECK(unicode_class(space) == CharacterClass::space);
    }
    CHECK(unicode_class(0x1c) == CharacterClass::other);   // str.isspace() of Python
    CHECK(unicode_class(0x180e) == CharacterClass::other); // was white space until Unicode 6.3
    CHECK(unicode_class(0x200b) == CharacterClass::other); // zero width space
    CHECK(unicode_class(0xfeff) == CharacterClass::other); // byte order mark
}

TEST_CASE("letters and numbers of many scripts, and what looks like them") {
    for (const std::uint32_t letter : std::vector<std::uint32_t>{
             'a',    'Z',    0xaa,   0xb5,    0xdf,    0x2b0,   0x3b1,   0x416,  0x5d0,
             0x627,  0x905,  0xe01,  0x1100,  0x3042,  0x30a2,  0x4e00,  0x9fff, 0xac00,
             0xd7a3, 0xfb01, 0xff21, 0x10000, 0x1d400, 0x20000, 0x2a6df, 0x323af}) {
        CHECK(unicode_class(letter) == CharacterClass::letter);
    }
    for (const std::uint32_t number : std::vector<std::uint32_t>{'0', '9', 0xb2, 0xbd, 0x660, 0x966, 0x2160,
                                                                 0x2460, 0x3007, 0xff10, 0x1d7ce}) {
        CHECK(unicode_class(number) == CharacterClass::number);
    }
    // Combining marks are neither (é in two code points ends a word), nor are emoji and the unassigned.
    for (const std::uint32_t other : std::vector<std::uint32_t>{0x00, '_', '\'', 0x300, 0x93e, 0xd800, 0xe000,
                                                                0xfffd, 0x1f600, 0x378, 0x10ffff}) {
        CHECK(unicode_class(other) == CharacterClass::other);
    }
}
