# SPDX-License-Identifier: MIT
"""The tokenizer's tables, looked up here as docs/model-format.md describes them, and what is refused.

That they are the library's own, byte for byte, is shown by converted_model_test.cpp.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from gpt2_convert import tokenizer_tables
from gpt2_convert.errors import ConvertError
from gpt2_convert.tokenizer_tables import BYTE_CHARACTERS, NOT_ENCODED, TokenizerTables, slots_for

DATA = Path(__file__).parents[1] / "data" / "tokenizer"
MASK = 2**64 - 1


def make(merges: list[tuple[str, str]], more: list[str], name: str = "a test") -> TokenizerTables:
    """All bytes, the products, and more tokens, by ascending id."""
    tokens = [*BYTE_CHARACTERS, *("".join(pair) for pair in merges), *more]
    return TokenizerTables(vocab([*dict.fromkeys(tokens)]), merges_text(merges), name)


def vocab(tokens: list[str]) -> bytes:
    return json.dumps({token: index for index, token in enumerate(tokens)}, ensure_ascii=False).encode()


def merges_text(merges: list[tuple[str, str]]) -> bytes:
    return "".join(f"{left} {right}\n" for left, right in merges).encode()


def mix(x: int) -> int:
    x = x * 0x9E3779B97F4A7C15 & MASK
    return ((x ^ x >> 32) * 0xFF51AFD7ED558CCD) & MASK


class Lookup:
    """Finds things in the tables, written from the specification."""

    def __init__(self, tokenizer: TokenizerTables) -> None:
        self.tables = tokenizer.tables()
        self.short = self.tables["short_tokens"].reshape(-1, 4).tolist()
        self.long = self.tables["long_tokens"].reshape(-1, 3).tolist()
        self.pairs = self.tables["pairs"].reshape(-1, 3).tolist()
        self.filter = self.tables["pair_filter"].tolist()

    def token(self, token: bytes) -> tuple[int, int] | None:
        """Id and size."""
        if len(token) <= 8:
            packed = int.from_bytes(token, "little")
            at = mix(packed ^ len(token) << 59) >> 32
            while self.short[at % len(self.short)][3] != 0:
                low, high, index, size = self.short[at % len(self.short)]
                if low | high << 32 == packed and size & 0x7FFFFFFF == len(token):
                    return index, size
                at += 1
            return None
        h = len(token)
        for i in range(0, len(token) - 8, 8):
            h = mix(h ^ int.from_bytes(token[i : i + 8], "little"))
        h = mix(h ^ int.from_bytes(token[-8:], "little"))
        at = h >> 32
        while self.long[at % len(self.long)][0] != 0xFFFFFFFF:
            index, low, size = self.long[at % len(self.long)]
            if low == h & 0xFFFFFFFF and self.bytes(index) == token:
                return index, size
            at += 1
        return None

    def bytes(self, index: int) -> bytes:
        ends = self.tables["token_ends"]
        begin = int(ends[index - 1]) if index else 0
        return self.tables["token_bytes"][begin : int(ends[index])].tobytes()

    def rank(self, left: int, right: int) -> int | None:
        h = mix(left << 32 | right)
        may_be = self.filter[(h >> 20) % len(self.filter)] >> (h >> 58) & 1
        at = h >> 32
        while self.pairs[at % len(self.pairs)][2] != 0xFFFFFFFF:
            if self.pairs[at % len(self.pairs)][:2] == [left, right]:
                assert may_be
                return int(self.pairs[at % len(self.pairs)][2])
            at += 1
        return None


@pytest.fixture(scope="module")
def gpt2() -> TokenizerTables:
    return TokenizerTables(
        (DATA / "vocab.json").read_bytes(), (DATA / "merges.txt").read_bytes(), "tests/data/tokenizer"
    )


def test_the_alphabet():
    """As in src/encoder.py of openai/gpt-2, bytes_to_unicode()."""
    printing = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printing]
    expected = {byte: chr(byte) for byte in printing}
    expected.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    assert BYTE_CHARACTERS == [expected[byte] for byte in range(256)]


def test_sizes_of_hash_tables():
    for n in range(1000):
        slots = slots_for(n)
        assert slots & (slots - 1) == 0 and slots >= n + n // 2 + 2
        assert slots // 2 < n + n // 2 + 2


def test_all_tokens_of_gpt2(gpt2):
    look = Lookup(gpt2)
    spelled = json.loads((DATA / "vocab.json").read_text(encoding="utf-8"))
    to_byte = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
    assert len(gpt2) == 50257 and len(look.tables["token_ends"]) == 50257
    for spelling, index in spelled.items():
        token = bytes(to_byte[character] for character in spelling)
        found = look.token(token)
        assert found is not None and found[0] == index
        assert look.bytes(index) == (b"<|endoftext|>" if index == 50256 else token)
    assert look.token(b"<|endoftext|>") == (50256, 13 | NOT_ENCODED)
    assert look.token(b" the") == (262, 4) and look.token(b"\n") == (198, 1)
    assert look.token(b" qzx") is None and look.token(b"no such token") is None
    assert look.tables["specials"].tolist() == [50256]
    assert np.flatnonzero(look.tables["is_special"]).tolist() == [50256]
    assert look.tables["token_bytes"][-16:].tobytes() == bytes(16)
    assert len(look.tables["token_bytes"]) == int(look.tables["token_ends"][-1]) + 16
    assert look.tables["byte_tokens"][[ord("!"), ord(" "), 0]].tolist() == [0, 220, 188]


def test_all_merges_of_gpt2(gpt2):
    look = Lookup(gpt2)
    merges = (DATA / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    assert len(merges) == 50000 == len(look.tables["products"])
    spelled = json.loads((DATA / "vocab.json").read_text(encoding="utf-8"))
    for rank, line in enumerate(merges):
        left, right = line.split(" ")
        assert look.rank(spelled[left], spelled[right]) == rank
        assert look.tables["products"][rank] == spelled[left + right]
    assert look.rank(0, 0) != 0 and look.rank(50256, 50256) is None


def test_which_tokens_the_merges_lead_to(gpt2):
    """Nearly all of GPT-2's: which ones is compared with the library elsewhere."""
    look = Lookup(gpt2)
    sizes = [*(slot[3] for slot in look.short), *(slot[2] for slot in look.long)]
    not_encoded = sum(size >= NOT_ENCODED for size in sizes)
    assert 1 <= not_encoded < 100


