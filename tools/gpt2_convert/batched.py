# SPDX-License-Identifier: MIT
"""GPT-2 in float32 on many texts at once, part by part, for calibration. forward.py is the exact one.

Arrays are [texts, positions, channels]; texts of a batch are of equal length.
"""

from __future__ import annotations

import math

import numpy as np

from .forward import STEPS
from .tensors import Floats

ROOT_2, ROOT_2_BY_PI = np.float32(math.sqrt(2)), np.float32(math.sqrt(2 / math.pi))
#: erf(x) for x >= 0 is 1 - t (a1 + t (a2 + ...)) exp(-x^2), t = 1 / (1 + p x), to 1.5e-7 (Abramowitz and
#: Stegun, Handbook of Mathematical Functions, 7.1.26).
ERF_P, ERF = 0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def layer_norm(x: Floats, gain: Floats, bias: Floats, epsilon: float) -> Floats:
    d: Floats = x - x.mean(axis=-1, keepdims=True)
    d /= np.sqrt(np.square(d).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    d *= gain
    d += bias
    return d


def erf(x: Floats) -> Floats:
    magnitude = np.abs(x)
    t = 1 / (1 + np.float32(ERF_P) * magnitude)
    sum_ = np.zeros_like(t)
    for factor in reversed(ERF):
        sum_ = (sum_ + np.float32(factor)) * t
    result: Floats = np.copysign(1 - sum_ * np.exp(-np.square(magnitude)), x)
    return result


def activation(z: Floats, name: str) -> Floats:
    if name == "relu":
        return np.maximum(z, 0)
    if name == "gelu":
        return np.float32(0.5) * z * (1 + erf(z / ROOT_2))
    cubic = np.float32(0.044715) * z * z * z
    result: Floats = np.float32(0.5) * z * (1 + np.tanh(ROOT_2_BY_PI * (z + cubic)))
    return result


def attention(qkv: Floats, n_head: int, scale: float) -> Floats:
    """softmax(scale Q K^T) V for each head, causal. qkv is [texts, positions, 3 C]."""
    texts, rows, width = qkv.shape
    split = qkv.reshape(texts, rows, 3, n_head, width // (3 * n_head)).transpose(2, 0, 3, 1, 4)
    query, key, value = split[0] * np.float32(scale), split[1], split[2]
    later = np.triu(np.full((rows, rows), -np.inf, np.float32), 1)
    result = np.empty((texts, rows, n_head, width // (3 * n_head)), np.float32)
    for text in range(texts):
        score = query[text] @ key[text].transpose(0, 2, 1)
        score += later
        score -= score.max(axis=2, keepdims=True)
        np.exp(score, out=score)
        score /= score.sum(axis=2, keepdims=True)
        result[text] = (score @ value[text]).transpose(1, 0, 2)
    return result.reshape(texts, rows, -1)


def rounded(x: Floats, group: int) -> Floats:
    """Inputs as a matrix of integers takes them: in each group whole multiples of its largest / 127."""
    width = x.shape[-1]
    padded = np.pad(x.reshape(-1, width), ((0, 0), (0, -width % group))).reshape(-1, group)
    step = np.abs(padded).max(axis=1, keepdims=True) / np.float32(STEPS)
    step[step == 0] = 1
    padded /= step
    np.rint(padded, out=padded)
    padded *= step
    return padded.reshape(*x.shape[:-1], -1)[..., :width]
