# SPDX-License-Identifier: MIT
"""Moves powers of two from the rows of a matrix into the layer norm before it, for types with groups.

The weights of a group share a scale, and so do the inputs that they meet: where one channel of a layer norm
is much larger than its neighbours, and its row of the next matrix as much smaller, both lose the bits of
whatever is small. LN(x; g, b) W = LN(x; g / s, b / s) diag(s) W for any positive s, exactly so in floating
point for powers of two. s is what brings a row and its inputs to the same multiple of what is usual for rows
and for inputs, so that neither gains at the cost of the other (Xiao et al., "SmoothQuant", ICML 2023, with
migration strength 0.5; but the size of inputs is taken from gain and bias, there is no text to try).
docs/quantization.md has the measurements.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable

import numpy as np
import numpy.typing as npt

from .checkpoint import Checkpoint, is_embedding
from .tensors import LIMITS, Array, Doubles, Stored, TensorSource, from_float32, to_float32

Exponents = npt.NDArray[np.int64]

MOST = 32  #: doublings at most: enough for any model, and far from what float32 cannot hold


def fed_matrix(norm: str) -> str:
    """The matrix that reads the output of a layer norm (ln_f.weight or .bias, h.3.ln_1.weight, ...)."""
    stem = norm.rpartition(".")[0]
    if stem == "ln_f":
        return "lm_head.weight"
    return stem.replace("ln_1", "attn.c_attn").replace("ln_2", "mlp.c_fc") + ".weight"


def balanced(checkpoint: Checkpoint, matrices: Iterable[str]) -> Checkpoint:
    """The same function. matrices: those to balance; what no layer norm alone feeds stays as it is."""
    chosen = set(matrices)
    tensors = dict(checkpoint.tensors)
    for name in checkpoint.tensors:
        if ".ln_" not in f".{name}" or not name.endswith(".weight"):
            continue
        gain, bias = checkpoint.tensors[name], checkpoint.tensors[name.replace(".weight", ".bias")]
        matrix = checkpoint.tensors.get(fed_matrix(name))
        if matrix is not None and matrix.name in chosen:
            balance = _Balance(matrix, gain, bias)
            for vector in (gain, bias):
                tensors[vector.name] = _divided(vector, balance)
            tensors[matrix.name] = _multiplied(matrix, balance)
    return replace(checkpoint, tensors=tensors)


class _Balance:
    """log2 s of each input of a matrix, computed when it is needed."""

    def __init__(self, matrix: TensorSource, gain: TensorSource, bias: TensorSource) -> None:
        self._matrix, self._gain, self._bias = matrix, gain, bias
        self._found: Exponents | None = None

    def exponents(self) -> Exponents:
        if self._found is None:
            gain, bias = (Stored(v.read(), v.dtype).float64() for v in (self._gain, self._bias))
            with np.errstate(over="ignore", invalid="ignore"):
                inputs: Doubles = np.sqrt(gain**2 + bias**2)  # the normalised x has variance 1
            found = exponents(row_magnitudes(self._matrix), inputs)
            for vector in (self._gain, self._bias):
                found = np.where(_survives(vector, found), found, 0)
            self._found = found
        return self._found


def row_magnitudes(matrix: TensorSource) -> Doubles:
    """The root of the mean square of each input's weights; NaN or infinite where one of them is."""
    array = matrix.read()
    by_input = array.T if is_embedding(matrix.name) else array
    sums = np.zeros(len(by_input))
    step = 1 + (1 << 20) // len(by_input)
    for begin in range(0, by_input.shape[1], step):
        part = to_float32(by_input[:, begin : begin + step], matrix.dtype).astype(np.float64)
        sums += (part * part).sum(axis=1)
    magnitudes: Doubles = np.sqrt(sums / by_input.shape[1])
    return magnitudes


def exponents(rows: Doubles, inputs: Doubles) -> Exponents:
    """log2 s for rows and inputs of these magnitudes; 0 for those within a factor of two, which gain nothing.

    Channels where a magnitude is zero or not finite stay as well.
    """
    usable = np.isfinite(rows) & (rows > 0) & np.isfinite(inputs) & (inputs > 0)
    if not usable.any():
        return np.zeros(len(rows), np.int64)
    logs = [np.log2(np.where(usable, magnitudes, 1)) for magnitudes in (inputs, rows)]
    larger_inputs, larger_rows = (log - np.median(log[usable]) for log in logs)
    wanted = np.where(usable, (larger_inputs - larger_rows) / 2, 0)
    found = np.where(np.abs(wanted) < 1, 0, np.rint(wanted)).astype(np.int64)
    clipped: Exponents = np.clip(found, -MOST, MOST)
    return clipped


def _survives(vector: TensorSource, exponents: Exponents) -> npt.NDArray[np.bool_]:
    """Where an element that is divided is the same number still in the vector's own type."""
    there = _scaled(vector.read(), vector.dtype, -exponents)
    with np.errstate(invalid="ignore", over="ignore"):
        back = to_float32(_scaled(there, vector.dtype, exponents), vector.dtype)
        usable = np.abs(to_float32(there, vector.dtype)) < LIMITS[vector.dtype]
        survives: npt.NDArray[np.bool_] = usable & (back == to_float32(vector.read(), vector.dtype))
        return survives


def _scaled(array: Array, dtype: str, exponents: Exponents) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return from_float32(np.ldexp(to_float32(array, dtype), exponents.astype(np.int32)), dtype)


def _divided(vector: TensorSource, balance: _Balance) -> TensorSource:
    return replace(vector, load=lambda: _scaled(vector.read(), vector.dtype, -balance.exponents()))


def _multiplied(matrix: TensorSource, balance: _Balance) -> TensorSource:
    """As float32, which has the range that 16 bits may lack."""

    def load() -> Array:
        factors = np.ldexp(np.float32(1), balance.exponents().astype(np.int32))
        if not is_embedding(matrix.name):
            factors = factors[:, None]
        values = to_float32(matrix.read(), matrix.dtype)
        if (factors == 1).all():
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            return np.multiply(values, factors, out=None if matrix.dtype == "F32" else values)

    return replace(matrix, dtype="F32", load=load)
