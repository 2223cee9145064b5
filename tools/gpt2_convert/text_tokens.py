# SPDX-License-Identifier: MIT
"""Tokens of a text, as the library's tokenizer makes them (docs/tokenizer.md).

Which characters are letters and numbers is what Python's unicodedata says: Unicode 15.0 from Python 3.12 on,
an older one before.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path

from .errors import ConvertError
from .tokenizer_tables import TokenizerTables

#: White_Space of Unicode; Python's \s has four more.
WHITE_SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"  # inside of [ ]


@lru_cache(maxsize=1)
def pattern() -> re.Pattern[str]:
    """GPT-2's pieces (openai/gpt-2, src/encoder.py), with the classes that Python's re lacks written out."""
    letters, numbers = _characters("L"), _characters("N")
    others = f"[^{WHITE_SPACE}{letters}{numbers}]"
    space, none = f"[{WHITE_SPACE}]", f"[^{WHITE_SPACE}]"
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letters}]+| ?[{numbers}]+| ?{others}+|{space}+(?!{none})|{space}+"
    )


def _characters(category: str) -> str:
    """Those of a general category, as ranges inside of [ ]."""
    ranges, begin = [], None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == category
        if inside and begin is None:
            begin = code
        elif not inside and begin is not None:
            ranges.append(f"\\U{begin:08x}-\\U{code - 1:08x}")
            begin = None
    return "".join(ranges)


def encode(text: str, tables: TokenizerTables) -> list[int]:
    known: dict[str, list[int]] = {}
    tokens: list[int] = []
    for piece in pattern().findall(text):
        if piece not in known:
            known[piece] = tables.encode(piece.encode("utf-8"))
        tokens += known[piece]
    return tokens


def count(text: str, tables: TokenizerTables) -> Counter[int]:
    """How often a text has each token."""
    counts: Counter[int] = Counter()
    for piece, times in Counter(match[0] for match in pattern().finditer(text)).items():
        for token in tables.encode(piece.encode("utf-8")):
            counts[token] += times
    return counts


def read(path: Path, purpose: str) -> str:
    """A text file in UTF-8. purpose: what it is for, for messages."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConvertError(
            f'"{path}": expected UTF-8, found other bytes at byte {error.start} ({purpose})'
        ) from None
