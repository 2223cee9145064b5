# SPDX-License-Identifier: MIT
"""Matrices of 8-bit and 4-bit integers: rounding to nearest, and what the integers stand for.

docs/model-format.md specifies both types, docs/quantization.md argues for them. A group is some consecutive
inputs of one output; its weights are integers times one scale, a bfloat16. The library rounds alike, to the
same bytes: everything here is computed in float32 in the order that the specification gives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Iterator

import numpy as np
import numpy.typing as npt

from .panels import PAIRED_ORDER, PANEL_WIDTH, panels
from .tensors import Array, Doubles, Floats, Stored, from_float32, to_float32

Bytes = npt.NDArray[np.uint8]

QUAD = 4  #: inputs whose integers stand side by side, for instructions that add four products
HALF = PANEL_WIDTH // 2
SCALE_BYTES = 2 * PANEL_WIDTH
LEAST = np.float32(
    2.0**-100
)  #: below it a group is zero, so that neither a scale nor a weight is subnormal

INT8_LIMIT = 127
#: The integers of a type, from and to; -128 is not used: then those of int8 are symmetric.
LIMITS = {"INT8": (-INT8_LIMIT, INT8_LIMIT), "INT4": (-8, 7)}
#: What the largest weight of a group is divided by for the scales that int4 tries. The sign makes it negative
#: in units of the scale, where there is one integer more.
INT4_DIVISORS = [np.float32(-(6 + 0.25 * i)) for i in range(16)]

BLOCK_WEIGHTS = 1 << 18  #: that are rounded together: numpy's intermediate results stay in the cache
BLOCK_OUTPUTS = 32 * PANEL_WIDTH


@dataclass(frozen=True)
class Format:
    """An integer type of matrices. In the file each is U8 [panels, groups, unit]."""

    name: str
    group: int  #: inputs with one scale
    unit: int  #: bytes of one group of a panel's outputs, scales included

    def shape(self, inputs: int, outputs: int) -> tuple[int, int, int]:
        return panels(outputs), self.groups(inputs), self.unit

    def groups(self, inputs: int) -> int:
        return -(-inputs // self.group)

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.unit / (self.group * PANEL_WIDTH)


FORMATS = {
    "INT8": Format("INT8", 64, 64 * PANEL_WIDTH + SCALE_BYTES),
    "INT4": Format("INT4", 32, 32 * PANEL_WIDTH // 2 + SCALE_BYTES),
}


def quantize(weights: Floats, dtype: str, progress: Callable[[int], None] = lambda done: None) -> Bytes:
    """Rounds a matrix [in, out], a block at a time, to what the file has of it. Unused outputs are zero.

    progress: told how many bytes of the result are done.
    """
    form = FORMATS[dtype]

    def block(groups: slice, columns: slice) -> tuple[Floats, Array]:
        part = _grouped(weights, form.group, groups, columns)
        integers, scales = _round(part.reshape(form.group, -1), dtype)
        return integers.reshape(part.shape), scales.reshape(part.shape[1:])

    return _assembled(weights.shape, dtype, block, progress)


def assemble(integers: Floats, scales: Array, dtype: str) -> Bytes:
    """What the file has of integers [in, out] and the bits of their scales [group, out]."""

    def block(groups: slice, columns: slice) -> tuple[Floats, Array]:
        part = _grouped(integers, FORMATS[dtype].group, groups, columns)
        bits = np.zeros(part.shape[1:], np.uint16)
        bits[:, : columns.stop - columns.start] = scales[groups, columns]
        return part, bits

    return _assembled(integers.shape, dtype, block)


def _assembled(
    shape: tuple[int, ...],
    dtype: str,
    block: Callable[[slice, slice], tuple[Floats, Array]],
    progress: Callable[[int], None] = lambda done: None,
) -> Bytes:
    """block: integers [input within the group, group, output] and scales [group, output] of a part."""
    form = FORMATS[dtype]
    inputs, outputs = shape
    result = np.empty(form.shape(inputs, outputs), np.uint8)
    done = 0
    for groups, columns in _blocks(form, inputs, outputs):
        integers, scales = block(groups, columns)
        first, last = columns.start // PANEL_WIDTH, panels(columns.stop)
        units = result[first:last, groups]
        by_panel = (form.group // QUAD, QUAD, integers.shape[1], last - first, PANEL_WIDTH)
        units[..., :-SCALE_BYTES] = _bytes(integers.reshape(by_panel), dtype)
        scales = scales.reshape(by_panel[2:])[..., PAIRED_ORDER].transpose(1, 0, 2)
        units[..., -SCALE_BYTES:] = np.ascontiguousarray(scales).view(np.uint8)
        done += units.size
        progress(done)
    return result


def _blocks(form: Format, inputs: int, outputs: int) -> Iterator[tuple[slice, slice]]:
    """Groups and outputs that are rounded together."""
    for column in range(0, outputs, BLOCK_OUTPUTS):
        columns = slice(column, min(column + BLOCK_OUTPUTS, outputs))
        width = panels(columns.stop - column) * PANEL_WIDTH
        step = max(1, BLOCK_WEIGHTS // (form.group * width))
        for group in range(0, form.groups(inputs), step):
            yield slice(group, min(group + step, form.groups(inputs))), columns


def _grouped(weights: Floats, group: int, groups: slice, columns: slice) -> Floats:
    """A block as [input within the group, group, output], filled up with zeros."""
    part = weights[groups.start * group : groups.stop * group, columns]
    count = groups.stop - groups.start
    width = panels(part.shape[1]) * PANEL_WIDTH
    result = np.zeros((group, count, width), np.float32)
    by_group = result.transpose(1, 0, 2)
    whole = len(part) // group
    by_group[:whole, :, : part.shape[1]] = part[: whole * group].reshape(whole, group, part.shape[1])
    by_group[whole:, : len(part) % group, : part.shape[1]] = part[whole * group :]
    return result


def _round(weights: Floats, dtype: str) -> tuple[Floats, Array]:
    """weights [input within the group, n]. The integers, as float32, and the bits of the scales [n].

    Of the scales that are tried, the one with the least squared error.
    """
    buffer = np.empty_like(weights)
    trials = list(trial_scales(weights, dtype))
    best = trials[0]
    if len(trials) > 1:
        best, least = best.copy(), np.full(len(best), np.inf)
        for scales in trials:
            error = _squared_error(weights, to_float32(scales, "BF16"), buffer, dtype)
            better = np.flatnonzero(error < least)
            best[better], least[better] = scales[better], error[better]
    return nearest(weights, to_float32(best, "BF16"), dtype, buffer), best


def trial_scales(weights: Floats, dtype: str) -> Iterator[Array]:
    """The bits of the scales [n] that are tried for weights [input within the group, n]."""
    magnitudes = np.abs(weights)
    if dtype == "INT8":
        exact = magnitudes.max(axis=0) / np.float32(INT8_LIMIT)
        exact[exact < LEAST] = 0
        bits = exact.view(np.uint32)
        up = np.where(bits & 0xFFFF, 0x10000, 0).astype(np.uint32)  # no integer is past 127
        yield ((bits + up) >> 16).astype(np.uint16)
        return
    largest = weights[magnitudes.argmax(axis=0), np.arange(weights.shape[1])]
    is_zero = np.abs(largest) < LEAST
    for divisor in INT4_DIVISORS:
        yield np.where(is_zero, np.uint16(0), from_float32(largest / divisor, "BF16"))


def nearest(weights: Floats, scales: Floats, dtype: str, out: Floats) -> Floats:
    """The integers of scales, as float32; 0 where the scale is."""
    least, most = LIMITS[dtype]
    np.divide(weights, np.where(scales == 0, np.float32(np.inf), scales), out=out)
    np.rint(out, out=out)
    np.maximum(out, least, out=out)
    return np.minimum(out, most, out=out)


def _squared_error(weights: Floats, scales: Floats, buffer: Floats, dtype: str) -> Doubles:
    """The sum over a group of the squares of float32(weight - scale * integer), in the order of the inputs.

    float32 gives that difference rounded once, as it has to be: the product of 8 and 4 bits is exact.
    """
    nearest(weights, scales, dtype, buffer)
    np.multiply(buffer, scales, out=buffer)
    np.subtract(weights, buffer, out=buffer)
    total = np.zeros(weights.shape[1])
    for row in buffer:
        wide = row.astype(np.float64)
        total += np.multiply(wide, wide, out=wide)
    return total


def _bytes(integers: Floats, dtype: str) -> Bytes:
    """[quad, input in it, group, panel, output] to [panel, group, bytes]."""
    if dtype == "INT8":
        shifted = (integers + np.float32(128)).astype(np.uint8)
    else:
        shifted = (integers + np.float32(8)).astype(np.uint8)
        shifted = shifted[..., :HALF] | shifted[..., HALF:] << np.uint8(4)
    ordered = shifted.transpose(3, 2, 0, 4, 1)  # [panel, group, quad, output, input in the quad]
    return ordered.reshape(*ordered.shape[:2], -1)


def dequantize(units: Bytes, dtype: str, inputs: int, outputs: int, by_output: bool = False) -> Floats:
    """The weights [in, out], or by_output [out, in], that the integers stand for: exact in float32."""
    shape = (outputs, inputs) if by_output else (inputs, outputs)
    result = np.empty(shape, np.float32)
    step = max(1, BLOCK_WEIGHTS // (units.shape[1] * FORMATS[dtype].group * PANEL_WIDTH))
    for panel in range(0, len(units), step):
        columns = slice(panel * PANEL_WIDTH, min((panel + step) * PANEL_WIDTH, outputs))
        part = _by_output(units[panel : panel + step], dtype)[: columns.stop - columns.start, :inputs]
        if by_output:
            result[columns] = part
        else:
            result[:, columns] = part.T
    return result


def _by_output(units: Bytes, dtype: str) -> Floats:
    """Some panels as [out, in], with all that fills them up."""
    count, groups = units.shape[:2]
    scales = np.ascontiguousarray(units[..., -SCALE_BYTES:]).view(np.uint16)[..., np.argsort(PAIRED_ORDER)]
    codes = units[..., :-SCALE_BYTES]
    if dtype == "INT8":
        integers = codes.reshape(count, groups, -1, PANEL_WIDTH, QUAD).astype(np.float32) - np.float32(128)
    else:
        pairs = codes.reshape(count, groups, -1, HALF, QUAD)
        integers = np.concatenate([pairs & 15, pairs >> 4], axis=3).astype(np.float32) - np.float32(8)
    with np.errstate(over="ignore", invalid="ignore"):  # of a damaged file
        integers *= to_float32(scales, "BF16")[:, :, None, :, None]
    return integers.transpose(0, 3, 1, 2, 4).reshape(count * PANEL_WIDTH, -1)


@dataclass(frozen=True)
class Quantized:
    """A matrix as the file has it, read like a Stored one: its numbers are computed where they are used."""

    units: Bytes
    dtype: str
    inputs: int
    outputs: int
    by_output: bool = False  #: whether it is [out, in]

    @property
    def group(self) -> int:
        """Inputs that share a scale, of the weights and of what they are multiplied with."""
        return FORMATS[self.dtype].group

    def __len__(self) -> int:
        return self.outputs if self.by_output else self.inputs

    def __getitem__(self, index: slice | list[int]) -> Quantized | Stored:
        """Rows: a few, or from a multiple of the group's or panel's size on."""
        if isinstance(index, list):
            return self._rows(index)
        start, stop, _ = index.indices(len(self))
        step = PANEL_WIDTH if self.by_output else self.group
        if start % step != 0:
            raise ValueError(f"expected a slice from a multiple of {step} on, found {start}")
        part = slice(start // step, -(-stop // step))
        if self.by_output:
            return replace(self, units=self.units[part], outputs=stop - start)
        return replace(self, units=self.units[:, part], inputs=stop - start)

    def _rows(self, rows: list[int]) -> Stored:
        if not self.by_output:
            raise ValueError("expected single rows of a matrix [out, in] alone")
        values = [
            _by_output(self.units[row // PANEL_WIDTH, None], self.dtype)[row % PANEL_WIDTH, : self.inputs]
            for row in rows
        ]
        return Stored(np.stack(values), "F32")

    def transposed(self) -> Quantized:
        return replace(self, by_output=not self.by_output)

    def float32(self) -> Floats:
        return dequantize(self.units, self.dtype, self.inputs, self.outputs, self.by_output)

    def float64(self) -> Doubles:
        return self.float32().astype(np.float64)
