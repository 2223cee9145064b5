# SPDX-License-Identifier: MIT
"""What docs/model-format.md says about int8 and int4 written out a second time, without the converter's code:
rounding with one number at a time, what the bytes stand for, and the products that the library computes."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np

GROUP = {"INT8": 64, "INT4": 32}
UNIT = {"INT8": 2112, "INT4": 576}
f32 = np.float32


def bits_of(x: Any) -> int:
    return int(np.array(x, np.float32).view(np.uint32))


def from_bits(bits: int) -> Any:
    return np.array(bits, np.uint32).view(np.float32)[()]


def bfloat16_nearest(x: Any) -> Any:
    bits = bits_of(x)
    return from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000)


def bfloat16_up(x: Any) -> Any:
    """Of a positive number."""
    bits = bits_of(x)
    return from_bits((bits + (0x10000 if bits & 0xFFFF else 0)) & 0xFFFF0000)


def half_even(x: Any) -> int:
    return round(float(x))  # Python's own rounding is to even


def round_int8(group: Any) -> tuple[list[int], Any]:
    """The integers and the scale of one group of float32."""
    exact = f32(max(abs(w) for w in group)) / f32(127)
    if exact < 2.0**-100:
        return [0] * len(group), f32(0)
    scale = bfloat16_up(exact)
    return [half_even(w / scale) for w in group], scale


def round_int4(group: Any) -> tuple[list[int], Any]:
    largest = group[0]
    for w in group:
        if abs(w) > abs(largest):
            largest = w
    if abs(largest) < 2.0**-100:
        return [0] * len(group), f32(0)
    best = None
    for i in range(16):
        scale = bfloat16_nearest(largest / f32(-(6 + 0.25 * i)))
        integers = [min(max(half_even(w / scale), -8), 7) for w in group]
        error = 0.0
        for w, q in zip(group, integers):
            difference = f32(float(w) - float(scale) * q)
            error += float(difference) * float(difference)
        if best is None or error < best[0]:
            best = error, integers, scale
    assert best is not None
    return best[1], best[2]


ROUND: dict[str, Callable[[Any], tuple[list[int], Any]]] = {"INT8": round_int8, "INT4": round_int4}


def packed(weights: Any, dtype: str) -> Any:
    """A matrix [in, out] as the file has it, one number at a time."""
    inputs, outputs = weights.shape
    size = GROUP[dtype]
    panels, groups = math.ceil(outputs / 32), math.ceil(inputs / size)
    codes = np.full((panels, groups, size, 32), 128 if dtype == "INT8" else 8, np.uint8)
    scales = np.zeros((panels, groups, 32), np.uint16)
    filled = np.zeros((groups * size, outputs), np.float32)
    filled[:inputs] = weights
    for n in range(outputs):
        for g in range(groups):
            integers, scale = ROUND[dtype](filled[g * size : (g + 1) * size, n])
            codes[n // 32, g, :, n % 32] += np.array(integers).astype(np.uint8)
            j = n % 32
            scales[n // 32, g, 2 * j if j < 16 else 2 * (j - 16) + 1] = bits_of(scale) >> 16
    result = np.zeros((panels, groups, UNIT[dtype]), np.uint8)
    for k in range(size):
        for j in range(32):
            if dtype == "INT8":
                result[:, :, k // 4 * 128 + j * 4 + k % 4] = codes[:, :, k, j]
            else:
                result[:, :, k // 4 * 64 + j % 16 * 4 + k % 4] |= codes[:, :, k, j] << (0 if j < 16 else 4)
    result[:, :, -64:] = scales.view(np.uint8)
    return result


def unpacked(units: Any, dtype: str) -> tuple[Any, Any]:
    """Integers [group, input within it, output] and scales [group, output]."""
    panels, groups, _ = units.shape
    codes = np.zeros((groups, GROUP[dtype], panels, 32), np.int64)
    scales = np.zeros((groups, panels, 32), np.float32)
    bits = np.ascontiguousarray(units[:, :, -64:]).view(np.uint16).astype(np.uint32) << 16
    for j in range(32):
        scales[:, :, j] = bits[:, :, 2 * j if j < 16 else 2 * (j - 16) + 1].view(np.float32).T
        for k in range(GROUP[dtype]):
            if dtype == "INT8":
                codes[:, k, :, j] = units[:, :, k // 4 * 128 + j * 4 + k % 4].T - 128.0
            else:
                byte = units[:, :, k // 4 * 64 + j % 16 * 4 + k % 4].T
                codes[:, k, :, j] = (byte & 15 if j < 16 else byte >> 4) - 8.0
    return codes.reshape(groups, -1, panels * 32), scales.reshape(groups, -1)


def product(x: Any, units: Any, dtype: str, start: Any) -> Any:
    """start + x W, of float32 [rows, in]: rows quantised, sums of integers, one multiply-add a group."""
    codes, scales = unpacked(units, dtype)
    size = GROUP[dtype]
    total = np.zeros((len(x), scales.shape[1]), np.float32)
    total[:, : len(start)] = start
    for g in range(len(codes)):
        part = x[:, g * size : (g + 1) * size]
        largest = np.abs(part).max(axis=1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = np.where(largest > 0, f32(127) / largest, 0).astype(np.float32)
        integers = np.rint(part * inverse).astype(np.int64)
        sums = integers @ codes[g, : part.shape[1]]
        scale = scales[g] * (largest / f32(127))
        total = (sums * scale.astype(np.float64) + total).astype(np.float32)
    return total


class Model:
    """Reads a converted file's tensors (by name, as any reader of safetensors sees them) and computes logits.

    All but the products of integers is float64, whose errors are much smaller than theirs.
    """

    def __init__(self, config: Any, tensors: Callable[[str], Any]) -> None:
        self.config, self.tensors = config, tensors

    def vector(self, name: str, size: int) -> Any:
        return self.tensors(name)[..., :size].astype(np.float64)

    def matrix(self, name: str) -> tuple[Any, str]:
        stored = self.tensors(name)
        return stored, {2112: "INT8", 576: "INT4"}.get(stored.shape[-1], "F32")

    def linear(self, x: Any, name: str, outputs: int, start: Any) -> Any:
        stored, dtype = self.matrix(name)
        if dtype == "F32":  # or F16
            weights = stored.astype(np.float64).transpose(1, 0, 2).reshape(stored.shape[1], -1)
            return x @ weights[:, :outputs] + start
        result = product(x.astype(np.float32), stored, dtype, np.broadcast_to(start, outputs))
        return result[:, :outputs].astype(np.float64)

    def rows(self, name: str, tokens: list[int], width: int) -> Any:
        stored, dtype = self.matrix(name)
        if dtype == "F32":
            return np.stack([stored[t // 32, :, t % 32] for t in tokens]).astype(np.float64)
        found = []
        for token in tokens:
            codes, scales = unpacked(stored[token // 32][None], dtype)
            found.append((codes * scales[:, None]).reshape(-1, 32)[:width, token % 32])
        return np.stack(found).astype(np.float64)

    def norm(self, x: Any, name: str) -> Any:
        c = self.config
        d = x - x.mean(axis=1, keepdims=True)
        unit = d / np.sqrt((d * d).mean(axis=1, keepdims=True) + c.layer_norm_epsilon)
        return unit * self.vector(f"{name}.weight", c.n_embd) + self.vector(f"{name}.bias", c.n_embd)

    def layer(self, x: Any, name: str, outputs: int) -> Any:
        return self.linear(x, f"{name}.weight", outputs, self.vector(f"{name}.bias", outputs))

    def activation(self, z: Any) -> Any:
        name = self.config.activation_function
        if name == "relu":
            return np.maximum(z, 0)
        if name == "gelu":
            return z * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(z)
        return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    def attention(self, qkv: Any, layer: int) -> Any:
        c, n = self.config, len(qkv)
        q, k, v = (part.reshape(n, c.n_head, -1).transpose(1, 0, 2) for part in np.split(qkv, 3, axis=1))
        scores = c.score_scale(layer) * q @ k.transpose(0, 2, 1)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        return (p / p.sum(axis=2, keepdims=True) @ v).transpose(1, 0, 2).reshape(n, -1)

    def logits(self, tokens: list[int]) -> Any:
        """[V], after the last token."""
        c = self.config
        wpe = self.vector("wpe.weight", c.n_embd)
        x = self.rows("wte.weight", tokens, c.n_embd) + wpe[: len(tokens)]
        for i in range(c.n_layer):
            h = f"h.{i}"
            attended = self.attention(
                self.layer(self.norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn", 3 * c.n_embd), i
            )
            x = x + self.layer(attended, f"{h}.attn.c_proj", c.n_embd)
            inner = self.activation(self.layer(self.norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc", c.n_inner))
            x = x + self.layer(inner, f"{h}.mlp.c_proj", c.n_embd)
        head = "wte.weight" if c.tie_word_embeddings else "lm_head.weight"
        return self.linear(self.norm(x, "ln_f")[-1:], head, c.vocab_size, 0.0)[0]
