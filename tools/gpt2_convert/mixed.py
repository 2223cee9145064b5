# SPDX-License-Identifier: MIT
"""Which matrices of the layers are worth 8 bits where the others have 4.

What 4 bits cost is measured for each matrix: it alone is rounded, for inputs of the exact model, and texts go
on through the layers to the logits. The divergences of single matrices are small and add up, as their errors
are independent. So those to widen are a knapsack problem: the largest sum of divergences that fits the bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping

import numpy as np

from .calibrate import Linear, Stream, Sums, parts_of, read, rounded_for
from .checkpoint import Checkpoint
from .progress import Progress
from .quantize import FORMATS
from .sample import Tokens
from .tensors import Doubles, Floats

NARROW, WIDE = "INT4", "INT8"
LEAST_BITS, MOST_BITS = FORMATS[NARROW].bits, FORMATS[WIDE].bits
KINDS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  #: in the order of the computation
FITTED = 1 << 13  #: tokens that a matrix is rounded for
MEASURED = 1 << 11  #: of them, tokens whose divergence is measured
HEAD_ROWS = 128  #: positions whose logits are computed together
UNITS = 1 << 16  #: that a knapsack is divided into at most


def wider_matrices(
    checkpoint: Checkpoint, tokens: Tokens, bits: float, quiet: bool = False
) -> frozenset[str]:
    """The names of those to widen, so that the matrices of the layers have at most so many bits a weight.

    tokens: [texts, positions], to measure with.
    """
    names = [f"h.{layer}.{kind}.weight" for layer in range(checkpoint.config.n_layer) for kind in KINDS]
    sizes = {name: math.prod(checkpoint.tensors[name].shape) for name in names}
    share = (bits - LEAST_BITS) / (MOST_BITS - LEAST_BITS)
    if share >= 1:
        return frozenset(names)
    room = math.floor(share * sum(sizes.values()))
    if room < min(sizes.values()):
        return frozenset()
    progress = Progress("sensitivity", len(names), "matrices", quiet=quiet)
    costs = Sensitivity(checkpoint, tokens).measured(progress.update)
    progress.finish()
    return fullest(costs, sizes, room)


def fullest(values: Mapping[str, float], sizes: Mapping[str, int], room: int) -> frozenset[str]:
    """The items of the largest sum of values whose sizes fit the room."""
    unit = max(math.gcd(*sizes.values()), -(-room // UNITS))
    room //= unit
    best = np.zeros(room + 1)  # by the room that there is
    taken = {}
    for name, size in sizes.items():
        units = -(-size // unit)
        taken[name] = np.zeros(room + 1, bool)
        if units <= room:
            value = best[: room + 1 - units] + values[name]
            better = taken[name][units:] = value > best[units:]
            np.copyto(best[units:], value, where=better)
    chosen = set()
    for name in reversed(list(sizes)):
        if taken[name][room]:
            chosen.add(name)
            room -= -(-sizes[name] // unit)
    return frozenset(chosen)


@dataclass
class _Variant:
    """The model with one matrix rounded, and some texts on their way through it."""

    name: str
    stream: Stream


class Sensitivity:
    """What rounding single matrices to 4 bits does to the distribution of the next token."""

    def __init__(self, checkpoint: Checkpoint, tokens: Tokens) -> None:
        """tokens: [texts, positions]"""
        texts = max(1, FITTED // tokens.shape[1])
        self._tokens = tokens[:: max(1, len(tokens) // texts)][:texts]
        self._checkpoint = checkpoint
        self._parts = parts_of(self._tokens)
        self._few = slice(max(1, MEASURED // tokens.shape[1]))

    def measured(self, progress: Callable[[int], None] = lambda done: None) -> dict[str, float]:
        """The mean KL divergence in nats, by the name of the matrix. progress: told how many are rounded."""
        embedding = read(self._checkpoint.tensors["wte.weight"])
        positions = read(self._checkpoint.tensors["wpe.weight"])
        exact = self._stream(embedding[self._tokens] + positions[: self._tokens.shape[1]])
        variants: list[_Variant] = []
        for layer in range(self._checkpoint.config.n_layer):
            linear = {kind: self._linear(exact, f"h.{layer}.{kind}") for kind in KINDS}
            begin = exact.values[self._few].copy()
            exact.linear = linear
            for variant in variants:
                self._pass(variant.stream, layer, linear)
            for kind in KINDS:
                rounded = self._rounded(exact, layer, kind)
                exact.advance(layer, kind, self._parts)
                stream = self._stream(begin.copy())
                self._pass(stream, layer, {**linear, kind: rounded})
                variants.append(_Variant(f"h.{layer}.{kind}.weight", stream))
                progress(len(variants))
        return self._divergences(exact, variants)

    def _stream(self, values: Floats) -> Stream:
        return Stream(self._checkpoint, values)

    @staticmethod
    def _linear(stream: Stream, name: str) -> Linear:
        return Linear(stream.vector(f"{name}.weight"), stream.vector(f"{name}.bias"))

    def _rounded(self, exact: Stream, layer: int, kind: str) -> Linear:
        """A matrix with 4 bits, and inputs as they are: those are rounded whatever its type."""
        linear = exact.linear[kind]
        sums = Sums(len(linear.weight), 0)
        for part in self._parts:
            inputs = exact.inputs(layer, kind, part)
            sums.add(inputs, inputs[..., :0])
        weight = rounded_for(sums.central()[0], linear.weight, NARROW).weights()
        bias = linear.bias + sums.means()[0] @ (linear.weight - weight)
        return Linear(weight, bias.astype(np.float32))

    @staticmethod
    def _pass(stream: Stream, layer: int, linear: dict[str, Linear]) -> None:
        """Takes texts through a layer."""
        stream.linear = linear
        for kind in KINDS:
            stream.advance(layer, kind, [slice(None)])
        stream.attended = stream.values  # there are many streams, and memory for one array each

    def _divergences(self, exact: Stream, variants: list[_Variant]) -> dict[str, float]:
        separate = self._checkpoint.has_separate_head
        head = read(self._checkpoint.tensors["lm_head.weight" if separate else "wte.weight"]).T
        expected = _rows(exact, self._few)
        found = [_rows(variant.stream, slice(None)) for variant in variants]
        total = np.zeros(len(variants))
        for begin in range(0, len(expected), HEAD_ROWS):
            rows = slice(begin, begin + HEAD_ROWS)
            p = softmax((expected[rows] @ head).astype(np.float64))
            for i, other in enumerate(found):
                change = (other[rows] - expected[rows]) @ head
                total[i] += divergence(p, change.astype(np.float64)).sum()
        return {variant.name: float(sum_) / len(expected) for variant, sum_ in zip(variants, total)}


def _rows(stream: Stream, part: slice) -> Floats:
    """What the head reads, [tokens, channels]."""
    normed = stream.norm("ln_f", part)
    return normed.reshape(-1, normed.shape[-1])


def softmax(logits: Doubles) -> Doubles:
    p: Doubles = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p


def divergence(p: Doubles, change: Doubles) -> Doubles:
    """KL of each row of p [rows, V] from what it becomes when logits change so: ln sum p e^c - sum p c."""
    mean = (p * change).sum(axis=1, keepdims=True)
    result: Doubles = np.log((p * np.exp(change - mean)).sum(axis=1))
    return result
