# SPDX-License-Identifier: MIT
"""Rounds the matrices of the layers for the inputs that texts give them, one after another.

Texts go through the model twice: exactly, and as the file will compute them, with what is rounded already.
For each matrix the inputs x are those of the second pass, rounded as the library rounds them, and the outputs
wanted are those of the first; where outputs are added to the residual stream, so much more that the stream is
that of the first. The matrix is first moved to the least-squares solution for that (as in Li et al., "GPTAQ",
ICML 2025), then rounded by compensate.py, and the bias makes up for the mean of what is left. Everything is
float32 but for sums over texts, which are added up in float64 a batch at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

import numpy as np

from . import batched
from .checkpoint import Checkpoint
from .compensate import Rounded, compensated, damped, refine
from .errors import ConvertError
from .quantize import FORMATS, Bytes, assemble
from .sample import Tokens
from .tensors import Doubles, Floats, TensorSource, to_float32

BATCH = 1 << 13  #: tokens that go through a layer together
#: What keeps a matrix of a type from following single texts, in units of the mean square of an input (ridge
#: regression). None: it stays. Errors of 8 bits are mostly those of rounded inputs, which have no pattern.
FOLLOW = {"INT8": None, "INT4": 0.1}


@dataclass
class Linear:
    """A matrix and a bias; group: of its inputs, 0 where they are not rounded."""

    weight: Floats
    bias: Floats
    group: int = 0

    def __call__(self, x: Floats) -> Floats:
        return self.inputs(x) @ self.weight + self.bias

    def inputs(self, x: Floats) -> Floats:
        return batched.rounded(x, self.group) if self.group else x


def read(tensor: TensorSource) -> Floats:
    return to_float32(tensor.read(), tensor.dtype)


def parts_of(tokens: Tokens) -> list[slice]:
    """Texts that go through a layer together."""
    step = max(1, BATCH // tokens.shape[1])
    return [slice(begin, begin + step) for begin in range(0, len(tokens), step)]


class Stream:
    """Texts on their way through one of the two models. values: the residual stream."""

    def __init__(self, checkpoint: Checkpoint, values: Floats) -> None:
        self._config, self._tensors = checkpoint.config, checkpoint.tensors
        self.values = values
        self.linear: dict[str, Linear] = {}  #: by kind, of the layer that is at work
        self.attended = values  #: what attention makes of them, before c_proj
        self._norms: dict[str, tuple[Floats, Floats]] = {}

    def inputs(self, layer: int, kind: str, part: slice) -> Floats:
        """What a matrix of this kind reads."""
        if kind == "attn.c_attn":
            return self.norm(f"h.{layer}.ln_1", part)
        if kind == "attn.c_proj":
            return self.attended[part]
        if kind == "mlp.c_fc":
            return self.norm(f"h.{layer}.ln_2", part)
        return self.inner(layer, part)

    def advance(self, layer: int, kind: str, parts: list[slice]) -> None:
        """Goes past a matrix."""
        if kind == "attn.c_attn":
            self.attend(layer, parts)
        elif kind.endswith("c_proj"):
            for part in parts:
                self.values[part] += self.linear[kind](self.inputs(layer, kind, part))

    def vector(self, name: str) -> Floats:
        return read(self._tensors[name])

    def norm(self, name: str, part: slice) -> Floats:
        if name not in self._norms:
            self._norms = {name: (self.vector(f"{name}.weight"), self.vector(f"{name}.bias"))}
        return batched.layer_norm(self.values[part], *self._norms[name], self._config.layer_norm_epsilon)

    def attend(self, layer: int, parts: list[slice]) -> None:
        self.attended = np.empty_like(self.values)
        scale = self._config.score_scale(layer)
        for part in parts:
            qkv = self.linear["attn.c_attn"](self.norm(f"h.{layer}.ln_1", part))
            self.attended[part] = batched.attention(qkv, self._config.n_head, scale)

    def inner(self, layer: int, part: slice) -> Floats:
        z = self.linear["mlp.c_fc"](self.norm(f"h.{layer}.ln_2", part))
        return batched.activation(z, self._config.activation_function)


class Sums:
    """Moments of a matrix's inputs, and with what its outputs lack."""

    def __init__(self, inputs: int, outputs: int) -> None:
        self._squares, self._products = np.zeros((inputs, inputs)), np.zeros((inputs, outputs))
        self._inputs, self._outputs = np.zeros(inputs), np.zeros(outputs)
        self._count = 0

    def add(self, inputs: Floats, lacking: Floats) -> None:
        """Rows of each: [..., in] and [..., out]."""
        inputs = inputs.reshape(-1, inputs.shape[-1])
        lacking = lacking.reshape(len(inputs), -1)
        self._squares += inputs.T @ inputs
        self._products += inputs.T @ lacking
        self._inputs += inputs.sum(axis=0, dtype=np.float64)
        self._outputs += lacking.sum(axis=0, dtype=np.float64)
        self._count += len(inputs)

    def means(self) -> tuple[Doubles, Doubles]:
        return self._inputs / self._count, self._outputs / self._count

    def central(self) -> tuple[Doubles, Doubles]:
        """Second moments about the means, of inputs, and of inputs with what is lacking."""
        x, y = self.means()
        return self._squares / self._count - np.outer(x, x), self._products / self._count - np.outer(x, y)


