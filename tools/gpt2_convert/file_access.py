# SPDX-License-Identifier: MIT
"""Reads pieces of files, and checks lengths against the files before it allocates."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import numpy as np

from .errors import ConvertError
from .tensors import Array

#: Of shapes: what every numpy can index.
MAX_DIMENSIONS = 32
_MAX_BYTES = 2**63 - 1


def file_size(path: Path) -> int:
    """The size of a regular file. A pipe or a device, which could block for ever, is refused."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise ConvertError(f'"{path}": cannot read it: {_reason(error)}') from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a special file"
        raise ConvertError(f'"{path}": expected a file, found {kind}')
    return status.st_size


def read_span(path: Path, offset: int, size: int) -> bytes:
    """Exactly these bytes of a file."""
    available = max(0, file_size(path) - offset)
    if size > available:
        raise ConvertError(
            f'"{path}": expected {size} bytes at offset {offset}, found only {available} (truncated?)'
        )
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise ConvertError(f'"{path}": cannot read it: {_reason(error)}') from None
    if len(data) != size:
        raise ConvertError(f'"{path}": expected {size} bytes at offset {offset}, found {len(data)}')
    return data


def read_all(path: Path, limit: int) -> bytes:
    """The contents of a small file."""
    size = file_size(path)
    if size > limit:
        raise ConvertError(f'"{path}": expected a file of at most {limit} bytes, found {size}')
    return read_span(path, 0, size)


def read_elements(path: Path, offset: int, count: int, dtype: np.dtype[np.generic]) -> Array:
    """An array of one dimension that begins at this byte of a file."""
    available = max(0, file_size(path) - offset)
    if count * dtype.itemsize > available:
        raise ConvertError(
            f'"{path}": expected {count * dtype.itemsize} bytes at offset {offset}, '
            f"found only {available} (truncated?)"
        )
    try:
        array: Array = np.fromfile(path, dtype=dtype, count=count, offset=offset)
    except OSError as error:
        raise ConvertError(f'"{path}": cannot read it: {_reason(error)}') from None
    if array.size != count:
        raise ConvertError(f'"{path}": expected {count} elements at offset {offset}, found {array.size}')
    return array


def bits_of_shape(shape: tuple[int, ...], bits_per_element: int, what: str) -> int:
    """How many bits a tensor has, or an error if no program could index it.

    :param what: file and tensor, for the message
    """
    if len(shape) > MAX_DIMENSIONS:
        raise ConvertError(f"{what}: expected at most {MAX_DIMENSIONS} dimensions, found {len(shape)}")
    # A zero must not hide an extent that no array can have.
    if math.prod(extent for extent in shape if extent) * max(bits_per_element, 8) // 8 > _MAX_BYTES:
        raise ConvertError(f"{what}: expected a number of bytes that fits 63 bits, found shape {list(shape)}")
    return math.prod(shape) * bits_per_element


def _reason(error: Exception) -> str:
    """The system's words without the file's name, which the message has already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
