# SPDX-License-Identifier: MIT
"""Reads bytes one after another, and never past their end."""

from __future__ import annotations

from .errors import ConvertError


class ByteReader:
    """A position in bytes that came from a file."""

    def __init__(self, data: bytes, name: str) -> None:
        """name begins every message, and says what the bytes are."""
        self.data, self.name = data, name
        self.position = 0

    def at_end(self) -> bool:
        return self.position == len(self.data)

    def fail(self, expected: str, found: str) -> ConvertError:
        return ConvertError(f"{self.name}: expected {expected}, found {found}")

    def take(self, n: int) -> bytes:
        """The next n bytes."""
        left = len(self.data) - self.position
        if n > left:
            raise self.fail(f"{n} more bytes at byte {self.position}", f"{left}")
        self.position += n
        return self.data[self.position - n : self.position]

    def little_endian(self, n_bytes: int) -> int:
        return int.from_bytes(self.take(n_bytes), "little")

    def varint(self) -> int:
        """A number in 7-bit groups, the lowest first; all bytes but the last have their highest bit set.

        https://protobuf.dev/programming-guides/encoding/#varints: 64 bits in 10 bytes at most.
        """
        start = self.position
        value = 0
        for shift in range(0, 70, 7):
            byte = self.little_endian(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        if byte >= 0x80 or value >> 64:
            raise self.fail(f"a number of at most 64 bits at byte {start}", "a longer one")
        return value
