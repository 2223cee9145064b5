# SPDX-License-Identifier: MIT
"""Tokens of a text against those of the original encoder."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path

import pytest
import tiny_model

from gpt2_convert import text_tokens
from gpt2_convert.tokenizer_tables import TokenizerTables

DATA = Path(__file__).parents[1] / "data" / "tokenizer"


@pytest.fixture(scope="module")
def gpt2() -> TokenizerTables:
    return TokenizerTables(
        (DATA / "vocab.json").read_bytes(), (DATA / "merges.txt").read_bytes(), "tests/data"
    )


def test_the_original_cases(gpt2):
    """All 400, but for texts with characters that are newer than Python's tables."""
    cases = [json.loads(line) for line in (DATA / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    tried = 0
    for case in cases:
        text = case["text"] if isinstance(case["text"], str) else bytes.fromhex(case["text"]["hex"]).decode()
        if any(unicodedata.category(character) == "Cn" for character in text):
            continue
        assert text_tokens.encode(text, gpt2) == case["ids"], ascii(text)
        tried += 1
    assert tried > 350


def test_white_space_is_that_of_unicode():
    """Python's \\s has U+001C to U+001F as well."""
    first_piece = text_tokens.pattern().match
    spaces = []
    for code in range(sys.maxunicode + 1):
        found = first_piece(2 * chr(code) + "a")
        if found is not None and found[0] == chr(code):  # the last before a word stands apart
            spaces.append(code)
    assert len(spaces) == 25 and 0x1C not in spaces and 0x3000 in spaces


def test_a_vocabulary_of_bytes():
    tables = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    tokens = text_tokens.encode("the thé", tables)
    assert [tables.tokens[token] for token in tokens] == [b"the", b" ", b"th", b"\xc3", b"\xa9"]
