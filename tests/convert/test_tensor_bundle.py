# SPDX-License-Identifier: MIT
"""Reading TensorFlow checkpoints, against a writer that shares no code with the reader."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import bundle_writer as w
import numpy as np
import pytest
from gpt2_convert import crc32c, protobuf, snappy, sstable, tensor_bundle
from gpt2_convert.errors import ConvertError

DATA = Path(__file__).parent / "data"

# CRC32C

READ_COMMAND = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400"
    "00000014 00000018 28000000 00000000 02000000 00000000"
)


@pytest.mark.parametrize(
    "data, expected",
    [  # RFC 3720, B.4, which prints the bytes in the order of transmission
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(reversed(range(32))), "5cdb3f11"),
        (READ_COMMAND, "563a96d9"),
        (b"123456789", "839206e3"),
        (b"", "00000000"),
    ],
)
def test_crc32c_known_answers(data: bytes, expected: str) -> None:
    assert struct.pack("<I", crc32c.crc32c(data)).hex() == expected
    assert w.crc32c(data) == crc32c.crc32c(data)


def test_crc32c_all_lengths_and_joints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the bitwise definition, over the edges of words, lanes, pairs of lanes and pieces."""
    monkeypatch.setattr(crc32c, "_PIECE", 4096)
    data = np.random.default_rng(1).integers(0, 256, 10_000, dtype=np.uint8)
    lengths = [
        *range(20),
        *range(250, 262),
        511,
        512,
        513,
        767,
        768,
        1279,
        1280,
        1281,
        4095,
        4096,
        4097,
        9001,
    ]
    for n in lengths:
        expected = w.crc32c(data[:n].tobytes())
        assert crc32c.crc32c(data[:n]) == expected
        assert crc32c.crc32c(data[:n].tobytes()) == expected
    assert crc32c.crc32c(data[3:1000]) == w.crc32c(data[3:1000].tobytes())


def test_crc32c_unmask() -> None:
    assert crc32c.unmask(0xA282EAD8) == 0
    for crc in (0, 1, 0x80000000, 0xFFFFFFFF, 0xE3069283, 0x8A9136AA):
        assert crc32c.unmask(w.mask(crc)) == crc


# Snappy


@pytest.mark.parametrize(
    "stream, expected",
    [
        ("00", b""),
        ("05 10 68656c6c6f", b"hello"),
        ("07 08 786162 01 02", b"xababab"),  # 11-bit offset
        ("07 08 786162 0e 0200", b"xababab"),  # 16-bit offset
        ("07 08 786162 0f 02000000", b"xababab"),  # 32-bit offset
        ("0a 00 61 22 0100", b"a" * 10),  # a copy of what it writes itself
        ("05 00 61 00 62 08 636465", b"abcde"),  # several literals
        ("8002 f0 ff" + "61" * 256, b"a" * 256),  # a length of a literal in 1 byte, then in 2, 3 and 4
        ("8002 f4 ff00" + "61" * 256, b"a" * 256),
        ("8002 f8 ff0000" + "61" * 256, b"a" * 256),
        ("8002 fc ff000000" + "61" * 256, b"a" * 256),
        ("3c ec" + "61" * 60, b"a" * 60),  # the longest in the tag
    ],
)
def test_snappy_known_answers(stream: str, expected: bytes) -> None:
    assert snappy.decompress(bytes.fromhex(stream), 1000, "x") == expected


def test_snappy_far_copies() -> None:
    """Offsets of 2047, which 11 bits hold, 65535, which 16 hold, and beyond."""
    data = np.random.default_rng(2).integers(0, 256, 70_000, dtype=np.uint8).tobytes()
    for kind, offset in ((1, 2047), (2, 2047), (2, 65535), (3, 65535), (3, 69_999)):
        stream = w.varint(70_010) + w.snappy_literal(data) + w.snappy_copy(kind, 10, offset)
        assert snappy.decompress(stream, 1 << 20, "x") == data + data[-offset:][:10]


