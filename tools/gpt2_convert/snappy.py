# SPDX-License-Identifier: MIT
"""Decompresses Snappy, as https://github.com/google/snappy/blob/main/format_description.txt describes it."""

from __future__ import annotations

from .byte_reader import ByteReader


def decompress(data: bytes, limit: int, name: str) -> bytes:
    """The raw format, without framing. name is for messages; more than limit bytes are refused."""
    reader = ByteReader(data, name)
    length = reader.varint()
    if length > limit:
        raise reader.fail(f"at most {limit} bytes after decompression", f"{length}")
    result = bytearray()
    while not reader.at_end():
        tag = reader.little_endian(1)
        if tag & 3 == 0:
            result += reader.take(_literal_length(reader, tag))
        else:
            result += _copied(reader, tag, result)
        if len(result) > length:  # by 64 bytes or one literal at most: nothing grows without limit
            break
    if len(result) != length:
        raise reader.fail(f"{length} bytes after decompression", _more_than(length, len(result)))
    return bytes(result)


def _more_than(length: int, found: int) -> str:
    return "more" if found > length else f"{found}"


def _literal_length(reader: ByteReader, tag: int) -> int:
    """Up to 60 in the tag; longer ones stand in the 1 to 4 bytes behind it."""
    value = tag >> 2
    return (value if value < 60 else reader.little_endian(value - 59)) + 1


def _copied(reader: ByteReader, tag: int, result: bytearray) -> bytes:
    """What a copy element appends to the result."""
    kind = tag & 3
    if kind == 1:
        length = (tag >> 2 & 7) + 4
        offset = (tag >> 5) << 8 | reader.little_endian(1)
    else:
        length = (tag >> 2) + 1
        offset = reader.little_endian(2 if kind == 2 else 4)
    if not 1 <= offset <= len(result):
        raise reader.fail(f"a copy from 1 to {len(result)} bytes back", f"one from {offset} bytes back")
    start = len(result) - offset
    source = bytes(result[start : start + length])
    # A copy may run into what it writes itself, which repeats the source.
    return (source * (length // len(source) + 1))[:length]
