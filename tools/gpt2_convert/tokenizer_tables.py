# SPDX-License-Identifier: MIT
"""The tokenizer's tables, as the library uses them in place.

They are specified in docs/model-format.md, and made here as TokenizerBuilder does it in the library: same
tables, byte for byte, from the same vocab.json and merges.txt.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from . import json_text
from .errors import ConvertError
from .messages import quoted, shown

NO_TOKEN = 0xFFFFFFFF  #: in the place of a token: there is none
NO_RANK = 0xFFFFFFFF  #: in the place of a rank: the slot is free
NOT_ENCODED = 0x80000000  #: added to the size of a token that the merges do not lead to
MAX_SHORT_TOKEN = 8
MAX_TOKEN_SIZE = 65535
TOKEN_PADDING = 16  #: bytes behind the last token's that may be read
MASK = 0xFFFFFFFFFFFFFFFF

Table = npt.NDArray[np.unsignedinteger[Any]]


def _byte_characters() -> list[str]:
    """The character of each byte: itself where it prints, else from U+0100 (openai/gpt-2, src/encoder.py)."""
    table, following = [], 256
    for byte in range(256):
        prints = ord("!") <= byte <= ord("~") or (byte >= 0xA1 and byte != 0xAD)
        table.append(chr(byte if prints else following))
        following += not prints
    return table


BYTE_CHARACTERS = _byte_characters()
CHARACTER_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


def unspell(text: str) -> bytes | None:
    """The bytes that a spelling stands for; None where a character is not of the alphabet."""
    try:
        return bytes(CHARACTER_BYTES[character] for character in text)
    except KeyError:
        return None


def spell(token: bytes) -> str:
    return "".join(BYTE_CHARACTERS[byte] for byte in token)


def read_vocabulary(vocab_json: bytes, name: str) -> list[str]:
    """The spellings of all tokens, by id. The ids must be 0 to V - 1."""
    vocabulary = json_text.parse(vocab_json, name)
    if not isinstance(vocabulary, dict):
        raise ConvertError(
            f'"{name}": expected a JSON object of tokens and their ids, found {shown(vocabulary)}'
        )
    spellings: list[str | None] = [None] * len(vocabulary)
    for token, index in vocabulary.items():
        if not 0 < len(token.encode("utf-8")) <= MAX_TOKEN_SIZE:
            raise ConvertError(
                f'"{name}": expected tokens of 1 to {MAX_TOKEN_SIZE} bytes, found {quoted(token)}'
            )
        if type(index) is not int or not 0 <= index < len(spellings):
            raise ConvertError(
                f'"{name}": expected {len(spellings)} tokens to have the ids 0 to {len(spellings) - 1}, '
                f"found token {quoted(token)} with id {shown(index)}"
            )
        other = spellings[index]
        if other is not None:
            raise ConvertError(
                f'"{name}": expected every id once, found {index} for {quoted(other)} and for {quoted(token)}'
            )
        spellings[index] = token
    return [token for token in spellings if token is not None]


def read_merges(merges_txt: bytes, name: str) -> tuple[list[tuple[bytes, bytes]], int]:
    """The merges in the order of their ranks, as bytes, and the line that the first one is in."""
    try:
        lines = merges_txt.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        at = 1 + merges_txt.count(b"\n", 0, error.start)
        raise ConvertError(f'"{name}": line {at}: expected UTF-8, found other bytes') from None
    lines = [line[:-1] if line.endswith("\r") else line for line in lines]
    first = 2 if lines[0].startswith("#version") else 1
    while lines and not lines[-1]:
        lines.pop()
    merges = []
    for number, line in enumerate(lines[first - 1 :], first):
        left, _, right = line.partition(" ")
        parts = unspell(left), unspell(right)
        if not parts[0] or not parts[1]:
            raise ConvertError(
                f'"{name}": line {number}: expected two tokens, spelled in the characters of byte-level '
                f"vocabularies, with one space between them, found {quoted(line)}"
            )
        merges.append((parts[0], parts[1]))
    return merges, first


def _mix_bits(key: int) -> int:
    key = key * 0x9E3779B97F4A7C15 & MASK
    key ^= key >> 32
    return key * 0xFF51AFD7ED558CCD & MASK


def _short_hash(packed: int, size: int) -> int:
    return _mix_bits(packed ^ (size << 59))


def _long_hash(token: bytes) -> int:
    hash_ = len(token)
    for at in range(0, len(token) - 8, 8):
        hash_ = _mix_bits(hash_ ^ int.from_bytes(token[at : at + 8], "little"))
    return _mix_bits(hash_ ^ int.from_bytes(token[-8:], "little"))


def slots_for(n: int) -> int:
    """The smallest power of two that leaves a third of the slots free."""
    return 1 << (n + n // 2 + 1).bit_length()


class _Probe:
    """Finds free slots in an open-addressed table: linear probing from the upper half of the hash."""

    def __init__(self, slots: int) -> None:
        self._taken = bytearray(slots)

    def take(self, hash_: int) -> int:
        mask = len(self._taken) - 1
        slot = (hash_ >> 32) & mask
        while self._taken[slot]:
            slot = (slot + 1) & mask
        self._taken[slot] = 1
        return slot


class TokenizerTables:
    """A vocabulary that has been checked, and its tables."""

    def __init__(self, vocab_json: bytes, merges_txt: bytes, name: str) -> None:
        """name: of the place that the files come from, for messages."""
        self._vocab_name, self._merges_name = f"{name}: vocab.json", f"{name}: merges.txt"
        self.spellings = read_vocabulary(vocab_json, self._vocab_name)
        self.merges, self._first_line = read_merges(merges_txt, self._merges_name)
        self._bytes = [unspell(token) for token in self.spellings]
        self._ids = {token: index for index, token in enumerate(self._bytes) if token is not None}
        self._index_merges()
        self.tokens = [
            token.encode("utf-8") if special else self._bytes[index] or b""
            for index, (token, special) in enumerate(zip(self.spellings, self.is_special))
        ]

    def __len__(self) -> int:
        return len(self.spellings)

    def tables(self) -> dict[str, Table]:
        """The tables by name. Every one is an array of one dimension."""
        whole = self._whole_tokens()
        specials = sorted(
            (index for index, special in enumerate(self.is_special) if special), key=self.tokens.__getitem__
        )
        pairs, pair_filter = self._pair_tables()
        return {
            "token_ends": np.cumsum([len(token) for token in self.tokens]).astype(np.uint32),
            "token_bytes": np.frombuffer(b"".join(self.tokens) + bytes(TOKEN_PADDING), np.uint8),
            "is_special": np.array(self.is_special, np.uint8),
            "specials": np.array(specials, np.uint32),
            "byte_tokens": np.array(self.byte_tokens, np.uint32),
            "products": np.array(self.products, np.uint32),
            "short_tokens": self._short_tokens(whole),
            "long_tokens": self._long_tokens(whole),
            "pairs": pairs,
            "pair_filter": pair_filter,
        }

    def _index_merges(self) -> None:
        self.is_special = [1] * len(self.spellings)
        self.byte_tokens = []
        for byte in range(256):
            index = self._ids.get(bytes([byte]))
            if index is None:
                raise ConvertError(
                    f'"{self._vocab_name}": expected a token for every byte, found none for byte {byte} '
                    f'(spelled "{BYTE_CHARACTERS[byte]}")'
                )
            self.byte_tokens.append(index)
            self.is_special[index] = 0
        self.products = [self._merge_id(rank, left + right) for rank, (left, right) in enumerate(self.merges)]
        for product in self.products:
            self.is_special[product] = 0
        self.ranks: dict[tuple[int, int], int] = {}
        for rank, (left, right) in enumerate(self.merges):
            pair = self._merge_id(rank, left), self._merge_id(rank, right)
            for index in pair:
                if self.is_special[index]:
                    raise self._merge_error(
                        rank,
                        f"single bytes or products of merges, found {quoted(self.spellings[index])}, "
                        "which is neither",
                    )
            if pair in self.ranks:
                again = f"{spell(left)} {spell(right)}"
                first = self._first_line + self.ranks[pair]
                raise self._merge_error(
                    rank, f"every merge once, found {quoted(again)} again (first in line {first})"
                )
            self.ranks[pair] = rank

    def _merge_id(self, rank: int, token: bytes) -> int:
        index = self._ids.get(token)
        if index is None:
            raise self._merge_error(
                rank, f"tokens of the vocabulary, found {quoted(spell(token))}, which is not in it"
            )
        return index

    def _merge_error(self, rank: int, expected: str) -> ConvertError:
        return ConvertError(f'"{self._merges_name}": line {self._first_line + rank}: expected {expected}')

    def _whole_tokens(self) -> list[bool]:
        """Which tokens byte-pair encoding makes of their own bytes."""
        return [
            not special and self.encode(token) == [index]
            for index, (token, special) in enumerate(zip(self.tokens, self.is_special))
        ]

    def encode(self, piece: bytes) -> list[int]:
        """Byte-pair encoding: the neighbours of lowest rank merge, everywhere, until none do."""
        tokens = [self.byte_tokens[byte] for byte in piece]
        best = -1
        while True:
            ranks: list[int] = list(map(self.ranks.get, zip(tokens, tokens[1:]), repeat(NO_RANK)))
            if best not in ranks:
                best = min(ranks, default=NO_RANK)
                if best == NO_RANK:
                    return tokens
            at = ranks.index(best)
            tokens[at : at + 2] = [self.products[best]]

    def _encoded_tokens(self, short: bool) -> list[tuple[int, bytes]]:
        return [
            (index, token)
            for index, token in enumerate(self._bytes)
            if token is not None and (len(token) <= MAX_SHORT_TOKEN) == short
        ]

    def _slots(self, short: bool) -> int:
        """Tokens that are not spelled in the alphabet are in no table, but counted."""
        sizes = (
            len(token if token is not None else spelling.encode("utf-8"))
            for token, spelling in zip(self._bytes, self.spellings)
        )
        return slots_for(sum((size <= MAX_SHORT_TOKEN) == short for size in sizes))

    def _short_tokens(self, whole: list[bool]) -> Table:
        slots = self._slots(short=True)
        probe, table = _Probe(slots), np.zeros((slots, 4), np.uint32)
        for index, token in self._encoded_tokens(short=True):
            packed = int.from_bytes(token, "little")
            size = len(token) | (0 if whole[index] else NOT_ENCODED)
            table[probe.take(_short_hash(packed, len(token)))] = (
                packed & 0xFFFFFFFF,
                packed >> 32,
                index,
                size,
            )
        return table.reshape(-1)

    def _long_tokens(self, whole: list[bool]) -> Table:
        slots = self._slots(short=False)
        probe, table = _Probe(slots), np.zeros((slots, 3), np.uint32)
        table[:, 0] = NO_TOKEN
        for index, token in self._encoded_tokens(short=False):
            hash_ = _long_hash(token)
            size = len(token) | (0 if whole[index] else NOT_ENCODED)
            table[probe.take(hash_)] = (index, hash_ & 0xFFFFFFFF, size)
        return table.reshape(-1)

    def _pair_tables(self) -> tuple[Table, Table]:
        slots = slots_for(len(self.ranks))
        words = max(slots // 8, 1)
        probe, table = _Probe(slots), np.zeros((slots, 3), np.uint32)
        table[:, 2] = NO_RANK
        bits = [0] * words
        for (left, right), rank in self.ranks.items():
            hash_ = _mix_bits(left << 32 | right)
            bits[(hash_ >> 20) & (words - 1)] |= 1 << (hash_ >> 58)
            table[probe.take(hash_)] = (left, right, rank)
        return table.reshape(-1), np.array(bits, np.uint64)