@pytest.mark.parametrize(
    "stream, message",
    [
        ("", "1 more bytes at byte 0, found 0"),
        ("80", "1 more bytes"),
        ("05 10 68656c6c", "5 more bytes at byte 2, found 4"),
        ("04 10 68656c6c6f", "4 bytes after decompression, found more"),
        ("06 10 68656c6c6f", "6 bytes after decompression, found 5"),
        ("05", "5 bytes after decompression, found 0"),
        ("04 01 01", "a copy from 1 to 0 bytes back, found one from 1"),  # before the beginning
        ("07 08 786162 0e 0000", "a copy from 1 to 3 bytes back, found one from 0"),
        ("07 08 786162 0e 0400", "a copy from 1 to 3 bytes back, found one from 4"),
        ("07 08 786162 0e 02", "2 more bytes"),
        ("ffffffff0f 10 68656c6c6f", "at most 1000 bytes after decompression, found 4294967295"),
        ("ffffffffffffffffffff 00", "a number of at most 64 bits"),
        ("05 fc ffffffff 61", "4294967296 more bytes"),
    ],
)
def test_snappy_refuses(stream: str, message: str) -> None:
    with pytest.raises(ConvertError, match=f"^block: expected .*{message}"):
        snappy.decompress(bytes.fromhex(stream), 1000, "block")


def test_snappy_stops_at_the_declared_length() -> None:
    """Copies that would make gigabytes are not carried out."""
    wrong = w.snappy_copy(2, 64, 0)  # never reached
    stream = bytes.fromhex("0a 00 61") + w.snappy_copy(2, 64, 1) * 1000 + wrong
    with pytest.raises(ConvertError, match="10 bytes after decompression, found more"):
        snappy.decompress(stream, 1 << 40, "x")


# Protocol buffers


def test_protobuf_fields() -> None:
    data = (
        w.varint_field(1, 150)
        + w.varint_field(2, -2)
        + w.fixed32_field(3, 0xFFFFFFFE)
        + w.bytes_field(4, w.varint_field(1, 7))
        + w.bytes_field(4, w.varint_field(2, 8))
        + w.varint(9 << 3 | 1)
        + bytes(8)
        + w.varint_field(1, 151)
        + w.bytes_field(5, w.varint(3) + w.varint(270))
        + w.varint_field(5, 4)
    )
    message = protobuf.Message(data, "x")
    assert message.integer(1) == 151  # the last one counts
    assert message.integer(2) == -2
    assert message.fixed32(3) == 0xFFFFFFFE
    assert [part.integer(1) for part in message.messages(4)] == [7, 0]
    assert message.message(4).integer(1) == 7 and message.message(4).integer(2) == 8
    assert message.integers(5) == [3, 270, 4]  # packed and not
    assert message.integer(8) == 0 and message.messages(8) == [] and not message.has(8)
    assert message.has(9)


@pytest.mark.parametrize(
    "data, message",
    [
        ("08", "1 more bytes"),
        ("0880", "1 more bytes"),
        ("08 ffffffffffffffffff02", "a number of at most 64 bits"),
        ("1205 61", "5 more bytes at byte 2, found 1"),
        ("12 ffffffffffffffff7f", "9223372036854775807 more bytes"),
        ("1d 000000", "4 more bytes"),
        ("09 00000000000000", "8 more bytes"),
        ("0b 0c", "a number and a type"),  # a group
        ("0e", "a number and a type"),
        ("00 00", "a number and a type"),
    ],
)
def test_protobuf_refuses(data: str, message: str) -> None:
    with pytest.raises(ConvertError, match=f"^entry: expected .*{message}"):
        protobuf.Message(bytes.fromhex(data), "entry")


def test_protobuf_refuses_other_types() -> None:
    message = protobuf.Message(w.bytes_field(1, b"ab") + w.varint_field(2, 5), "entry")
    for read in (message.integer, message.fixed32):
        with pytest.raises(ConvertError, match="^entry: expected field 1 as .*, found a length and bytes"):
            read(1)
    for read_list in (message.message, message.messages):
        with pytest.raises(ConvertError, match="expected field 2 as a length and bytes, found a varint"):
            read_list(2)
    with pytest.raises(ConvertError, match="expected field 2 as 4 bytes, found a varint"):
        message.fixed32(2)


# Tables

ENTRIES = [(b"layer/%03d/weight" % i, b"value %d " % i * (i % 7)) for i in range(50)]


@pytest.mark.parametrize("compressor", [None, w.snappy])
@pytest.mark.parametrize("restart_interval", [1, 3, 16])
@pytest.mark.parametrize("entries_per_block", [1, 7, 50])
def test_table(tmp_path: Path, entries_per_block: int, restart_interval: int, compressor: Any) -> None:
    path = tmp_path / "table"
    path.write_bytes(w.table(ENTRIES, entries_per_block, restart_interval, compressor))
    assert sstable.is_table(path)
    assert sstable.read_table(path) == ENTRIES


