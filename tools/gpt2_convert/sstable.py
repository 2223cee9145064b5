# SPDX-License-Identifier: MIT
"""Reads LevelDB's tables of sorted keys and values.

https://github.com/google/leveldb/blob/main/doc/table_format.md; TensorFlow writes the same format
(tensorflow/core/lib/io/format.cc). A table is

    data blocks, a metaindex block, an index block, 48 bytes of footer,

the footer two block handles (offset and size as varints; metaindex, then index), zeros up to 40 bytes, and
a number that marks such files. A block is

    its content, a byte that tells the compression (0 none, 1 Snappy), the masked CRC32C of both,

the content entries, then the positions of restarts, 32 bits each, and their count. An entry is

    three varints: bytes of the key shared with the one before, other bytes of the key, bytes of the value;
    the other bytes of the key; the value,

and shares nothing at a restart. The index block's values are the handles of the data blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, NamedTuple

from .byte_reader import ByteReader
from .crc32c import crc32c, unmask
from .errors import ConvertError
from .file_access import file_size, read_all, read_span
from .messages import quoted
from .snappy import decompress

_FOOTER = 48
_TRAILER = 5
_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")

#: Bytes in the file, of all its blocks after decompression, and of all its keys. A model with tens of
#: thousands of tensors needs less; a small hostile file cannot make more of itself.
_LIMIT = 1 << 21

Entry = tuple[bytes, bytes]  #: key and value


class _Handle(NamedTuple):
    offset: int
    size: int


def is_table(path: Path) -> bool:
    """Whether a file ends as a table does."""
    try:
        size = file_size(path)
        return size >= _FOOTER and read_span(path, size - len(_MAGIC), len(_MAGIC)) == _MAGIC
    except ConvertError:
        return False


def read_table(path: Path) -> list[Entry]:
    """All entries, in order of their keys, with every checksum checked."""
    return _Table(read_all(path, _LIMIT), path).entries()


class _Table:
    def __init__(self, data: bytes, path: Path) -> None:
        self._data, self._path = data, path
        self._decompressed_left = _LIMIT
        self._keys_left = _LIMIT

    def entries(self) -> list[Entry]:
        metaindex, index = self._footer()
        self._block(metaindex)  # holds nothing of use, but is damaged when the file is
        result: list[Entry] = []
        end = 0
        for _, value in self._block(index):
            handle = self._handle(self._reader(value, "index block"))
            if handle.offset < end:  # else many handles of one block would be much work for few bytes
                raise self._fail(
                    f"a data block at byte {end} or later, behind the one before", f"one at {handle.offset}"
                )
            end = handle.offset + handle.size
            result += self._block(handle)
        for (previous, _), (key, _) in zip(result, result[1:]):
            if key <= previous:
                raise self._fail("keys in ascending order", f"{_text(key)} behind {_text(previous)}")
        return result

    def _fail(self, expected: str, found: str) -> ConvertError:
        return ConvertError(f'"{self._path}": expected {expected}, found {found}')

    def _reader(self, data: bytes, part: str) -> ByteReader:
        return ByteReader(data, f'"{self._path}": {part}')

    def _footer(self) -> tuple[_Handle, _Handle]:
        if len(self._data) < _FOOTER or not self._data.endswith(_MAGIC):
            raise self._fail(
                "the end of a table (the index of a TensorFlow checkpoint of version 2)", "something else"
            )
        reader = self._reader(self._data[-_FOOTER : -len(_MAGIC)], "footer")
        return self._handle(reader), self._handle(reader)

    def _handle(self, reader: ByteReader) -> _Handle:
        handle = _Handle(reader.varint(), reader.varint())
        end = len(self._data) - _FOOTER
        if handle.offset + handle.size + _TRAILER > end:
            raise reader.fail(
                f"a block within the {end} bytes before the footer",
                f"one of {handle.size} bytes at {handle.offset}",
            )
        return handle

    def _block(self, handle: _Handle) -> list[Entry]:
        end = handle.offset + handle.size
        reader = self._reader(self._data[end + 1 : end + _TRAILER], f"block at byte {handle.offset}")
        expected = unmask(reader.little_endian(4))
        found = crc32c(self._data[handle.offset : end + 1])
        if found != expected:
            raise reader.fail(f"checksum {expected:08x}", f"{found:08x}")
        content = self._data[handle.offset : end]
        compression = self._data[end]
        if compression == 1:
            content = decompress(content, self._decompressed_left, reader.name)
            self._decompressed_left -= len(content)
        elif compression != 0:
            raise reader.fail("no compression (0) or Snappy (1)", f"{compression}")
        return list(self._block_entries(content, reader.name))

    def _block_entries(self, content: bytes, name: str) -> Iterator[Entry]:
        n_restarts = ByteReader(content[-4:], name).little_endian(4)
        end = len(content) - 4 - 4 * n_restarts
        if end < 0:
            raise ByteReader(content, name).fail(f"{n_restarts} restarts", f"a block of {len(content)} bytes")
        restarts = {int.from_bytes(content[at : at + 4], "little") for at in range(end, len(content) - 4, 4)}
        reader = ByteReader(content[:end], name)
        key = b""
        while not reader.at_end():
            start = reader.position
            shared, unshared, value_size = reader.varint(), reader.varint(), reader.varint()
            if shared > (0 if start in restarts else len(key)):
                raise reader.fail("a key that shares bytes with the one before", f"{shared} shared bytes")
            self._keys_left -= shared + unshared
            if self._keys_left < 0:
                raise reader.fail(f"keys of at most {_LIMIT} bytes together", "more")
            key = key[:shared] + reader.take(unshared)
            yield key, reader.take(value_size)


def _text(key: bytes) -> str:
    return quoted(key.decode("utf-8", "replace"))
