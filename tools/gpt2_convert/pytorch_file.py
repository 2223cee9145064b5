# SPDX-License-Identifier: MIT
"""Reads what torch.save wrote, without torch, and without running anything.

The formats are in torch/serialization.py (_save, _legacy_save) and torch/_utils.py (_rebuild_tensor_v2):

- since PyTorch 1.6, a zip archive of uncompressed entries: NAME/data.pkl, a pickle that refers to storages
  by key; NAME/data/KEY, the elements of each; in newer ones NAME/byteorder;
- before, pickles one after another: a magic number, the version, facts of the system, the object, the list of
  storage keys; then for each of these the number of elements (64 bits) and the elements.

A tensor is a view of a storage: an offset, a shape and strides, all counted in elements.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from .byte_reader import ByteReader
from .errors import ConvertError, SafetyError
from .file_access import MAX_DIMENSIONS, file_size, read_elements, read_span
from .messages import quoted, shown
from .restricted_pickle import Global, Malformed, load, ordered_dict
from .tensors import ELEMENT_TYPES, Array, TensorSource

#: Of pickles. That of a GPT-2 of 1.5 billion parameters with its optimizer's state has less than 1 MB.
MAX_PICKLE_SIZE = 16 << 20

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MAX_INDEX = 2**63 - 1
_LOCAL_HEADER = b"PK\3\4"  # of a zip archive's entry
_TAR_NAMES = (b"sys_info", b"pickle", b"tensors", b"storages")

#: Storage classes of the module torch: the element type as safetensors calls it, and its size.
_STORAGE_TYPES = {
    "torch.DoubleStorage": ("F64", 8),
    "torch.FloatStorage": ("F32", 4),
    "torch.HalfStorage": ("F16", 2),
    "torch.BFloat16Storage": ("BF16", 2),
    "torch.LongStorage": ("I64", 8),
    "torch.IntStorage": ("I32", 4),
    "torch.ShortStorage": ("I16", 2),
    "torch.CharStorage": ("I8", 1),
    "torch.ByteStorage": ("U8", 1),
    "torch.BoolStorage": ("BOOL", 1),
    "torch.ComplexFloatStorage": ("C64", 8),
    "torch.ComplexDoubleStorage": ("C128", 16),
    "torch.UntypedStorage": ("U8", 1),
    "torch.storage.UntypedStorage": ("U8", 1),
}


def is_pytorch_file(path: Path) -> bool:
    """Whether torch.save wrote a file, in any of its formats. read() may yet find it damaged or refuse it."""
    try:
        return _format(path) is not None
    except SafetyError:
        return True
    except ConvertError:
        return False


def read(path: Path) -> Any:
    """The object in a file, in which every tensor is a TensorSource without a name.

    Dictionaries, lists, tuples, text, bytes, numbers, booleans and None are what they are; there is nothing
    else inside. Containers may be there many times, and even within themselves: nobody should walk through
    all of them, or print them.
    """
    kind = _format(path)
    if kind == "zip":
        return _read_zip(path)
    if kind == "legacy":
        return _read_legacy(path)
    if kind == "tar":
        raise ConvertError(
            f'"{path}": expected a format of PyTorch 0.2 or newer, found the tar archive of PyTorch 0.1 '
            "(load it with PyTorch 1.x, and save it again)"
        )
    raise ConvertError(f'"{path}": expected a file that torch.save wrote, found something else')


def _format(path: Path) -> str | None:
    begin = read_span(path, 0, min(file_size(path), 512))
    if begin.startswith(_LOCAL_HEADER):
        first_name = begin[30 : 30 + int.from_bytes(begin[26:28], "little")]
        whole = first_name.endswith(b"/data.pkl")  # if it was, once: the list of entries is at the end
        return "zip" if whole or _pickle_names(_entries(path)) else None
    if begin[257:262] == b"ustar" and begin.split(b"\0")[0] in _TAR_NAMES:
        return "tar"
    try:
        return "legacy" if _plain_pickle(ByteReader(begin, "")) == _MAGIC_NUMBER else None
    except ConvertError:
        return None


# Storages and the tensors in them.


@dataclass
class _Storage:
    """Elements in a file. Where they are is known only behind a legacy file's pickles."""

    key: str
    path: Path
    size: int  #: in bytes
    offset: int = 0
    crc: int | None = None  #: of the zip archive; None: nothing to check, or checked already

    def check(self) -> None:
        """Compares the checksum, once."""
        if self.crc is None:
            return
        crc, chunk = 0, 1 << 22
        for begin in range(0, self.size, chunk):
            crc = zlib.crc32(read_span(self.path, self.offset + begin, min(chunk, self.size - begin)), crc)
        if crc != self.crc:
            raise ConvertError(
                f'"{self.path}": storage {quoted(self.key)}: expected checksum {self.crc:08x}, '
                f"found {crc:08x} (damaged file?)"
            )
        self.crc = None