def rounded_for(moments: Doubles, wanted: Floats, dtype: str) -> Rounded:
    """A matrix for inputs of these moments."""
    moments = damped(moments)
    rounded = compensated(wanted, moments, dtype)
    refine(rounded, wanted, moments)
    return rounded


def fitted(linear: Linear, sums: Sums, dtype: str) -> tuple[Bytes, Linear]:
    """The matrix as the file has it, and what it computes, with the bias that goes with it."""
    moments, products = sums.central()
    wanted, follow = linear.weight, FOLLOW[dtype]
    if follow is not None:
        ridge = follow * float(np.diag(moments).mean()) or 1.0
        wanted = wanted + np.linalg.solve(moments + ridge * np.eye(len(moments)), products).astype(np.float32)
    rounded = rounded_for(moments, wanted, dtype)
    weight = rounded.weights()
    inputs, lacking = sums.means()
    bias = linear.bias + lacking + inputs @ (linear.weight - weight)
    units = assemble(rounded.integers, rounded.scales, dtype)
    return units, Linear(weight, bias.astype(np.float32), FORMATS[dtype].group)


class Calibration:
    """Takes the matrices of the layers in the order of the computation."""

    def __init__(
        self, checkpoint: Checkpoint, tokens: Tokens, text: str, wider: frozenset[str] = frozenset()
    ) -> None:
        """tokens: [texts, positions]. text: says what they are. wider: matrices that are to be INT8."""
        self.text = f"{text}, {tokens.size} tokens"
        self.wider = wider
        self._checkpoint, self._tokens = checkpoint, tokens
        self._parts = parts_of(tokens)

    def begin(self, embedding: Floats, stored: Floats) -> None:
        """The token embeddings [V, C], exact and as the file has them."""
        added = read(self._checkpoint.tensors["wpe.weight"])[: self._tokens.shape[1]]
        self._exact = Stream(self._checkpoint, embedding[self._tokens] + added)
        self._rounded = Stream(self._checkpoint, stored[self._tokens] + added)

    def round(self, name: str, weight: Floats, dtype: str) -> tuple[Bytes, Floats]:
        """A matrix [in, out] of a layer, as the file has it, and the bias that goes with it."""
        _, number, kind = name[: -len(".weight")].split(".", 2)
        layer = int(number)
        linear = Linear(weight, self._exact.vector(f"h.{layer}.{kind}.bias"))
        group = FORMATS[dtype].group
        sums = Sums(*weight.shape)
        for inputs, wanted in self._pairs(layer, kind, linear):
            inputs = batched.rounded(inputs, group)
            sums.add(inputs, wanted - linear(inputs))
        self._require_finite(name, sums)
        units, result = fitted(linear, sums, dtype)
        self._exact.linear[kind], self._rounded.linear[kind] = linear, result
        self._advance(layer, kind)
        return units, result.bias

    def _pairs(self, layer: int, kind: str, linear: Linear) -> Iterator[tuple[Floats, Floats]]:
        """Inputs of the rounded model, and the outputs that are wanted for them."""
        for part in self._parts:
            wanted = linear(self._exact.inputs(layer, kind, part))
            if kind.endswith("c_proj"):
                wanted += self._exact.values[part] - self._rounded.values[part]
            yield self._rounded.inputs(layer, kind, part), wanted

    def _advance(self, layer: int, kind: str) -> None:
        """Both streams go past a matrix."""
        for stream in (self._exact, self._rounded):
            stream.advance(layer, kind, self._parts)

    def _require_finite(self, name: str, sums: Sums) -> None:
        if not all(np.isfinite(moments).all() for moments in sums.central()):
            raise ConvertError(
                f'tensor "{name}": expected finite inputs and outputs on the calibration text, found others '
                "(a model that was trained with an error?)"
            )
