# SPDX-License-Identifier: MIT
"""Reads messages of protocol buffers: https://protobuf.dev/programming-guides/encoding/."""

from __future__ import annotations

from typing import Union

from .byte_reader import ByteReader

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = {_VARINT: "a varint", _FIXED64: "8 bytes", _BYTES: "a length and bytes", _FIXED32: "4 bytes"}


class Message:
    """The fields of one message, by number. The caller knows their types; others are ignored."""

    def __init__(self, data: bytes, name: str) -> None:
        """name begins every message of error."""
        self._reader = ByteReader(data, name)
        self._fields: dict[int, list[tuple[int, Union[int, bytes]]]] = {}
        while not self._reader.at_end():
            number, wire_type = divmod(self._reader.varint(), 8)
            if number == 0 or wire_type not in _WIRE_TYPES:
                raise self._reader.fail(
                    "a field with a number and a type of protocol buffers",
                    f"number {number}, type {wire_type}",
                )
            self._fields.setdefault(number, []).append((wire_type, self._value(wire_type)))

    def _value(self, wire_type: int) -> Union[int, bytes]:
        if wire_type == _VARINT:
            return self._reader.varint()
        if wire_type == _BYTES:
            return self._reader.take(self._reader.varint())
        return self._reader.little_endian(8 if wire_type == _FIXED64 else 4)

    def has(self, number: int) -> bool:
        return number in self._fields

    def integer(self, number: int) -> int:
        """A field of type int32, int64, bool or enum: the last one counts, and an absent one is 0."""
        return self._signed(self._last(number, _VARINT))

    def fixed32(self, number: int) -> int:
        return self._last(number, _FIXED32)

    def integers(self, number: int) -> list[int]:
        """A repeated field of integers, which may be packed."""
        result = []
        for wire_type, value in self._fields.get(number, []):
            if isinstance(value, int):
                self._require(number, wire_type, _VARINT)
                result.append(self._signed(value))
                continue
            packed = ByteReader(value, self._reader.name)
            while not packed.at_end():
                result.append(self._signed(packed.varint()))
        return result

    def message(self, number: int) -> Message:
        """A field that is a message. An absent one is empty, and one that is there in parts is their sum."""
        return Message(b"".join(self._bytes(number)), self._reader.name)

    def messages(self, number: int) -> list[Message]:
        return [Message(data, self._reader.name) for data in self._bytes(number)]

    def _bytes(self, number: int) -> list[bytes]:
        result = []
        for wire_type, value in self._fields.get(number, []):
            self._require(number, wire_type, _BYTES)
            assert isinstance(value, bytes)
            result.append(value)
        return result

    def _last(self, number: int, expected: int) -> int:
        result = 0
        for wire_type, value in self._fields.get(number, []):
            self._require(number, wire_type, expected)
            assert isinstance(value, int)
            result = value
        return result

    def _require(self, number: int, found: int, expected: int) -> None:
        if found != expected:
            raise self._reader.fail(f"field {number} as {_WIRE_TYPES[expected]}", f"{_WIRE_TYPES[found]}")

    @staticmethod
    def _signed(value: int) -> int:
        """Negative numbers are written in two's complement of 64 bits."""
        return value - (1 << 64) if value >> 63 else value
