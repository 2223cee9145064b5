# SPDX-License-Identifier: MIT
"""GPT-2 in float64, one matrix at a time, and how far the library's arithmetic may be from it.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, and the original code
(openai/gpt-2, src/model.py). Beside each number goes the variance of the error that float32 arithmetic makes
in it: one rounding errs by at most u |result|, u = 2^-24, taken as uniform and independent, and through an
operation variances go by its derivatives (Higham and Mary, "A New Approach to Probabilistic Rounding Error
Analysis", SIAM J. Sci. Comput. 41, 2019). The library computes in the same order: chains of fused
multiply-adds over the inputs.

Before a matrix of integers the library rounds the inputs of each group to whole multiples of a step, which is
1/127 of the largest magnitude there. The float64 computation does not; the error goes the way of all others,
with the variance that quantised() gives it. It is larger than those of float32 by a factor of about 10^5, and
no other source is added for such matrices: a sum over a group is exact, and one rounding for a group is less
than one for each input, which is what product() counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable

import numpy as np

from .checkpoint import ModelConfig
from .tensors import Doubles, Weights

ROUNDING = 2.0**-48 / 3.0  #: variance of one rounding of a number of magnitude 1
EXP_VARIANCE = 16.0 * ROUNDING  #: of the library's exp, at most 2 units in the last place; relative
TOLERANCE = 8.0  #: standard deviations that an error may have
BLOCK = 128  #: inputs that go through a product together
HEAD_ROWS = 1024  #: tokens of the vocabulary whose logits are computed together
STEPS = 127  #: of quantised inputs: the largest magnitude of a group in units of their step


@dataclass
class Estimate:
    """Exact numbers and the variances of their errors, both [rows, columns]."""

    value: Doubles
    variance: Doubles

    def plus(self, other: Estimate) -> Estimate:
        value = self.value + other.value
        return Estimate(value, self.variance + other.variance + ROUNDING * value**2)


def quantised(x: Estimate, group: int) -> Estimate:
    """x as a matrix takes it whose groups have so many inputs: the variance counts the rounding.

    A number errs by at most half a step, taken as uniform: where in a step it lies is as good as random, and
    errors of what came before move it about. But one below half a step becomes 0, and errs by itself. (That
    is more than uniform for some and much less for most: beside a large number, and where relu gave 0.)
    """
    if group == 0:
        return x
    starts = np.arange(0, x.value.shape[1], group)
    largest = np.maximum.reduceat(np.abs(x.value), starts, axis=1)
    step = np.repeat(largest / STEPS, group, axis=1)[:, : x.value.shape[1]]
    error = np.where(np.abs(x.value) < step / 2, x.value**2, step**2 / 12)
    return Estimate(x.value, x.variance + error)


def product(x: Estimate, weight: Weights, start: Doubles) -> Estimate:
    """start + x W for W [in, out]. Each output is a chain of multiply-adds, and each partial sum is rounded.

    Partial sums are looked at once in BLOCK inputs. In between they are taken to run straight, with the
    fluctuation of a bridge of independent steps: the mean square from a to b is (a^2 + ab + b^2) / 3, plus a
    sixth of the sum of the steps' squares.
    """
    x = quantised(x, weight.group)
    sums, variance = start, np.zeros(1)
    for begin in range(0, len(weight), BLOCK):
        inputs = slice(begin, begin + BLOCK)
        w, value = weight[inputs].float64(), x.value[:, inputs]
        n, following = len(w), sums + value @ w
        straight = n / 3 * ROUNDING * (sums**2 + sums * following + following**2)
        # Both the inputs' own errors and the steps' squares meet the weights' squares.
        variance = variance + straight + (x.variance[:, inputs] + n / 6 * ROUNDING * value**2) @ (w * w)
        sums = following
    return Estimate(sums, variance)


def layer_norm(x: Estimate, gain: Doubles, bias: Doubles, epsilon: float) -> Estimate:
    """(x - mean) / sqrt(variance + epsilon) * gain + bias (Ba, Kiros, Hinton, 2016). Sums run in 16 lanes."""
    n = x.value.shape[1]
    additions = n / 16 + 5
    mean = x.value.mean(axis=1, keepdims=True)
    magnitude = np.abs(x.value).mean(axis=1, keepdims=True)
    mean_variance = x.variance.sum(axis=1, keepdims=True) / n**2 + additions * ROUNDING * magnitude**2
    d = x.value - mean
    d_variance = x.variance + mean_variance + ROUNDING * d**2
    variance = (d**2).mean(axis=1, keepdims=True)
    root = variance + epsilon
    scale = 1 / np.sqrt(root)
    root_variance = (4 / n**2) * (d**2 * d_variance).sum(axis=1, keepdims=True)
    root_variance += (additions + 2) * ROUNDING * variance**2
    scale_variance = 0.25 * root_variance / root**2 + 3 * ROUNDING
    value = d * scale * gain + bias
    spread = (d_variance + d**2 * (scale_variance + ROUNDING)) * (scale * gain) ** 2
    return Estimate(value, spread + ROUNDING * value**2)


def activation(x: Estimate, name: str) -> Estimate:
    z = x.value
    if name == "relu":
        return Estimate(np.maximum(z, 0), np.where(z > 0, x.variance, 0))
    if name == "gelu":  # z Phi(z); the kernel's erf errs by a few roundings, of numbers up to 1
        phi = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(z / math.sqrt(2)))
        density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
        return Estimate(z * phi, (phi + z * density) ** 2 * x.variance + 16 * ROUNDING * z**2)
    c = math.sqrt(2 / math.pi)
    inner = c * (z + 0.044715 * z**3)
    tanh = np.tanh(inner)
    value = 0.5 * z * (1 + tanh)
    slope = 0.5 * (1 + tanh) + 0.5 * z * (1 - tanh**2) * c * (1 + 3 * 0.044715 * z**2)
    # Computed as z / (1 + e^a), a = -2 inner: roundings on the way to a, exp, a sum and a quotient.
    share = 0.5 * (1 - tanh)
    relative = (20 * ROUNDING * inner**2 + EXP_VARIANCE) * share**2 + 2 * ROUNDING
    return Estimate(value, slope**2 * x.variance + relative * value**2)


def attention(qkv: Estimate, n_head: int, scale: float) -> Estimate:
    """softmax(scale Q K^T) V per head, causal. qkv is [T, 3 C]: queries, keys, values."""
    rows, width = len(qkv.value), qkv.value.shape[1] // 3

    def heads(part: int) -> tuple[Doubles, Doubles]:
        columns = slice(part * width, (part + 1) * width)
        shape = (rows, n_head, width // n_head)
        value, variance = qkv.value[:, columns].reshape(shape), qkv.variance[:, columns].reshape(shape)
        return value.transpose(1, 0, 2), variance.transpose(1, 0, 2)

    (q, dq), (k, dk), (v, dv) = heads(0), heads(1), heads(2)
    q, dq = scale * q, scale**2 * dq + 4 * ROUNDING * (scale * q) ** 2
    causal = np.tril(np.ones((rows, rows), bool))
    score = q @ k.transpose(0, 2, 1)
    # A chain's partial sums are below the sum of the magnitudes, mostly far: a random walk's mean square.
    walk = (q**2) @ (k**2).transpose(0, 2, 1) * (q.shape[2] / 2) + q.shape[2] / 3 * score**2
    error = dq @ (k**2).transpose(0, 2, 1) + (q**2) @ dk.transpose(0, 2, 1) + ROUNDING * walk
    below = np.where(causal, score - np.where(causal, score, -np.inf).max(axis=2, keepdims=True), -np.inf)
    p = np.exp(below)
    p /= p.sum(axis=2, keepdims=True)
    error = np.where(causal, error + ROUNDING * np.square(below, where=causal, out=np.zeros_like(below)), 0)
    error += EXP_VARIANCE
    out = p @ v
    # d out / d score_j = p_j (v_j - out)
    distance = v[:, None, :, :] - out[:, :, None, :]
    moved = np.einsum("hij,hijd->hid", p**2 * error, distance**2)
    chain = rows / 2 * ((p**2) @ (v**2)) + rows / 3 * out**2
    variance = moved + (p**2) @ dv + ROUNDING * (chain + 10 * out**2)

    def merged(x: Doubles) -> Doubles:
        return x.transpose(1, 0, 2).reshape(rows, width)

    return Estimate(merged(out), merged(variance))


def logits(
    config: ModelConfig, separate_head: bool, tokens: list[int], weights: Callable[[str], Weights]
) -> Estimate:
    """The logits [1, V] after the last token.

    weights gives a tensor by its name, linear ones [in, out] and embeddings [out, in]. It is asked in the
    order of checkpoint.expected_shapes(), once for each, and at the end again for wte.weight where it is the
    head too.
    """

    def vector(name: str) -> Doubles:
        return weights(name).float64()

    def norm(x: Estimate, name: str) -> Estimate:
        return layer_norm(x, vector(f"{name}.weight"), vector(f"{name}.bias"), config.layer_norm_epsilon)

    def linear(x: Estimate, name: str) -> Estimate:
        weight = weights(f"{name}.weight")
        return product(x, weight, vector(f"{name}.bias"))

    value = weights("wte.weight")[tokens].float64() + weights("wpe.weight")[: len(tokens)].float64()
    x = Estimate(value, ROUNDING * value**2)
    for layer in range(config.n_layer):
        h = f"h.{layer}"
        qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn")
        attended = attention(qkv, config.n_head, config.score_scale(layer))
        x = x.plus(linear(attended, f"{h}.attn.c_proj"))
        inner = activation(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"), config.activation_function)
        x = x.plus(linear(inner, f"{h}.mlp.c_proj"))
    last = norm(Estimate(x.value[-1:], x.variance[-1:]), "ln_f")
    head = weights("lm_head.weight" if separate_head else "wte.weight")
    parts = [
        product(last, head[begin : begin + HEAD_ROWS].transposed(), np.zeros(1))
        for begin in range(0, len(head), HEAD_ROWS)
    ]
    return Estimate(
        np.concatenate([part.value for part in parts], axis=1),
        np.concatenate([part.variance for part in parts], axis=1),
    )


def bound(estimate: Estimate) -> float:
    """The largest difference that the library's arithmetic, and these logits in float32, can explain."""
    stored = float(np.abs(estimate.value).max()) * 2.0**-24
    return TOLERANCE * math.sqrt(float(estimate.variance.max())) + stored
