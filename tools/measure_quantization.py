#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the measurements of docs/quantization.md.

    tools/measure_quantization.py data              rounding of Gaussian and Laplace numbers
    tools/measure_quantization.py weights           rounding of a model's weights, by kind of matrix
    tools/measure_quantization.py activations       logits by group of the activations
    tools/measure_quantization.py logits            logits by type of layers and head
    tools/measure_quantization.py balance           logits with and without balanced rows
    tools/measure_quantization.py outliers          the same for the model with outlier channels

Everything is computed in float64 from weights and activations that were rounded; errors are those against the
same model without rounding. Needs numpy.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpt2_convert import balance, checkpoint, quantize
from gpt2_convert.sources import packed
from gpt2_convert.tensors import from_float32, to_float32
from gpt2_convert.tokenizer_tables import TokenizerTables

ROOT = Path(__file__).resolve().parents[1]
WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
NORMS = {"c_attn": "ln_1", "c_fc": "ln_2"}
KINDS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


# Rounding.


def bfloat16(x):
    return to_float32(from_float32(np.asarray(x, np.float32), "BF16"), "BF16").astype(np.float64)


def bfloat16_up(x):
    near = bfloat16(x)
    return np.where(near < x, bfloat16(near * (1 + 2.0**-7)), near)


def in_groups(weights, group):
    """[in, out] as [group, input within it, out], filled up with zeros."""
    missing = -len(weights) % group
    return np.pad(weights, ((0, missing), (0, 0))).reshape(-1, group, weights.shape[1])


def by_group(function):
    """A rounding of groups as one of a whole matrix [in, out]."""

    def rounded(weights, group):
        result = function(in_groups(weights, group))
        return result.reshape(-1, weights.shape[1])[: len(weights)]

    return rounded


@by_group
def absmax8(w):
    """Symmetric, the largest magnitude is 127."""
    scale = bfloat16_up(np.abs(w).max(axis=1, keepdims=True) / 127)
    return np.rint(w / np.where(scale > 0, scale, np.inf)) * scale


def best_of(divisors):
    """Symmetric, -8 to 7: of the scales that the element of largest magnitude gives, that of least error."""

    @by_group
    def rounded(w):
        largest = np.take_along_axis(w, np.abs(w).argmax(axis=1)[:, None], axis=1)
        best, least = None, None
        for divisor in divisors:
            scale = bfloat16(largest / -divisor)
            found = np.clip(np.rint(w / np.where(scale != 0, scale, np.inf)), -8, 7) * scale
            error = ((found - w) ** 2).sum(axis=1, keepdims=True)
            if best is None:
                best, least = found, error
            best, least = np.where(error < least, found, best), np.minimum(error, least)
        return best

    return rounded


@by_group
def with_minimum(w):
    """0 to 15 times a scale plus a minimum, both found by a search over shrunken ranges."""
    low, high = w.min(axis=1, keepdims=True), w.max(axis=1, keepdims=True)
    best, least = None, None
    for a in np.linspace(0, 0.24, 7):
        for b in np.linspace(0, 0.24, 7):
            bottom = bfloat16(low + a * (high - low) / 2)
            scale = bfloat16((high - b * (high - low) / 2 - bottom) / 15)
            found = (
                np.clip(np.rint((w - bottom) / np.where(scale > 0, scale, np.inf)), 0, 15) * scale + bottom
            )
            error = ((found - w) ** 2).sum(axis=1, keepdims=True)
            if best is None:
                best, least = found, error
            best, least = np.where(error < least, found, best), np.minimum(error, least)
    return best


DIVISORS = [6 + 0.25 * i for i in range(16)]


def converter(dtype):
    """The converter's own rounding, whose group is fixed."""

    def rounded(weights, group=None):
        units = quantize.quantize(np.ascontiguousarray(weights, np.float32), dtype)
        return quantize.dequantize(units, dtype, *weights.shape).astype(np.float64)

    return rounded


def decibels(weights, rounded):
    """Signal to noise."""
    return 10 * math.log10((weights**2).sum() / ((rounded - weights) ** 2).sum())


# A model.


class Model:
    """GPT-2 in float64 on several tokens at once. The weights [in, out]; wte is the head's matrix as well."""

    def __init__(self, source):
        self.config = source.config
        self.weights = {
            name: to_float32(tensor.read(), tensor.dtype).astype(np.float64)
            for name, tensor in source.tensors.items()
        }
        self.weights["head"] = self.weights.get("lm_head.weight", self.weights["wte.weight"]).T
        self.groups = {}  #: of the activations before a matrix, by its name; absent: not rounded

    def copy(self):
        result = object.__new__(Model)
        result.config, result.weights, result.groups = self.config, dict(self.weights), dict(self.groups)
        return result

    def matrices(self, kinds=KINDS):
        return [f"h.{i}.{kind}.weight" for kind in kinds for i in range(self.config.n_layer)]

    def product(self, x, name):
        group = self.groups.get(name)
        return (x if group is None else rounded_activations(x, group)) @ self.weights[name]

    def linear(self, x, name):
        return self.product(x, f"{name}.weight") + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        d = x - x.mean(axis=1, keepdims=True)
        unit = d / np.sqrt((d * d).mean(axis=1, keepdims=True) + self.config.layer_norm_epsilon)
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, qkv, layer):
        rows = len(qkv)
        q, k, v = (
            part.reshape(rows, self.config.n_head, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1)
        )
        scores = self.config.score_scale(layer) * q @ k.transpose(0, 2, 1)
        scores = np.where(np.tril(np.ones((rows, rows), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        return (p / p.sum(axis=2, keepdims=True) @ v).transpose(1, 0, 2).reshape(rows, -1)

    def logits(self, tokens):
        """[tokens, V]"""
        x = self.weights["wte.weight"][tokens] + self.weights["wpe.weight"][: len(tokens)]
        for i in range(self.config.n_layer):
            h = f"h.{i}"
            x = x + self.linear(
                self.attention(self.linear(self.norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn"), i),
                f"{h}.attn.c_proj",
            )
            z = self.linear(self.norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")
            z = 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
            x = x + self.linear(z, f"{h}.mlp.c_proj")
        return self.product(self.norm(x, "ln_f"), "head")


def rounded_activations(x, group):
    rows = in_groups(x.T, group)
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    rounded = np.rint(rows / np.where(step > 0, step, np.inf)) * step
    return rounded.reshape(-1, len(x))[: x.shape[1]].T
