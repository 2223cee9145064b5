# SPDX-License-Identifier: MIT
"""Tensors of a checkpoint, read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Iterator, Protocol, Sequence

import numpy as np
import numpy.typing as npt

from .errors import ConvertError

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: The element types of weights, by their names in safetensors, and what numpy keeps them in.
#: numpy has no bfloat16: its bits stand in 16-bit integers.
NUMPY_TYPES: dict[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}

#: Every element type that numpy can hold, under the names of safetensors.
ELEMENT_TYPES: dict[str, np.dtype[np.generic]] = {
    **NUMPY_TYPES,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("<i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("<u1"),
    "BOOL": np.dtype("?"),
}

#: Magnitudes from here on become infinite when rounded to the type: the largest number and half a step.
LIMITS: dict[str, float] = {
    "F64": float("inf"),
    "F32": float("inf"),
    "F16": 65520.0,
    "BF16": 2.0**128 - 2.0**119,
    "INT8": 2.0**127,  # so that a scale times an integer, which may be a third more, is finite
    "INT4": 2.0**127,
}

#: Elements that are converted together: what numpy makes in between stays in the processor's cache.
BLOCK = 1 << 16


@dataclass(frozen=True)
class TensorSource:
    """One tensor in a file. Nothing is read before read() is called."""

    name: str
    dtype: str  #: of safetensors; of weights, a key of NUMPY_TYPES
    shape: tuple[int, ...]
    where: str  #: the file, for messages
    load: Callable[[], Array]  #: returns the elements as ELEMENT_TYPES has them, of this shape

    def read(self) -> Array:
        """The weights, in the file's own type."""
        if self.dtype not in NUMPY_TYPES:
            raise ConvertError(
                f'"{self.where}": tensor "{self.name}": expected floating-point weights '
                f"({', '.join(NUMPY_TYPES)}), found {self.dtype}"
            )
        array = self.load()
        if array.shape != self.shape or array.dtype != NUMPY_TYPES[self.dtype]:
            raise ConvertError(
                f'"{self.where}": tensor "{self.name}": expected {self.dtype} {list(self.shape)}, '
                f"found {array.dtype} {list(array.shape)}"
            )
        return array

    def read_as(self, dtype: str, intended: str | None = None) -> Array:
        """The weights in another type, from F64 by way of float32.

        Those that are not finite, or too large for the type, or the one they are intended for, are an error.
        """
        limited = intended or dtype
        array = np.ascontiguousarray(self.read())
        same = dtype == self.dtype
        result = array if same else np.empty(array.shape, NUMPY_TYPES[dtype])
        for index, (found, converted) in enumerate(zip(_blocks(array), _blocks(result))):
            values, kind = (found, dtype) if same else (to_float32(found, self.dtype), "F32")
            if not _largest_magnitude(values, kind) < LIMITS[limited]:  # false for NaN
                raise self._unusable(found, limited, index * BLOCK)
            if not same:
                converted[:] = from_float32(values, dtype)
        return result

    def _unusable(self, found: Array, dtype: str, position: int) -> ConvertError:
        """position: of the first of the elements that were found."""
        with np.errstate(invalid="ignore"):
            values = Stored(found, self.dtype).float64()
            narrow = values if dtype == "F64" else to_float32(values, "F64").astype(np.float64)
        at = int(np.argmin(np.abs(narrow) < LIMITS[dtype]))
        what = f'"{self.where}": tensor "{self.name}", shape {list(self.shape)}: expected'
        where = f"found {values[at]:g} at element {position + at}"
        if not np.isfinite(values[at]):
            return ConvertError(f"{what} finite weights, {where}")
        return ConvertError(f"{what} weights within the range of {dtype}, {where} (choose another --dtype)")

    def renamed(self, name: str) -> TensorSource:
        return replace(self, name=name)

    def transposed(self) -> TensorSource:
        """The transposed matrix: nn.Linear keeps [out, in] where Conv1D, and this program, has [in, out]."""
        return replace(self, shape=self.shape[::-1], load=lambda: np.ascontiguousarray(self.load().T))

    def first_rows(self, n: int) -> TensorSource:
        return replace(self, shape=(n, *self.shape[1:]), load=lambda: self.load()[:n])

    def rows(self, indices: Sequence[int]) -> TensorSource:
        return replace(self, shape=(len(indices), *self.shape[1:]), load=lambda: self.load()[list(indices)])


def of_array(name: str, array: Array, where: str, dtype: str | None = None) -> TensorSource:
    """A tensor that is in memory already. dtype tells bfloat16 bits from other 16-bit integers."""
    if dtype is None:
        dtype = next(
            (key for key, kind in NUMPY_TYPES.items() if kind == array.dtype and key != "BF16"), None
        )
    if dtype is None:
        raise ConvertError(
            f'"{where}": tensor "{name}": expected floating-point weights, found {array.dtype}'
        )
    return TensorSource(name, dtype, tuple(array.shape), where, lambda: array)


class Weights(Protocol):
    """A tensor of a file, read in parts."""

    @property
    def group(self) -> int:
        """How many inputs of a product with it are quantised together; 0: they stay float32."""

    def __len__(self) -> int:
        ...

    def __getitem__(self, index: slice | list[int]) -> Weights:
        ...

    def transposed(self) -> Weights:
        ...

    def float64(self) -> Doubles:
        ...


@dataclass(frozen=True)
class Stored:
    """Numbers in the type that a file keeps them in."""

    elements: Array
    dtype: str
    group: int = 0

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, index: slice | list[int]) -> Stored:
        return Stored(self.elements[index], self.dtype)

    def transposed(self) -> Stored:
        return Stored(self.elements.T, self.dtype)

    def float32(self) -> Floats:
        return to_float32(self.elements, self.dtype)

    def float64(self) -> Doubles:
        elements = to_float32(self.elements, self.dtype) if self.dtype == "BF16" else self.elements
        return elements.astype(np.float64)


def _blocks(array: Array) -> Iterator[Array]:
    flat = array.reshape(-1)
    return (flat[begin : begin + BLOCK] for begin in range(0, len(flat), BLOCK))


def _floats(array: Array, dtype: str) -> Array:
    """Elements of any of the types in one that numpy computes with, exactly."""
    return to_float32(array, dtype) if dtype == "BF16" else array


def _largest_magnitude(array: Array, dtype: str) -> float:
    """NaN if there is one among the elements."""
    if dtype in ("F32", "F64"):
        return float(max(array.max(), -array.min()))  # both hand NaN on
    # Without their sign, 16-bit floating-point numbers have the order of their bits, and NaN comes last.
    bits = (array.view(np.uint16) & 0x7FFF).max()
    return float(to_float32(np.array([bits], np.uint16).view(NUMPY_TYPES[dtype]), dtype)[0])


def to_float32(array: Array, dtype: str) -> Floats:
    """Elements of any of the types as float32: exact but for F64, which is rounded."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def from_float32(values: Array, dtype: str) -> Array:
    """Rounds float32 to a type, to nearest, ties to even. Too large a value becomes infinite."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    with np.errstate(over="ignore"):
        return values.astype(NUMPY_TYPES[dtype])