@dataclass(frozen=True)
class _StorageView:
    """Part of a storage, as a pickle refers to it."""

    storage: _Storage
    dtype: str
    element_size: int
    first: int  #: element of the storage
    count: int


def _rebuild_tensor(view: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorSource:
    """Stands in for torch._utils._rebuild_tensor and _rebuild_tensor_v2, which has three arguments more."""
    if not isinstance(view, _StorageView):
        raise Malformed("a tensor's storage", shown(view))
    extents, steps = _indices(shape, "shape"), _indices(strides, "strides")
    (start,) = _indices((offset,), "storage offset")
    if len(extents) != len(steps) or len(extents) > MAX_DIMENSIONS:
        raise Malformed(
            f"a shape of at most {MAX_DIMENSIONS} dimensions, and as many strides",
            f"{len(extents)} and {len(steps)}",
        )
    if math.prod(extent for extent in extents if extent) > _MAX_INDEX // 16:
        raise Malformed("a number of elements that fits 59 bits", f"shape {list(extents)}")
    end = start + _span(extents, steps)
    if end > view.count:
        raise Malformed(
            f"a tensor within the {view.count} elements of storage {quoted(view.storage.key)}",
            f"one that ends at element {end}: offset {start}, shape {list(extents)}, strides {list(steps)}",
        )
    return TensorSource(
        "",
        view.dtype,
        extents,
        str(view.storage.path),
        lambda: _load(view, start, extents, steps),
    )


def _indices(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)):
        raise Malformed(f"whole numbers for a tensor's {what}", shown(values))
    for value in values:
        if type(value) is not int or not 0 <= value <= _MAX_INDEX:
            raise Malformed(f"whole numbers from 0 for a tensor's {what}", shown(value))
    return tuple(values)


