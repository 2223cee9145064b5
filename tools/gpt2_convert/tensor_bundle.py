# SPDX-License-Identifier: MIT
"""Reads TensorFlow's checkpoints of version 2, "tensor bundles".

tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/util/tensor_bundle/tensor_bundle.cc: the file
PREFIX.index is a table (sstable.py) whose first value, under the empty key, is a BundleHeaderProto; every
other key is the name of a tensor and its value a BundleEntryProto, which says where the elements are: in
which of the files PREFIX.data-00000-of-00001, at which byte. The messages that these contain are in
tensor_shape.proto and versions.proto, the numbers of data types in types.proto, in tensorflow/core/framework.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .crc32c import crc32c, unmask
from .errors import ConvertError
from .file_access import bits_of_shape, file_size, read_elements
from .messages import quoted
from .protobuf import Message
from .sstable import is_table, read_table
from .tensors import NUMPY_TYPES, Array, TensorSource

_DTYPES = {1: "F32", 2: "F64", 14: "BF16", 19: "F16"}
_VERSION = 1  #: of the format


def index_of(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".index")


def recognizes(prefix: Path) -> bool:
    """Whether there is a checkpoint of this prefix."""
    return is_table(index_of(prefix))


def read(prefix: Path) -> dict[str, TensorSource]:
    """All tensors of a checkpoint, by name.

    The place of each in the files is checked here; its checksum when it is read. Tensors of types that
    weights do not have and those stored in slices are there too (an optimizer's may be among them), with a
    dtype that is no key of NUMPY_TYPES and tells what they are; they cannot be read.
    """
    index = index_of(prefix)
    table = read_table(index)
    if not table or table[0][0] != b"":
        raise ConvertError(f'"{index}": expected a header of a TensorFlow checkpoint, found none')
    files = _DataFiles(prefix, _check_header(Message(table[0][1], f'"{index}": header'), index))
    # The slices of a tensor are entries too, whose names start with a zero byte (saved_tensor_slice_util.cc).
    entries = [_entry(key, value, index) for key, value in table[1:] if not key.startswith(b"\0")]
    _check_places([entry for entry in entries if not entry.is_sliced], files)
    return {entry.name: _source(entry, files) for entry in entries}


def _check_header(header: Message, index: Path) -> int:
    """Returns the number of data files."""
    n_files, endianness, version = header.integer(1), header.integer(2), header.message(3)
    if n_files < 1:
        raise ConvertError(f'"{index}": expected 1 data file or more, found {n_files}')
    if endianness != 0:
        raise ConvertError(f'"{index}": expected little-endian elements (0), found {endianness}')
    if version.integer(2) > _VERSION or _VERSION in version.integers(3):
        raise ConvertError(
            f'"{index}": expected a checkpoint that readers of version {_VERSION} may read, '
            f"found version {version.integer(1)} for readers from version {version.integer(2)}"
        )
    return n_files


class _DataFiles:
    """The files with the elements."""

    def __init__(self, prefix: Path, n_files: int) -> None:
        self._prefix, self._n_files = prefix, n_files
        self._sizes: dict[int, int] = {}

    def path(self, number: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.data-{number:05d}-of-{self._n_files:05d}")

    def size(self, number: int) -> int:
        path = self.path(number)
        if number not in self._sizes:
            if not 0 <= number < self._n_files:
                raise ConvertError(
                    f'"{index_of(self._prefix)}": expected tensors in data files 0 to {self._n_files - 1}, '
                    f"found one in {number}"
                )
            self._sizes[number] = file_size(path)
        return self._sizes[number]


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    size: int
    checksum: int
    is_sliced: bool


def _entry(key: bytes, value: bytes, index: Path) -> _Entry:
    """Reads a BundleEntryProto."""
    try:
        name = key.decode()
    except UnicodeDecodeError as error:
        found = quoted(key.decode("latin-1"))
        raise ConvertError(f'"{index}": expected names in UTF-8, found {found}') from error
    place = f'"{index}": tensor {quoted(name)}'
    message = Message(value, place)
    return _Entry(
        name=name,
        dtype=_DTYPES.get(message.integer(1), f"data type {message.integer(1)} of types.proto"),
        shape=_shape(message.message(2), place),
        file=message.integer(3),
        offset=message.integer(4),
        size=message.integer(5),
        checksum=unmask(message.fixed32(6)),
        is_sliced=message.has(7),
    )


def _shape(message: Message, place: str) -> tuple[int, ...]:
    """Reads a TensorShapeProto."""
    shape = tuple(dimension.integer(1) for dimension in message.messages(2))
    if message.integer(3) != 0 or any(extent < 0 for extent in shape):
        raise ConvertError(f"{place}: expected a known shape, found an unknown rank or extent")
    return shape


def _check_places(entries: list[_Entry], files: _DataFiles) -> None:
    """Every tensor lies within its file, has the size of its shape, and shares bytes with no other."""
    ends: dict[int, int] = {}
    for entry in sorted(entries, key=lambda entry: (entry.file, entry.offset, entry.size)):
        size = files.size(entry.file)
        place = _place(entry, files.path(entry.file))
        if entry.size < 0 or entry.offset < 0 or entry.offset + entry.size > size:
            raise ConvertError(
                f"{place}: expected a part of the {size} bytes of the file, "
                f"found {entry.size} bytes at offset {entry.offset} (truncated?)"
            )
        _check_size(entry, place)
        if entry.size > 0:
            end = ends.get(entry.file, 0)
            if entry.offset < end:
                raise ConvertError(
                    f"{place}: expected bytes of its own, from offset {end}, found offset {entry.offset}"
                )
            ends[entry.file] = entry.offset + entry.size


def _check_size(entry: _Entry, place: str) -> None:
    if entry.dtype in NUMPY_TYPES:
        size = bits_of_shape(entry.shape, 8 * NUMPY_TYPES[entry.dtype].itemsize, place) // 8
        if entry.size != size:
            raise ConvertError(
                f"{place}: expected {size} bytes for {entry.dtype} {list(entry.shape)}, found {entry.size}"
            )


def _place(entry: _Entry, path: Path) -> str:
    return f'"{path}": tensor {quoted(entry.name)}'


def _source(entry: _Entry, files: _DataFiles) -> TensorSource:
    path = files.path(entry.file)
    dtype = f"{entry.dtype} in slices (a partitioned variable)" if entry.is_sliced else entry.dtype
    return TensorSource(entry.name, dtype, entry.shape, str(path), lambda: _load(entry, path))


def _load(entry: _Entry, path: Path) -> Array:
    elements = read_elements(path, entry.offset, entry.size, np.dtype(np.uint8))
    found = crc32c(elements.view(np.uint8))
    if found != entry.checksum:
        expected = f"{entry.checksum:08x}"
        raise ConvertError(f"{_place(entry, path)}: expected checksum {expected}, found {found:08x}")
    return elements.view(NUMPY_TYPES[entry.dtype]).reshape(entry.shape)