def test_a_token_that_the_merges_do_not_lead_to():
    """ "abc" is made of "a" and "bc", but "ab" comes first and is in the way."""
    look = Lookup(make([("a", "b"), ("b", "c"), ("a", "bc")], []))
    assert look.token(b"abc") == (258, 3 | NOT_ENCODED)
    assert look.token(b"ab") == (256, 2) and look.token(b"bc") == (257, 2) and look.token(b"c") == (99, 1)


def test_merges_happen_everywhere_before_the_next():
    """Of "aaaa" and "aaa": the same pair merges from the left, and does not overlap itself."""
    look = Lookup(make([("a", "a"), ("aa", "aa"), ("aa", "a"), ("a", "aa")], []))
    assert look.token(b"aaaa") == (257, 4) and look.token(b"aaa") == (258, 3)
    look = Lookup(make([("a", "a"), ("a", "aa")], []))
    assert look.token(b"aaa") == (257, 3 | NOT_ENCODED)  # it becomes aa a


def test_merges_happen_everywhere_even_if_they_make_an_earlier_one():
    """The first "abc" could merge with the "ab" behind it, by a rank that is lower, but both come first."""
    merges = [("abc", "ab"), ("a", "b"), ("ab", "c"), ("abc", "abc"), ("abcab", "c")]
    look = Lookup(make(merges, []))
    assert look.token(b"abcabc") == (259, 6)
    look = Lookup(make([*merges[:3], ("abcab", "c")], []))
    assert look.token(b"abcabc") == (259, 6 | NOT_ENCODED)


def test_special_tokens():
    """Some are spelled in the alphabet and are in the tables too, under what they spell; all are sorted."""
    look = Lookup(make([], ["<你>", "<b>", "<a>", "a special token of many bytes", "Ġspelled"]))
    ids = look.tables["specials"].tolist()
    assert ids == [258, 257, 256, 259, 260]
    names = [look.bytes(index).decode() for index in ids]
    assert names == sorted(names) == ["<a>", "<b>", "<你>", "a special token of many bytes", "Ġspelled"]
    assert look.token(b"<a>") == (258, 3 | NOT_ENCODED)
    assert look.token(b" spelled") == (260, 8 | NOT_ENCODED)
    assert look.token("<你>".encode()) is None and look.token(b"a special token of many bytes") is None


def test_no_merges():
    tokenizer = make([], [])
    look = Lookup(tokenizer)
    assert len(tokenizer) == 256 and tokenizer.merges == []
    assert len(look.pairs) == 2 and look.rank(1, 2) is None and len(look.tables["pair_filter"]) == 1
    assert look.tables["specials"].tolist() == []


def test_lines_of_merges_that_are_no_merges_but_allowed():
    lines = {
        "#version: 0.2\nt h\nth e\n",
        "t h\nth e",
        "#version: 0.2\r\nt h\r\nth e\r\n",
        "t h\nth e\n\n\r\n\n",
    }
    tokens = [*BYTE_CHARACTERS, "th", "the"]
    for text in lines:
        merges = TokenizerTables(vocab(tokens), text.encode(), "x").merges
        assert merges == [(b"t", b"h"), (b"th", b"e")]


# What is refused, as tokenizer_files_test.cpp has it.

TOKENS = [*BYTE_CHARACTERS, "th", "the", "<s>"]
MERGES = b"t h\nth e\n"