def _span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """How many elements of the storage lie between the first and the last of a tensor, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides))


def _load(view: _StorageView, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    storage = view.storage
    what = f'"{storage.path}": tensor in storage {quoted(storage.key)}, shape {list(shape)}'
    kind = ELEMENT_TYPES.get(view.dtype)
    if kind is None:
        raise ConvertError(f"{what}: expected elements that numpy can hold, found {view.dtype}")
    # A stride of zero repeats elements, and takes no bytes in the file.
    if math.prod(shape) * kind.itemsize > file_size(storage.path):
        raise ConvertError(f"{what}: expected a tensor no larger than the file, found an expanded one")
    storage.check()
    begin = storage.offset + (view.first + start) * kind.itemsize
    elements = read_elements(storage.path, begin, _span(shape, strides), kind)
    if 0 in shape:
        return elements.reshape(shape)
    byte_strides = [
        stride * kind.itemsize if extent > 1 else 0 for extent, stride in zip(shape, strides)
    ]  # of extents of 1 strides mean nothing, and may be too large for numpy
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(elements, shape, byte_strides)).reshape(shape)


def _rebuild_parameter(data: Any, *_: Any) -> TensorSource:
    """Stands in for torch._utils._rebuild_parameter: its other arguments are about training."""
    if not isinstance(data, TensorSource):
        raise Malformed("a parameter's tensor", shown(data))
    return data


def _size(extents: Any = ()) -> tuple[int, ...]:
    return _indices(extents, "size")


def _device(*parts: Any) -> str:
    if not 1 <= len(parts) <= 2 or not isinstance(parts[0], str) or len(parts[0]) > 64:
        raise Malformed("the name of a device", shown(parts))
    return ":".join([parts[0], *(shown(part) for part in parts[1:])])


_GLOBALS = {
    value.name: value
    for value in (
        Global("collections.OrderedDict", ordered_dict),
        Global("torch._utils._rebuild_tensor", _rebuild_tensor),
        Global("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
        Global("torch._utils._rebuild_parameter", _rebuild_parameter),
        Global("torch._utils._rebuild_parameter_with_state", _rebuild_parameter),
        Global("torch.Size", _size),
        Global("torch.device", _device),
        *(Global(name) for name in _STORAGE_TYPES),
    )
}


def _storage_view(reference: Any, storage_of: Callable[[str, int], _Storage]) -> _StorageView:
    """What a pickle says about a storage: ("storage", type, key, device, number of elements), and in legacy
    files the part of it that is meant: None or (key, first element, number of elements)."""
    if not isinstance(reference, tuple) or not 5 <= len(reference) <= 6 or reference[0] != "storage":
        raise Malformed("a reference to a storage", shown(reference))
    _, kind, key, _, count = reference[:5]
    if not isinstance(kind, Global) or kind.name not in _STORAGE_TYPES:
        raise Malformed("a type of storage", kind.name if isinstance(kind, Global) else shown(kind))
    if not isinstance(key, str):
        raise Malformed("a storage's key", shown(key))
    (count,) = _indices((count,), "storage")
    dtype, element_size = _STORAGE_TYPES[kind.name]
    storage = storage_of(key, count * element_size)
    if storage.size != count * element_size:
        raise Malformed(
            f"{storage.size} bytes of storage {quoted(key)}", f"{count} elements of {element_size} bytes"
        )
    part = reference[5] if len(reference) == 6 else None
    if part is None:
        return _StorageView(storage, dtype, element_size, 0, count)
    if not isinstance(part, tuple) or len(part) != 3:
        raise Malformed("a part of a storage", shown(part))
    first, part_count = _indices(part[1:], "part of a storage")
    if first + part_count > count:
        raise Malformed(f"a part of the {count} elements of storage {quoted(key)}", f"{first} + {part_count}")
    return _StorageView(storage, dtype, element_size, first, part_count)


def _load_object(path: Path, reader: ByteReader, persistent_load: Callable[[Any], Any]) -> Any:
    """Reads a pickle, and makes sure that it has nothing but containers, plain values and tensors."""
    tree = load(reader, _GLOBALS, persistent_load)
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, (dict, list, tuple)):
            if id(value) not in seen:
                seen.add(id(value))
                waiting.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, (_StorageView, Global)):
            found = value.name if isinstance(value, Global) else "a storage"
            raise ConvertError(f'"{path}": expected tensors and plain containers, found {found}')
    return tree


# The zip format.


def _entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries of an archive by name. Nothing is ever extracted; names that would be dangerous if it were
    are refused all the same, as are those that two programs could understand differently."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        OSError,
        ValueError,
        ArithmeticError,
        EOFError,
        RuntimeError,
        struct.error,
    ) as error:
        raise ConvertError(f'"{path}": expected a zip archive, found a damaged one ({error})') from None
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.orig_filename
        if re.search(r"^/|\\|\0|^[A-Za-z]:|(^|/)\.\.?(/|$)", name):
            raise SafetyError(
                f'"{path}": entry {quoted(name)}: expected names within the archive, found a path out of it '
                "(nothing was extracted)"
            )
        if name in entries:
            raise ConvertError(f'"{path}": entry {quoted(name)}: expected every name once, found it twice')
        entries[name] = info
    return entries


def _pickle_names(entries: dict[str, zipfile.ZipInfo]) -> list[str]:
    return [name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]


def _read_zip(path: Path) -> Any:
    entries = _entries(path)
    names = _pickle_names(entries)
    if len(names) != 1:
        raise ConvertError(f'"{path}": expected one entry "data.pkl", found {len(names)}')
    root = names[0][: -len("data.pkl")]
    if f"{root}constants.pkl" in entries:
        raise ConvertError(f'"{path}": expected a file that torch.save wrote, found a TorchScript program')
    storages: dict[str, _Storage] = {}

    def small_entry(name: str) -> bytes:
        place = _place(path, entries[name], name)
        if place.size > MAX_PICKLE_SIZE:
            raise ConvertError(
                f'"{path}": entry {quoted(name)}: expected at most {MAX_PICKLE_SIZE} bytes, '
                f"found {place.size}"
            )
        place.check()
        return read_span(path, place.offset, place.size)

    def storage_of(key: str, _: int) -> _Storage:
        name = f"{root}data/{key}"
        if key not in storages:
            if name not in entries:
                raise Malformed(f"an entry {quoted(name)}", "none")
            storages[key] = _place(path, entries[name], key)
        return storages[key]

    order = small_entry(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
    if order != b"little":
        raise ConvertError(
            f'"{path}": byteorder: expected "little", found {quoted(order[:16].decode("latin-1"))}'
        )
    reader = ByteReader(small_entry(names[0]), f'"{path}": data.pkl')
    tree = _load_object(path, reader, lambda reference: _storage_view(reference, storage_of))
    _require_end(reader)
    return tree


def _place(path: Path, info: zipfile.ZipInfo, key: str) -> _Storage:
    """Where an entry's bytes are: behind its local header (APPNOTE.TXT of PKWARE, section 4.3.7), whose
    variable part need not be as long as the directory's."""
    what = f'"{path}": entry {quoted(info.orig_filename)}'
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ConvertError(
            f"{what}: expected uncompressed data, as torch.save writes it, found compression method "
            f"{info.compress_type}, {info.compress_size} bytes for {info.file_size}"
        )
    if info.flag_bits & 1:
        raise ConvertError(f"{what}: expected plain data, found encrypted data")
    if info.header_offset < 0:
        raise ConvertError(f"{what}: expected a place in the file, found {info.header_offset}")
    header = read_span(path, info.header_offset, 30)
    if not header.startswith(_LOCAL_HEADER):
        raise ConvertError(f"{what}: expected its header at byte {info.header_offset}, found something else")
    name_size, extra_size = struct.unpack_from("<HH", header, 26)
    offset = info.header_offset + len(header) + name_size + extra_size
    if offset + info.file_size > file_size(path):
        raise ConvertError(
            f"{what}: expected {info.file_size} bytes at byte {offset}, found the end of the file"
        )
    return _Storage(key, path, info.file_size, offset, info.CRC)


