# SPDX-License-Identifier: MIT
"""Writes TensorFlow checkpoints of version 2 by hand, for the tests of their reader.

Shares no code with the reader, and follows the documents that define the format:

- LevelDB, doc/table_format.md and table/block_builder.cc: blocks, handles, footer;
- TensorFlow, core/protobuf/tensor_bundle.proto and core/framework/{tensor_shape,versions,types}.proto;
- https://protobuf.dev/programming-guides/encoding/;
- Snappy, format_description.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

MAGIC = 0xDB4775248B80FB57

DT_FLOAT, DT_DOUBLE, DT_INT32, DT_STRING, DT_INT64, DT_BFLOAT16, DT_HALF = 1, 2, 3, 7, 9, 14, 19


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """LevelDB, util/crc32c.h: rotated right by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    groups = []
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


# Protocol buffers


def varint_field(number: int, value: int) -> bytes:
    """proto3 leaves zeros out."""
    return varint(number << 3) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def fixed32_field(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<I", value) if value else b""


def header(n_shards: int = 1, endianness: int = 0, producer: int = 1, min_consumer: int = 0) -> bytes:
    version = varint_field(1, producer) + varint_field(2, min_consumer)
    return varint_field(1, n_shards) + varint_field(2, endianness) + bytes_field(3, version)


def shape_proto(shape: tuple[int, ...]) -> bytes:
    return b"".join(bytes_field(2, varint_field(1, extent)) for extent in shape)


def entry(dtype: int, shape: tuple[int, ...], shard: int, offset: int, size: int, masked_crc: int) -> bytes:
    return (
        varint_field(1, dtype)
        + bytes_field(2, shape_proto(shape))
        + varint_field(3, shard)
        + varint_field(4, offset)
        + varint_field(5, size)
        + fixed32_field(6, masked_crc)
    )


# Tables

Entries = list[tuple[bytes, bytes]]


def block(entries: Entries, restart_interval: int = 16) -> bytes:
    content, restarts, previous = b"", [0], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_interval != 0:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        elif i != 0:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    return content + b"".join(struct.pack("<I", n) for n in [*restarts, len(restarts)])


def table(
    entries: Entries,
    entries_per_block: int = 1000,
    restart_interval: int = 16,
    compressor: Optional[Callable[[bytes], bytes]] = None,
) -> bytes:
    """compressor: of the data blocks; none leaves them as they are."""
    data = b""

    def add(content: bytes, compression: int) -> bytes:
        nonlocal data
        handle = varint(len(data)) + varint(len(content))
        kind = bytes([compression])
        data += content + kind + struct.pack("<I", mask(crc32c(content + kind)))
        return handle

    index: Entries = []
    for start in range(0, len(entries), entries_per_block):
        group = entries[start : start + entries_per_block]
        content = block(group, restart_interval)
        handle = add(compressor(content), 1) if compressor else add(content, 0)
        index.append((group[-1][0] + b"~", handle))  # any key that is not before the last one of the block
    metaindex_handle = add(block([]), 0)
    index_handle = add(block(index, restart_interval=1), 0)
    return data + (metaindex_handle + index_handle).ljust(40, b"\0") + struct.pack("<Q", MAGIC)


# Bundles


@dataclass
class Tensor:
    name: str
    dtype: int
    shape: tuple[int, ...]
    data: bytes
    shard: int = 0
    edit: dict[str, int] = field(default_factory=dict)  #: lies: of offset, size, masked_crc, shard, dtype


def write(
    prefix: Path,
    tensors: list[Tensor],
    n_shards: int = 1,
    header_value: Optional[bytes] = None,
    more_entries: Optional[Entries] = None,
    **table_options: object,
) -> None:
    """Writes the index and all data files."""
    shards = [b""] * n_shards
    entries = [(b"", header(n_shards) if header_value is None else header_value), *(more_entries or [])]
    for tensor in tensors:
        fields: dict[str, int] = {
            "dtype": tensor.dtype,
            "shard": tensor.shard,
            "offset": len(shards[tensor.shard]),
            "size": len(tensor.data),
            "masked_crc": mask(crc32c(tensor.data)),
        }
        fields.update(tensor.edit)
        entries.append((tensor.name.encode(), entry(shape=tensor.shape, **fields)))
        shards[tensor.shard] += tensor.data
    index = table(sorted(entries), **table_options)  # type: ignore[arg-type]
    prefix.with_name(prefix.name + ".index").write_bytes(index)
    for i, data in enumerate(shards):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{n_shards:05d}").write_bytes(data)


# Snappy


def snappy_literal(data: bytes) -> bytes:
    n = len(data) - 1
    if n < 60:
        return bytes([n << 2]) + data
    n_bytes = (n.bit_length() + 7) // 8
    return bytes([59 + n_bytes << 2]) + n.to_bytes(n_bytes, "little") + data


def snappy_copy(kind: int, length: int, offset: int) -> bytes:
    """kind: 1, 2 or 3, for offsets of 11, 16 or 32 bits."""
    if kind == 1:
        assert 4 <= length <= 11 and offset < 2048
        return bytes([(offset >> 8) << 5 | (length - 4) << 2 | 1, offset & 0xFF])
    assert 1 <= length <= 64
    return bytes([(length - 1) << 2 | kind]) + offset.to_bytes(2 if kind == 2 else 4, "little")


def snappy(data: bytes) -> bytes:
    """Compresses greedily, and uses all kinds of copies in turn."""
    result = varint(len(data))
    position = literal_from = 0
    turn = 0
    while position < len(data):
        length, offset = _longest_match(data, position)
        if length < 4:
            position += 1
            continue
        if literal_from < position:
            result += snappy_literal(data[literal_from:position])
        kind = turn % 3 + 1
        turn += 1
        if kind == 1 and offset < 2048:
            length = min(length, 11)
        else:
            kind = max(kind, 2)
        result += snappy_copy(kind, length, offset)
        position += length
        literal_from = position
    return result + (snappy_literal(data[literal_from:]) if literal_from < position else b"")


def _longest_match(data: bytes, position: int) -> tuple[int, int]:
    """Length and offset of the longest earlier occurrence of what follows."""
    best = (0, 0)
    for start in range(max(0, position - 3000), position):
        length = 0
        while (
            length < 64 and position + length < len(data) and data[start + length] == data[position + length]
        ):
            length += 1
        best = max(best, (length, position - start))
    return best
