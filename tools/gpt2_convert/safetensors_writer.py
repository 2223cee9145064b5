# SPDX-License-Identifier: MIT
"""Writes safetensors files, one tensor after another.

The format is that of https://github.com/huggingface/safetensors#format: the length of the header in 8 bytes,
little-endian; the header, JSON that ends in spaces; the elements of the tensors, without gaps.
"""

from __future__ import annotations

import json
import math
from typing import BinaryIO, Sequence

import numpy as np

from .tensors import ELEMENT_TYPES, Array


def write_array(file: BinaryIO, array: Array) -> None:
    """Writes the elements of an array in row-major order, without a copy where they are in that order."""
    file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


class SafetensorsWriter:
    """Writes tensors in the order of entries: name, element type, shape.

    The header comes last: until finish() the file begins with zeros, so that one that was interrupted does
    not look complete to any reader.
    """

    def __init__(
        self,
        file: BinaryIO,
        entries: Sequence[tuple[str, str, tuple[int, ...]]],
        metadata: dict[str, str],
        align: int = 8,
    ) -> None:
        """The first tensor starts at a multiple of align bytes."""
        self._file = file
        self._entries = list(entries)
        self._metadata = dict(metadata)
        self._next = 0
        if len({name for name, _, _ in self._entries}) != len(self._entries):
            raise ValueError("a name stands twice in the entries")
        #: Where each tensor starts, counted from the start of the data; after the last, where the data ends.
        self.offsets = [0]
        for _, dtype, shape in self._entries:
            self.offsets.append(self.offsets[-1] + ELEMENT_TYPES[dtype].itemsize * math.prod(shape))
        text = len(self._header_text())
        #: Where the data starts in the file.
        self.data_start = -(-(8 + text) // align) * align
        #: Of the whole file, in bytes.
        self.size = self.data_start + self.offsets[-1]
        self._file.write(bytes(self.data_start))

    def write(self, name: str, array: Array) -> None:
        """Writes the elements of the next tensor."""
        if self._next == len(self._entries):
            raise ValueError(f"{name}: no tensor is expected any more")
        expected = self._entries[self._next]
        # bfloat16 is kept in 16-bit integers: the type of an array tells less than that of its entry.
        if name != expected[0] or array.dtype != ELEMENT_TYPES[expected[1]] or array.shape != expected[2]:
            raise ValueError(f"expected {expected}, found {(name, str(array.dtype), array.shape)}")
        write_array(self._file, array)
        self._next += 1

    def set_metadata(self, key: str, value: str) -> None:
        """Replaces a value of the metadata by one that is as long, for what is known only at the end."""
        before = len(self._header_text())
        previous = self._metadata[key]
        self._metadata[key] = value
        if len(self._header_text()) != before:
            self._metadata[key] = previous
            raise ValueError(f"{key}: expected a value as long as {previous!r}, found {value!r}")

    def finish(self) -> None:
        """Writes the header, which makes the file complete."""
        if self._next != len(self._entries):
            raise ValueError(f"{self._entries[self._next][0]}: not written")
        length = self.data_start - 8
        self._file.seek(0)
        self._file.write(length.to_bytes(8, "little") + self._header_text().ljust(length))
        self._file.seek(self.size)

    def _header_text(self) -> bytes:
        header: dict[str, object] = {"__metadata__": self._metadata} if self._metadata else {}
        for i, (name, dtype, shape) in enumerate(self._entries):
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": self.offsets[i : i + 2]}
        # A file's name can hold what is not Unicode; "replace" keeps it from being an error here.
        return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
