#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes include/gpt2/unicode_tables.hpp: which code points are letters, numbers or white space.

Needs nothing but the Python standard library and two files of the Unicode Character Database, version
15.0.0 (Debian 12: `apt-get install unicode-data` puts them into /usr/share/unicode):

    UnicodeData.txt   third field, General_Category: L* is a letter, N* is a number (UAX #44)
    PropList.txt      White_Space, and the version in the first line

    tools/generate_unicode_tables.py [/usr/share/unicode] [--output FILE]
    tools/generate_unicode_tables.py [/usr/share/unicode] --check      exit status 1 if the header differs

The table has two stages: `block_of[c >> 8]` numbers a block of 256 code points, and equal blocks are
stored once, two bits per code point.
"""

import argparse
import pathlib
import sys

VERSION = "15.0.0"
CODE_POINTS = 0x110000
BLOCK = 256
PER_WORD = 32  # classes, two bits each, in one 64-bit word
OTHER, LETTER, NUMBER, SPACE = range(4)
ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = ROOT / "include" / "gpt2" / "unicode_tables.hpp"


def fail(message):
    sys.exit(f"generate_unicode_tables.py: {message}")


def read_lines(path):
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror} (Debian: apt-get install unicode-data)")


def general_categories(path):
    """Yields (first, last, category). A pair of lines '<..., First>' and '<..., Last>' is a range."""
    first = None
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split(";")
        if len(fields) != 15:
            fail(f"{path}, line {number}: expected 15 fields, found {len(fields)}")
        code, name, category = int(fields[0], 16), fields[1], fields[2]
        if name.endswith(", First>"):
            first = code
        elif name.endswith(", Last>"):
            yield first, code, category
            first = None
        else:
            yield code, code, category


def white_space(path):
    lines = read_lines(path)
    if f"-{VERSION}.txt" not in lines[0]:
        fail(f"{path}: expected version {VERSION}, found {lines[0]!r}")
    for line in lines:
        fields = [field.strip() for field in line.split("#")[0].split(";")]
        if len(fields) == 2 and fields[1] == "White_Space":
            ends = [int(end, 16) for end in fields[0].split("..")]
            yield ends[0], ends[-1]


def classes(folder):
    table = bytearray(CODE_POINTS)
    for first, last, category in general_categories(folder / "UnicodeData.txt"):
        kind = {"L": LETTER, "N": NUMBER}.get(category[0], OTHER)
        table[first : last + 1] = bytes([kind]) * (last + 1 - first)
    for first, last in white_space(folder / "PropList.txt"):
        if any(table[first : last + 1]):
            fail(f"U+{first:04X}..U+{last:04X} would be white space and a letter or number at once")
        table[first : last + 1] = bytes([SPACE]) * (last + 1 - first)
    return table


def rows(values, per_row, pattern):
    for start in range(0, len(values), per_row):
        yield "    " + ", ".join(pattern.format(value) for value in values[start : start + per_row]) + ","


def header(table):
    numbers, block_of, words = {}, [], []
    for start in range(0, CODE_POINTS, BLOCK):
        block = bytes(table[start : start + BLOCK])
        if block not in numbers:
            numbers[block] = len(numbers)
            for at in range(0, BLOCK, PER_WORD):
                words.append(sum(kind << (2 * i) for i, kind in enumerate(block[at : at + PER_WORD])))
        block_of.append(numbers[block])
    if len(numbers) > 256:
        fail(f"{len(numbers)} different blocks do not fit into the 8 bits of block_of")
    count = {kind: table.count(kind) for kind in (LETTER, NUMBER, SPACE)}
    lines = [
        "// SPDX-License-Identifier: MIT",
        f"// Made by tools/generate_unicode_tables.py from the Unicode Character Database {VERSION}; do not edit.",
        "#pragma once",
        "",
        "#include <array>",
        "#include <cstddef>",
        "#include <cstdint>",
        "",
        "/// @file",
        f"/// Letters, numbers and white space of Unicode {VERSION}: {count[LETTER]} letters (General_Category L*),",
        f"/// {count[NUMBER]} numbers (N*) and {count[SPACE]} white-space characters (White_Space).",
        "",
        "namespace gpt2::detail {",
        "",
        f'inline constexpr const char* unicode_version = "{VERSION}";',
        "",
        "/// What the pre-tokeniser's pattern asks of a character: \\p{L}, \\p{N}, \\s, or none of them.",
        f"enum class CharacterClass : std::uint8_t {{ other = {OTHER}, letter = {LETTER}, number = {NUMBER}, space = {SPACE} }};",
        "",
        "// clang-format off",
        "/// The block of each 256 code points. Equal blocks are stored once.",
        f"inline constexpr std::array<std::uint8_t, {len(block_of)}> unicode_block_of = {{",
        *rows(block_of, 24, "{}"),
        "};",
        "",
        f"/// {BLOCK // PER_WORD} words to a block, {PER_WORD} classes of two bits to a word, the lowest bits first.",
        f"inline constexpr std::array<std::uint64_t, {len(words)}> unicode_blocks = {{",
        *rows(words, 5, "{:#018x}"),
        "};",
        "// clang-format on",
        "",
        "/// The class of @p code_point, which must be below 0x110000. What Unicode leaves unassigned is `other`.",
        "[[nodiscard]] constexpr CharacterClass unicode_class(std::uint32_t code_point) noexcept {",
        f"    const std::size_t word = unicode_block_of[code_point >> 8] * {BLOCK // PER_WORD}u + ((code_point >> 5) & 7);",
        "    return static_cast<CharacterClass>((unicode_blocks[word] >> (2 * (code_point & 31))) & 3);",
        "}",
        "",
        "} // namespace gpt2::detail",
        "",
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "folder",
        nargs="?",
        type=pathlib.Path,
        default=pathlib.Path("/usr/share/unicode"),
        help="holds UnicodeData.txt and PropList.txt (default: %(default)s)",
    )
    parser.add_argument("--output", type=pathlib.Path, default=HEADER, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="compare with the header instead of writing it")
    arguments = parser.parse_args()
    text = header(classes(arguments.folder))
    if not arguments.check:
        arguments.output.write_text(text, encoding="utf-8")
    elif "\n".join(read_lines(arguments.output)) + "\n" != text:
        fail(f"{arguments.output} is not what Unicode {VERSION} gives; run without --check to mend it")
    else:
        print(f"{arguments.output} is up to date with Unicode {VERSION}")


if __name__ == "__main__":
    main()