# The legacy format.


def _plain_pickle(reader: ByteReader) -> Any:
    """A pickle in which nothing is named."""

    def refuse(reference: Any) -> None:
        raise Malformed("plain data", "a reference to a storage")

    return load(reader, {}, refuse)


def _read_legacy(path: Path) -> Any:
    size = file_size(path)
    reader = ByteReader(read_span(path, 0, min(size, MAX_PICKLE_SIZE)), f'"{path}"')
    _plain_pickle(reader)  # the magic number
    version = _plain_pickle(reader)
    if version != _LEGACY_VERSION:
        raise reader.fail(f"version {_LEGACY_VERSION} of the format", shown(version))
    system = _plain_pickle(reader)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise reader.fail("a file of a little-endian machine", "another")
    storages: dict[str, _Storage] = {}

    def storage_of(key: str, n_bytes: int) -> _Storage:
        return storages.setdefault(key, _Storage(key, path, n_bytes))

    element_sizes: dict[str, int] = {}

    def persistent_load(reference: Any) -> _StorageView:
        view = _storage_view(reference, storage_of)
        # The file counts elements of the type that the pickle names first.
        element_sizes.setdefault(view.storage.key, view.element_size)
        return view

    tree = _load_object(path, reader, persistent_load)
    keys = _plain_pickle(reader)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise reader.fail("a list of storage keys", shown(keys))
    if len(keys) != len(set(keys)) or set(keys) != storages.keys():
        raise reader.fail(f"the {len(storages)} storages of the tensors", f"a list of {len(keys)} others")
    offset = reader.position
    for key in keys:
        storage = storages[key]
        (count,) = struct.unpack("<q", read_span(path, offset, 8))
        if count * element_sizes[key] != storage.size:
            raise ConvertError(
                f'"{path}": storage {quoted(key)}: expected {storage.size} bytes, '
                f"found {count} elements of {element_sizes[key]} bytes"
            )
        storage.offset = offset + 8
        offset = storage.offset + storage.size
    if offset != size:
        problem = "truncated?" if offset > size else "some belong to no storage"
        raise ConvertError(f'"{path}": expected {offset} bytes, found {size} ({problem})')
    return tree


def _require_end(reader: ByteReader) -> None:
    if not reader.at_end():
        raise reader.fail("the end of the pickle", f"{len(reader.data) - reader.position} bytes more")
