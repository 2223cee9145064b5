# SPDX-License-Identifier: MIT
"""Reads the safetensors format (https://huggingface.co/docs/safetensors).

8 bytes with the length N of the header, little-endian; N bytes of JSON, `{"name": {"dtype": "F32",
"shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {"key": "text"}}`, padded with spaces; then
the data, to which the offsets refer. Numbers are little-endian, arrays are in row-major order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import json_text
from .errors import ConvertError
from .file_access import bits_of_shape, file_size, read_elements, read_span
from .messages import quoted, shown
from .tensors import ELEMENT_TYPES, Array, TensorSource

#: The longest header that the reference implementation accepts, in bytes.
MAX_HEADER_SIZE = 100_000_000
_LENGTH = struct.Struct("<Q")

#: The element types of the format, and the bits of one element.
_BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 16),
    **dict.fromkeys(["I32", "U32", "F32"], 32),
    **dict.fromkeys(["I64", "U64", "F64", "C64"], 64),
}


def is_safetensors_file(path: Path) -> bool:
    """Whether a file begins like one: a header length within the file, and JSON."""
    try:
        size = file_size(path)
        begin = read_span(path, 0, min(size, _LENGTH.size + 1))
    except ConvertError:
        return False
    return begin[_LENGTH.size :] == b"{" and _LENGTH.unpack_from(begin)[0] <= size - _LENGTH.size


def read(path: Path) -> tuple[dict[str, TensorSource], dict[str, str]]:
    """The tensors of a file, in the order of their data, and its `__metadata__`.

    The header has been checked against the file to the last byte. Tensors of types that weights do not have
    (masks, mostly) are there too, under the format's name of the type; to read() one is an error.
    """
    header = _header(path)
    begin_of_data = _LENGTH.size + len(header)
    data_size = file_size(path) - begin_of_data
    document = json_text.parse(header, f"{path} (header)")
    metadata = _metadata(path, document.pop("__metadata__", {}))
    entries = [_entry(path, name, value, data_size) for name, value in document.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end, entry.name))
    _check_cover(path, entries, data_size)
    return {entry.name: _tensor(path, entry, begin_of_data) for entry in entries}, metadata


@dataclass(frozen=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _header(path: Path) -> bytes:
    size = file_size(path)
    if size < _LENGTH.size:
        raise ConvertError(
            f'"{path}": expected a safetensors file, which begins with 8 bytes of header length, '
            f"found a file of {size} bytes"
        )
    (length,) = _LENGTH.unpack(read_span(path, 0, _LENGTH.size))
    if length > min(MAX_HEADER_SIZE, size - _LENGTH.size):
        raise ConvertError(
            f'"{path}": expected a safetensors header of at most {min(MAX_HEADER_SIZE, size - _LENGTH.size)} '
            f"bytes, found a header length of {length} (truncated or not a safetensors file?)"
        )
    header = read_span(path, _LENGTH.size, length)
    if not header.startswith(b"{"):
        found = shown(header[:16].decode("latin-1")) if header else "an empty header"
        raise ConvertError(f'"{path}": expected a safetensors header that begins with "{{", found {found}')
    return header


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ConvertError(f'"{path}": "__metadata__": expected an object, found {shown(value)}')
    for key, text in value.items():
        if not isinstance(text, str):
            raise ConvertError(
                f'"{path}": "__metadata__": {quoted(key)}: expected a string, found {shown(text)}'
            )
    return value


def _entry(path: Path, name: str, value: Any, data_size: int) -> _Entry:
    what = f'"{path}": tensor {quoted(name)}'
    if not isinstance(value, dict):
        raise ConvertError(f"{what}: expected an object, found {shown(value)}")
    if value.keys() != {"dtype", "shape", "data_offsets"}:
        found = ", ".join(quoted(key) for key in list(value)[:8]) or "none"
        raise ConvertError(f'{what}: expected the keys "dtype", "shape" and "data_offsets", found {found}')
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ConvertError(
            f"{what}: expected an element type of the safetensors format, found {shown(dtype)}"
        )
    shape = _whole_numbers(value["shape"], f'{what}: "shape"')
    offsets = _whole_numbers(value["data_offsets"], f'{what}: "data_offsets"')
    if len(offsets) != 2 or offsets[0] > offsets[1] or offsets[1] > data_size:
        raise ConvertError(
            f'{what}: "data_offsets": expected a beginning and an end, in order and within the {data_size} '
            f"bytes of data in the file, found {list(offsets[:8])}"
        )
    bits = bits_of_shape(shape, _BITS[dtype], what)
    if 8 * (offsets[1] - offsets[0]) != bits:
        raise ConvertError(
            f'{what}: "data_offsets": expected {-(-bits // 8)} bytes for shape {list(shape)} of {dtype}, '
            f"found {offsets[1] - offsets[0]} bytes, {offsets[0]} to {offsets[1]}"
        )
    return _Entry(name, dtype, shape, offsets[0], offsets[1])


def _whole_numbers(value: Any, what: str) -> tuple[int, ...]:
    wrong = value
    if isinstance(value, list):
        # Not isinstance(): true is no number.
        wrong = next((number for number in value if type(number) is not int or number < 0), None)
        if wrong is None and None not in value:
            return tuple(value)
    raise ConvertError(f"{what}: expected an array of whole numbers, found {shown(wrong)}")


def _check_cover(path: Path, entries: list[_Entry], data_size: int) -> None:
    """Together the tensors, in the order of their data, must cover all of it."""
    covered = 0
    for entry in entries:
        if entry.begin != covered:
            problem = "tensors overlap" if entry.begin < covered else "bytes that belong to no tensor"
            raise ConvertError(
                f'"{path}": tensor {quoted(entry.name)}: "data_offsets": expected {covered}, the end of the '
                f"data before it, found {entry.begin} ({problem})"
            )
        covered = entry.end
    if covered != data_size:
        raise ConvertError(
            f'"{path}": expected {covered} bytes of data for {len(entries)} tensors, found {data_size} '
            "(bytes that belong to no tensor)"
        )


def _tensor(path: Path, entry: _Entry, begin_of_data: int) -> TensorSource:
    def load() -> Array:
        kind = ELEMENT_TYPES.get(entry.dtype)
        if kind is None:
            raise ConvertError(
                f'"{path}": tensor {quoted(entry.name)}: expected elements that numpy can hold, '
                f"found {entry.dtype}"
            )
        size = (entry.end - entry.begin) // kind.itemsize
        return read_elements(path, begin_of_data + entry.begin, size, kind).reshape(entry.shape)

    return TensorSource(entry.name, entry.dtype, entry.shape, str(path), load)
