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
from typing import Callable, Iterator

import numpy as np
import numpy.typing as npt

from . import batched
from .checkpoint import Checkpoint
from .compensate import compensated, damped, refine
from .errors import ConvertError
from .quantize import FORMATS, Bytes, assemble
from .tensors import Doubles, Floats, to_float32

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


class Stream:
    """Texts on their way through one of the two models. values: the residual stream."""

    def __init__(self, checkpoint: Checkpoint, values: Floats) -> None:
        self._config, self._tensors = checkpoint.config, checkpoint.tensors
        self.values = values
        self.linear: dict[str, Linear] = {}  #: by kind, of the layer that is at work
        self.attended = values  #: what attention makes of them, before c_proj
        self._norms: dict[str, tuple[Floats, Floats]] = {}

    def vector(self, name: str) -> Floats:
        tensor = self._tensors[name]
        return to_float32(tensor.read(), tensor.dtype)

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
        inputs, lacking = inputs.reshape(-1, inputs.shape[-1]), lacking.reshape(-1, lacking.shape[-1])
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


def fitted(linear: Linear, sums: Sums, dtype: str) -> tuple[Bytes, Linear]:
    """The matrix as the file has it, and what it computes, with the bias that goes with it."""
    moments, products = sums.central()
    wanted, follow = linear.weight, FOLLOW[dtype]
    if follow is not None:
        ridge = follow * float(np.diag(moments).mean()) or 1.0
        wanted = wanted + np.linalg.solve(moments + ridge * np.eye(len(moments)), products).astype(np.float32)
    moments = damped(moments)
    rounded = compensated(wanted, moments, dtype)
    refine(rounded, wanted, moments)
    weight = rounded.weights()
    inputs, lacking = sums.means()
    bias = linear.bias + lacking + inputs @ (linear.weight - weight)
    units = assemble(rounded.integers, rounded.scales, dtype)
    return units, Linear(weight, bias.astype(np.float32), FORMATS[dtype].group)


class Calibration:
    """Takes the matrices of the layers in the order of the computation."""

    def __init__(self, checkpoint: Checkpoint, tokens: npt.NDArray[np.int64], text: str) -> None:
        """tokens: [texts, positions]. text: says what they are."""
        self.text = f"{text}, {tokens.size} tokens"
        self._checkpoint, self._tokens = checkpoint, tokens
        step = max(1, BATCH // tokens.shape[1])
        self._parts = [slice(begin, begin + step) for begin in range(0, len(tokens), step)]

    def begin(self, embedding: Floats, stored: Floats) -> None:
        """The token embeddings [V, C], exact and as the file has them."""
        position = self._checkpoint.tensors["wpe.weight"]
        added = to_float32(position.read(), position.dtype)[: self._tokens.shape[1]]
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
        inputs = self._inputs(layer, kind)
        for part in self._parts:
            wanted = linear(inputs(self._exact, part))
            if kind.endswith("c_proj"):
                wanted += self._exact.values[part] - self._rounded.values[part]
            yield inputs(self._rounded, part), wanted

    @staticmethod
    def _inputs(layer: int, kind: str) -> Callable[[Stream, slice], Floats]:
        """What a matrix of this kind reads."""
        return {
            "attn.c_attn": lambda stream, part: stream.norm(f"h.{layer}.ln_1", part),
            "attn.c_proj": lambda stream, part: stream.attended[part],
            "mlp.c_fc": lambda stream, part: stream.norm(f"h.{layer}.ln_2", part),
            "mlp.c_proj": lambda stream, part: stream.inner(layer, part),
        }[kind]

    def _advance(self, layer: int, kind: str) -> None:
        """Both streams go past a matrix."""
        inputs = self._inputs(layer, kind)
        for stream in (self._exact, self._rounded):
            if kind == "attn.c_attn":
                stream.attend(layer, self._parts)
            elif kind.endswith("c_proj"):
                for part in self._parts:
                    stream.values[part] += stream.linear[kind](inputs(stream, part))

    def _require_finite(self, name: str, sums: Sums) -> None:
        if not all(np.isfinite(moments).all() for moments in sums.central()):
            raise ConvertError(
                f'tensor "{name}": expected finite inputs and outputs on the calibration text, found others '
                "(a model that was trained with an error?)"
            )