def refused(vocab_json: bytes, merges_txt: bytes, *parts: str) -> None:
    with pytest.raises(ConvertError) as error:
        TokenizerTables(vocab_json, merges_txt, "a test")
    for part in parts:
        assert part in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "text, part",
    [
        (b"", "an empty file"),
        (b"   ", "expected valid JSON"),
        (b"#version: 0.2\na b\n", "line 1"),
        (b'{"a": 0}\n\n}', "line 3"),
        (b'{"a": 0}\0', "expected valid JSON"),
        (b'{"a\xff": 0}', "not UTF-8"),
        (b'{"a\\ud800": 0}', "not UTF-8"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": 0, "a": 1}', "twice"),
        (b'{"a": NaN}', "expected valid JSON"),
        (b"{" * 100000, "expected valid JSON"),
        (b"[]", "a JSON object of tokens and their ids, found an array"),
        (b"12", "a JSON object of tokens and their ids, found 12"),
        (b'"the"', 'found "the"'),
        (b"null", "found null"),
        (b"{}", "a token for every byte, found none for byte 0"),
    ],
)
def test_vocabularies_that_are_none(text, part):
    refused(text, MERGES, '"a test: vocab.json": expected ', part)


def with_id(value: Any) -> bytes:
    """Another id for "th"."""
    return vocab(TOKENS).replace(b": 256", f": {json.dumps(value)}".encode())


@pytest.mark.parametrize(
    "value", [-1, 1.5, 256.0, "256", None, False, [256], {"a": 256}, 259, 2**31, 10**30]
)
def test_ids_that_are_none(value):
    refused(
        with_id(value), MERGES, "expected 259 tokens to have the ids 0 to 258", 'found token "th" with id'
    )


def test_tokens_that_are_none():
    TokenizerTables(with_id(256), MERGES, "a test")
    refused(with_id(255), MERGES, "expected every id once, found 255 for", '"th"')
    for token, shown in [("", '""'), ("x" * 65536, '"xxx'), ("你" * 21846, '"你你')]:
        refused(vocab([*TOKENS, token]), MERGES, "expected tokens of 1 to 65535 bytes, found " + shown)
    refused(vocab(["<a>", *TOKENS[1:]]), MERGES, 'none for byte 0 (spelled "Ā")')
    refused(vocab(["< >" if t == "Ġ" else t for t in TOKENS]), MERGES, 'none for byte 32 (spelled "Ġ")')


@pytest.mark.parametrize(
    "line",
    ["the", "th  e", " th e", "th e ", "t h e", " ", "", "th\te", "#version: 0.2 again", "th 你", "th \u00a0"],
)
def test_lines_that_are_no_merges(line):
    for end in ("\n", "\nth e\n"):
        if line or end != "\n":
            text = f"#version: 0.2\nt h\n{line}{end}".encode()
            refused(
                vocab(TOKENS), text, '"a test: merges.txt": line 3: expected two tokens', "with one space"
            )


def test_merges_that_are_not_text():
    refused(vocab(TOKENS), b"t h\nth \xff\n", '"a test: merges.txt": line 2: expected UTF-8')
    refused(vocab(TOKENS), b"t h\nth \x00\n", "line 2: expected two tokens")
    refused(vocab(TOKENS), b"x" * 1000000, "line 1: expected two tokens")


@pytest.mark.parametrize(
    "merges, parts",
    [
        ("t h\nth a\n", ["line 2: expected tokens of the vocabulary", '"tha", which is not in it']),
        ("t h\nte h\n", ["line 2: expected tokens of the vocabulary", '"te']),
        ("t h\nt he\n", ["line 2: expected tokens of the vocabulary", '"he"']),
        ("t h\nth e\nt h\n", ["line 3: expected every merge once", '"t h" again (first in line 1)']),
        ("#version: 0.2\nt h\nth e\nt h\n", ["line 4: expected every merge once", "(first in line 2)"]),
        (
            "#version: 0.2\nth e\n",
            ["line 2: expected single bytes or products of merges", '"th", which is neither'],
        ),
    ],
)
def test_merges_that_do_not_fit_the_vocabulary(merges, parts):
    refused(vocab(TOKENS), merges.encode(), *parts)


def test_names_in_messages_cannot_command_a_terminal():
    refused(vocab([*TOKENS, "\x1b[2J"]).replace(b": 259", b": 300"), MERGES, r"\x1b[2J")


def test_the_tiny_tokenizer_of_the_other_tests():
    tokenizer = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    assert tokenizer.spellings == tiny_model.TOKENS
    assert [index for index, special in enumerate(tokenizer.is_special) if special] == [
        tiny_model.VOCAB_SIZE - 1
    ]
    assert tokenizer_tables.unspell("Ġthe") == b" the" and tokenizer_tables.unspell("你") is None
    assert tokenizer_tables.spell(b" the") == "Ġthe"