def test_table_of_leveldb() -> None:
    """A file that LevelDB 1.23 wrote, with Snappy 1.1.9, through Debian's python3-plyvel 1.5.0:

    db = plyvel.DB("db", create_if_missing=True, compression="snappy", block_size=1024,
                   block_restart_interval=4)
    for i in range(120): db.put(b"layer/%03d/attention/weight" % i, b"value %d " % i * (i % 17))
    db.compact_range(); db.close()

    A database's keys end in 8 bytes of its own.
    """
    entries = sstable.read_table(DATA / "leveldb-snappy.ldb")
    assert [(key[:-8], value) for key, value in entries] == [
        (b"layer/%03d/attention/weight" % i, b"value %d " % i * (i % 17)) for i in range(120)
    ]


def test_empty_table(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(w.table([]))
    assert sstable.read_table(tmp_path / "table") == []


def table_error(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ConvertError) as caught:
        sstable.read_table(path)
    assert str(caught.value).startswith(f'"{path}": ')
    return str(caught.value)


@pytest.mark.parametrize("compressor", [None, w.snappy])
def test_truncated_table(tmp_path: Path, compressor: Any) -> None:
    """At every byte, with and without a footer behind it."""
    data = w.table(ENTRIES[:5], 3, 2, compressor)
    for n in range(len(data)):
        table_error(tmp_path / "table", data[:n])
    for n in range(len(data) - 48):
        table_error(tmp_path / "table", data[:n] + data[-48:])


@pytest.mark.parametrize("compressor", [None, w.snappy])
def test_damaged_table(tmp_path: Path, compressor: Any) -> None:
    """Any byte, changed, is found, but for the zeros in the footer, which mean nothing."""
    path = tmp_path / "table"
    data = w.table(ENTRIES[:5], 3, 2, compressor)
    padding = range(len(data) - 48 + len(data[-48:-8].rstrip(b"\0")), len(data) - 8)
    for i in range(len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 0x41
        if i in padding:
            path.write_bytes(damaged)
            assert sstable.read_table(path) == ENTRIES[:5]
        else:
            table_error(path, bytes(damaged))


def test_checksum_of_a_block_is_named(tmp_path: Path) -> None:
    data = bytearray(w.table(ENTRIES))
    data[5] ^= 1
    assert "block at byte 0: expected checksum " in table_error(tmp_path / "table", bytes(data))


def table_of(*blocks: tuple[bytes, int], handles: Any = None) -> bytes:
    """A table of these contents, with correct checksums. handles replaces those of the data blocks."""
    data, found = b"", []
    for content, compression in blocks:
        found.append(w.varint(len(data)) + w.varint(len(content)))
        kind = bytes([compression])
        data += content + kind + struct.pack("<I", w.mask(w.crc32c(content + kind)))
    index = w.block([(b"%06d" % i, handle) for i, handle in enumerate(handles or found)], 1)
    place = len(data)
    data += index + b"\0" + struct.pack("<I", w.mask(w.crc32c(index + b"\0")))
    handle = w.varint(place) + w.varint(len(index))  # for the metaindex too: any block will do
    return data + (handle * 2).ljust(40, b"\0") + struct.pack("<Q", w.MAGIC)


def restarts(*offsets: int) -> bytes:
    return b"".join(struct.pack("<I", n) for n in (*offsets, len(offsets)))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "4 more bytes at byte 0, found 0"),
        (b"\0\0\0", "4 more bytes at byte 0, found 3"),
        (struct.pack("<I", 1), "1 restarts, found a block of 4 bytes"),
        (struct.pack("<I", 0xFFFFFFFF), "4294967295 restarts, found a block of 4 bytes"),
        (b"\0\1\1k" + restarts(0), "1 more bytes at byte 4, found 0"),
        (b"\0\2\1k" + restarts(0), "2 more bytes at byte 3, found 1"),
        (b"\0\0" + restarts(0), "1 more bytes"),
        (b"\0\xff\xff\xff\x7f\0k" + restarts(0), "keys of at most 2097152 bytes together, found more"),
        (b"\0\xff\xff\x3f\0k" + restarts(0), "1048575 more bytes"),
        (b"\1\1\1kv" + restarts(0), "a key that shares bytes with the one before, found 1 shared bytes"),
        (b"\0\1\1kv\2\1\1kv" + restarts(0), "found 2 shared bytes"),
        (b"\0\1\1kv\1\1\1kv" + restarts(0, 5), "found 1 shared bytes"),  # at a restart
        (b"\0\1\1kv\0\1\1kv" + restarts(0), 'keys in ascending order, found "k" behind "k"'),
        (b"\0\1\1kv\0\1\1jv" + restarts(0), 'keys in ascending order, found "j" behind "k"'),
    ],
)
def test_lying_block(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in table_error(tmp_path / "table", table_of((content, 0)))


def test_lying_handles(tmp_path: Path) -> None:
    block = w.block([(b"k", b"v")])
    path = tmp_path / "table"
    good = w.varint(0) + w.varint(len(block))
    assert "compression (0) or Snappy (1), found 2" in table_error(path, table_of((block, 2)))
    for handle in (
        w.varint(0) + w.varint(10_000),
        w.varint(2**63) + w.varint(2**63),
        w.varint(0),
        b"",
        b"\xff" * 11,
        w.varint(0) + w.varint(len(block) - 1),
        w.varint(1) + w.varint(len(block)),
    ):
        table_error(path, table_of((block, 0), handles=[handle]))
    empty = restarts(0)
    once = w.varint(0) + w.varint(len(empty))
    assert "a data block at byte 8 or later" in table_error(path, table_of((empty, 0), handles=[once, once]))
    path.write_bytes(table_of((block, 0), handles=[good]))
    assert sstable.read_table(path) == [(b"k", b"v")]


def test_table_that_makes_much_of_little(tmp_path: Path) -> None:
    """The bytes of all blocks after decompression, and of all keys, have limits."""
    zeros = w.varint(1 << 20) + w.snappy_literal(b"\0") + w.snappy_copy(2, 64, 1) * (1 << 16)
    path = tmp_path / "table"
    assert "1048576 bytes after decompression, found more" in table_error(path, table_of((zeros, 1)))
    bomb = w.varint(1 << 24) + zeros[3:]
    assert "at most 2097152 bytes after decompression" in table_error(path, table_of((bomb, 1)))

    half = b"\0\1" + w.varint(1_200_000) + b"k" + bytes(1_200_000) + restarts(0)
    n_copies = (len(half) - 15) // 64
    stream = w.varint(len(half)) + w.snappy_literal(half[:7]) + w.snappy_copy(2, 64, 1) * n_copies
    stream += w.snappy_literal(half[7 + 64 * n_copies :])
    assert snappy.decompress(stream, len(half), "x") == half
    path.write_bytes(table_of((stream, 1)))
    assert sstable.read_table(path) == [(b"k", bytes(1_200_000))]
    assert "found 1200014" in table_error(path, table_of((stream, 1), (stream, 1)))

    key = b"\0" + w.varint(60_000) + b"\0" + b"k" * 60_000
    more = b"".join(w.varint(60_000 + i) + b"\1\0k" for i in range(1000))
    assert "keys of at most 2097152 bytes together" in table_error(
        path, table_of((key + more + restarts(0), 0))
    )
    with path.open("wb") as file:
        file.truncate((1 << 21) + 1)
    with pytest.raises(ConvertError, match="expected a file of at most 2097152 bytes"):
        sstable.read_table(path)


def test_not_a_table(tmp_path: Path) -> None:
    for data in (b"", b"PK", bytes(48), bytes(1000), w.table([])[:-1]):
        (tmp_path / "file").write_bytes(data)
        assert not sstable.is_table(tmp_path / "file")
        assert "the end of a table" in table_error(tmp_path / "file", data)
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        assert not sstable.is_table(tmp_path / name)
        with pytest.raises(ConvertError):
            sstable.read_table(tmp_path / name)


# Bundles

RANDOM = np.random.default_rng(3)
VALUES = {
    "model/a": RANDOM.standard_normal((3, 5)).astype("<f4"),
    "model/b": RANDOM.standard_normal((7,)).astype("<f8"),
    "model/c": RANDOM.standard_normal((2, 1, 4)).astype("<f2"),
    "model/d": RANDOM.integers(0, 2**16, (600,), dtype=np.uint16),
    "model/e": np.float32(2.5).reshape(()),
    "model/f": np.zeros((0, 4), "<f4"),
}
TYPES = dict(zip(VALUES, (w.DT_FLOAT, w.DT_DOUBLE, w.DT_HALF, w.DT_BFLOAT16, w.DT_FLOAT, w.DT_FLOAT)))
NAMES = dict(zip(VALUES, ("F32", "F64", "F16", "BF16", "F32", "F32")))


def tensors(n_shards: int = 1) -> list[w.Tensor]:
    return [
        w.Tensor(name, TYPES[name], value.shape, value.tobytes(), i % n_shards)
        for i, (name, value) in enumerate(VALUES.items())
    ]


@pytest.mark.parametrize("n_shards", [1, 2, 3])
@pytest.mark.parametrize("compressor", [None, w.snappy])
def test_bundle(tmp_path: Path, n_shards: int, compressor: Any) -> None:
    prefix = tmp_path / "model.ckpt-100"
    w.write(
        prefix, tensors(n_shards), n_shards, entries_per_block=3, restart_interval=2, compressor=compressor
    )
    assert tensor_bundle.recognizes(prefix)
    found = tensor_bundle.read(prefix)
    assert list(found) == list(VALUES)
    for i, (name, value) in enumerate(VALUES.items()):
        tensor = found[name]
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, NAMES[name], value.shape)
        assert tensor.where == f"{prefix}.data-{i % n_shards:05d}-of-{n_shards:05d}"
        assert np.array_equal(tensor.read(), value)


def bundle_error(prefix: Path) -> str:
    with pytest.raises(ConvertError) as caught:
        for tensor in tensor_bundle.read(prefix).values():
            tensor.read()
    return str(caught.value)


def test_damaged_data(tmp_path: Path) -> None:
    """Any byte of a tensor, changed, is found when it is loaded; the message names it."""
    prefix = tmp_path / "model"
    w.write(prefix, tensors())
    path = tmp_path / "model.data-00000-of-00001"
    data = path.read_bytes()
    position = 0
    for name, value in VALUES.items():
        for i in range(position, position + value.nbytes, 37):
            damaged = bytearray(data)
            damaged[i] ^= 0x10
            path.write_bytes(damaged)
            expected, found = w.crc32c(value.tobytes()), w.crc32c(damaged[position : position + value.nbytes])
            assert bundle_error(prefix) == (
                f'"{path}": tensor "{name}": expected checksum {expected:08x}, found {found:08x}'
            )
        position += value.nbytes
    assert position == len(data)


def test_truncated_data(tmp_path: Path) -> None:
    prefix = tmp_path / "model"
    w.write(prefix, tensors())
    path = tmp_path / "model.data-00000-of-00001"
    data = path.read_bytes()
    for n in range(0, len(data), 13):
        path.write_bytes(data[:n])
        with pytest.raises(ConvertError, match=f"a part of the {n} bytes of the file, found .*truncated"):
            tensor_bundle.read(prefix)


def test_data_that_shrink_after_the_index_was_read(tmp_path: Path) -> None:
    prefix = tmp_path / "model"
    w.write(prefix, tensors())
    found = tensor_bundle.read(prefix)
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"short")
    with pytest.raises(ConvertError, match="expected 60 bytes at offset 0, found only 5"):
        found["model/a"].read()


def test_missing_data_files(tmp_path: Path) -> None:
    prefix = tmp_path / "model"
    w.write(prefix, tensors(2), 2)
    (tmp_path / "model.data-00001-of-00002").unlink()
    assert "model.data-00001-of-00002" in bundle_error(prefix)
    os.mkfifo(tmp_path / "model.data-00001-of-00002")
    assert "a special file" in bundle_error(prefix)


FLOATS = np.arange(6, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    "edit, message",
    [
        ({"offset": 25}, "expected a part of the 48 bytes"),
        ({"offset": 2**62}, "found 24 bytes at offset 4611686018427387904"),
        ({"offset": -1}, "found 24 bytes at offset -1"),
        ({"size": -24}, "found -24 bytes"),
        ({"size": 2**63 - 1}, "found 9223372036854775807 bytes"),
        ({"size": 20}, "expected 24 bytes for F32 [2, 3], found 20"),
        ({"size": 0}, "expected 24 bytes for F32 [2, 3], found 0"),
        ({"offset": 0}, "expected bytes of its own, from offset 24, found offset 0"),
        ({"offset": 20}, "expected bytes of its own"),
        ({"shard": 1}, "expected tensors in data files 0 to 0, found one in 1"),
        ({"shard": -1}, "expected tensors in data files 0 to 0, found one in -1"),
        ({"shard": 2**31 - 1}, "found one in 2147483647"),
        ({"dtype": w.DT_HALF}, "expected 12 bytes for F16 [2, 3], found 24"),
        ({"masked_crc": 0}, "expected checksum"),
    ],
)
def test_lying_entries(tmp_path: Path, edit: dict[str, int], message: str) -> None:
    prefix = tmp_path / "model"
    first = w.Tensor("a", w.DT_FLOAT, (2, 3), FLOATS)
    w.write(prefix, [first, w.Tensor("b", w.DT_FLOAT, (2, 3), FLOATS, edit=edit)])
    assert message in bundle_error(prefix)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((-1, 6), "expected a known shape"),
        ((2**62, 2**62), "fits 63 bits"),
        ((0, 2**62, 2), "fits 63 bits"),
        ((1,) * 33, "at most 32 dimensions"),
        ((2, 4), "expected 32 bytes for F32 [2, 4], found 24"),
        ((), "expected 4 bytes for F32 [], found 24"),
    ],
)
def test_lying_shapes(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    w.write(tmp_path / "model", [w.Tensor("a", w.DT_FLOAT, shape, FLOATS)])
    assert message in bundle_error(tmp_path / "model")


def test_other_types_and_slices_cannot_be_read(tmp_path: Path) -> None:
    prefix = tmp_path / "model"
    sliced = w.entry(w.DT_FLOAT, (4, 3), 0, 0, 0, 0) + w.bytes_field(
        7, w.bytes_field(1, w.varint_field(2, 2))
    )
    slice_key = b"\0\1sliced\0\1\1\1\xff\xfe"
    w.write(
        prefix,
        [
            w.Tensor("a", w.DT_FLOAT, (2, 3), FLOATS),
            w.Tensor("global_step", w.DT_INT64, (), bytes(8)),
            w.Tensor("names", w.DT_STRING, (2,), b"\1\1abcdef"),
        ],
        more_entries=[(b"sliced", sliced), (slice_key, w.entry(w.DT_FLOAT, (2, 3), 0, 0, 24, 0))],
    )
    found = tensor_bundle.read(prefix)
    assert set(found) == {"a", "global_step", "names", "sliced"}
    assert found["a"].read().tobytes() == FLOATS
    for name, message in (
        ("global_step", "expected floating-point weights .*, found data type 9 of types.proto"),
        ("names", "found data type 7"),
        ("sliced", r"found F32 in slices \(a partitioned variable\)"),
    ):
        assert found[name].dtype not in ("F32", "F64", "F16", "BF16")
        with pytest.raises(ConvertError, match=f'tensor "{name}": .*{message}'):
            found[name].read()


@pytest.mark.parametrize(
    "header, message",
    [
        (w.header(endianness=1), "expected little-endian elements (0), found 1"),
        (w.header(n_shards=0), "expected 1 data file or more, found 0"),
        (w.header(n_shards=-1), "expected 1 data file or more, found -1"),
        (w.header(min_consumer=2, producer=2), "found version 2 for readers from version 2"),
        (
            w.varint_field(1, 1) + w.bytes_field(3, w.bytes_field(3, b"\1")),
            "expected a checkpoint that readers",
        ),
        (b"", "expected 1 data file or more, found 0"),
        (b"\x08", "header: expected 1 more bytes"),
        (w.header(n_shards=2), "model.data-00000-of-00002"),
    ],
)
def test_lying_header(tmp_path: Path, header: bytes, message: str) -> None:
    w.write(tmp_path / "model", tensors(), header_value=header)
    assert message in bundle_error(tmp_path / "model")


def test_tables_that_are_no_bundles(tmp_path: Path) -> None:
    index = tmp_path / "model.index"
    for entries in ([], [(b"a", b"")]):
        index.write_bytes(w.table(entries))
        assert "expected a header of a TensorFlow checkpoint, found none" in bundle_error(tmp_path / "model")
    index.write_bytes(w.table([(b"", w.header()), (b"a\xff", b"")]))
    assert "expected names in UTF-8" in bundle_error(tmp_path / "model")
    index.write_bytes(w.table([(b"", w.header()), (b"a", b"\x08")]))
    assert 'tensor "a": expected 1 more bytes' in bundle_error(tmp_path / "model")
    assert not tensor_bundle.recognizes(tmp_path / "absent")
