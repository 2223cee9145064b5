# SPDX-License-Identifier: MIT
"""The forward pass in float64 against other ones, and the estimate of the errors that float32 makes."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np
import pytest
import tiny_model

from gpt2_convert import checkpoint, forward
from gpt2_convert.forward import Estimate
from gpt2_convert.tensors import Stored, from_float32

TOKENS = [5, 259, 0, 77, 77]
SHAPES: list[dict[str, Any]] = [
    {},
    {"activation_function": "gelu"},
    {"activation_function": "relu", "n_inner": 20},
    {"scale_attn_weights": False},
    {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    {"tie_word_embeddings": False, "layer_norm_epsilon": 0.01},
    {"n_embd": 12, "n_head": 3},
    {"n_embd": 160, "n_head": 4, "n_layer": 1},  # more than one block of inputs
]
IDS = [" ".join(f"{key}={value}" for key, value in shape.items()) or "plain" for shape in SHAPES]


def make(shape: dict[str, Any], scale: float = 2.0) -> tuple[checkpoint.ModelConfig, dict[str, np.ndarray]]:
    """A model with weights of a size that uses the curved parts of its functions."""
    values = tiny_model.config(**shape)
    config = checkpoint.ModelConfig.from_json(values, "config.json")
    weights = tiny_model.arrays(values, separate_head=not config.tie_word_embeddings)
    return config, {name: np.float32(scale) * array for name, array in weights.items()}


def logits(config: checkpoint.ModelConfig, weights: dict[str, np.ndarray], tokens: list[int]) -> Estimate:
    separate = "lm_head.weight" in weights
    return forward.logits(config, separate, tokens, lambda name: Stored(weights[name], "F32"))


# Values.


def torch_logits(config: checkpoint.ModelConfig, arrays: dict[str, np.ndarray], tokens: list[int]) -> Any:
    """In PyTorch's own layers."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    weights = {name: torch.from_numpy(array).double() for name, array in arrays.items()}
    activation = {
        "relu": functional.relu,
        "gelu": functional.gelu,
        "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    }[config.activation_function]

    def linear(name: str, x: Any) -> Any:
        return functional.linear(x, weights[f"{name}.weight"].T, weights[f"{name}.bias"])

    def norm(name: str, x: Any) -> Any:
        epsilon = config.layer_norm_epsilon
        return functional.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon
        )

    n = len(tokens)
    x = weights["wte.weight"][tokens] + weights["wpe.weight"][:n]
    for i in range(config.n_layer):
        q, k, v = (
            part.reshape(n, config.n_head, -1).transpose(0, 1)
            for part in linear(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1", x)).chunk(3, dim=-1)
        )
        scores = q @ k.transpose(1, 2)
        if config.scale_attn_weights:
            scores = scores / math.sqrt(q.shape[-1])
        if config.scale_attn_by_inverse_layer_idx:
            scores = scores / (i + 1)
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -math.inf)
        x = x + linear(f"h.{i}.attn.c_proj", (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1))
        x = x + linear(f"h.{i}.mlp.c_proj", activation(linear(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2", x))))
    return (norm("ln_f", x)[-1] @ weights.get("lm_head.weight", weights["wte.weight"]).T).numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_logits_are_those_of_pytorch(shape, n):
    config, weights = make(shape)
    expected = torch_logits(config, weights, TOKENS[:n])
    found = logits(config, weights, TOKENS[:n]).value
    assert found.shape == (1, config.vocab_size) and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-12)


class Scalar:
    """GPT-2 with one number at a time, each operation rounded by a function: exactly, or to float32.

    The order of the operations is the library's: chains of fused multiply-adds over the inputs.
    """

    def __init__(self, config: checkpoint.ModelConfig, weights: Any, rounded: Callable[[Any], Any]) -> None:
        self.config, self.weights, self.rounded = config, weights, rounded

    def sum(self, terms: Any) -> Any:
        total = 0.0
        for term in terms:
            total = self.rounded(total + term)
        return total

    def chain(self, start: Any, a: Any, b: Any) -> Any:
        for x, y in zip(a, b):
            start = self.rounded(start + x * y)  # the product of two float32 is exact in float64
        return start

    def linear(self, name: str, x: Any) -> Any:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return np.stack(
            [self.chain(bias, [value[:, None] for value in row[:, None]], weight)[0] for row in x]
        )

    def norm(self, name: str, x: Any) -> Any:
        r = self.rounded
        rows = []
        for row in x:
            d = r(row - r(self.sum(row) / len(row)))
            variance = r(self.sum(r(d * d)) / len(row))
            scale = r(1 / r(np.sqrt(r(variance + self.config.layer_norm_epsilon))))
            gain, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
            rows.append(r(r(d * scale) * gain + bias))
        return np.stack(rows)

    def activation(self, x: Any) -> Any:
        r, name = self.rounded, self.config.activation_function
        if name == "relu":
            return np.where(x > 0, x, 0)
        if name == "gelu":
            return r(x * r([[0.5 * math.erfc(-v / math.sqrt(2)) for v in row] for row in x]))
        a = r(-2 * r(math.sqrt(2 / math.pi) * r(x * r(1 + r(0.044715 * r(x * x))))))
        return r(x / r(1 + r(np.exp(a))))

    def attention(self, qkv: Any, layer: int) -> Any:
        r, config = self.rounded, self.config
        size = config.n_embd // config.n_head
        scale, n = config.score_scale(layer), len(qkv)
        out = np.zeros((n, config.n_embd))
        for head in range(config.n_head):
            columns = slice(head * size, (head + 1) * size)
            q, k, v = (part[:, columns] for part in np.split(qkv, 3, axis=1))
            for i in range(n):
                scores = np.array([self.chain(0.0, r(q[i] * scale), k[j]) for j in range(i + 1)])
                p = r(np.exp(r(scores - scores.max())))
                out[i, columns] = r(self.chain(np.zeros(size), p[:, None], v) / self.sum(p))
        return out

    def logits(self, tokens: list[int]) -> Any:
        r, weights = self.rounded, self.weights
        x = r(weights["wte.weight"][tokens] + weights["wpe.weight"][: len(tokens)])
        for i in range(self.config.n_layer):
            attended = self.attention(self.linear(f"h.{i}.attn.c_attn", self.norm(f"h.{i}.ln_1", x)), i)
            x = r(x + self.linear(f"h.{i}.attn.c_proj", attended))
            inner = self.activation(self.linear(f"h.{i}.mlp.c_fc", self.norm(f"h.{i}.ln_2", x)))
            x = r(x + self.linear(f"h.{i}.mlp.c_proj", inner))
        head = weights.get("lm_head.weight", weights["wte.weight"])
        return self.chain(np.zeros(len(head)), self.norm("ln_f", x)[-1], head.T)


def scalar_logits(config: Any, weights: Any, tokens: list[int], rounded: Callable[[Any], Any]) -> Any:
    doubles = {name: array.astype(np.float64) for name, array in weights.items()}
    return Scalar(config, doubles, rounded).logits(tokens)


def exactly(x: Any) -> Any:
    return np.asarray(x, np.float64)


def to_float32(x: Any) -> Any:
    return np.asarray(x, np.float32).astype(np.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
def test_logits_are_those_of_a_plain_implementation(shape):
    config, weights = make(shape)
    np.testing.assert_allclose(
        logits(config, weights, TOKENS).value[0],
        scalar_logits(config, weights, TOKENS, exactly),
        rtol=0,
        atol=1e-12,
    )


# Errors.


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_float32_stays_within_the_bound_and_not_far_below(shape, scale):
    config, weights = make(shape, scale)
    estimate = logits(config, weights, TOKENS)
    errors = scalar_logits(config, weights, TOKENS, to_float32) - estimate.value[0]
    bound = forward.bound(estimate)
    assert np.abs(errors).max() < bound
    # Not so wide that a wrong computation could hide in it: 8 standard deviations are not 100.
    assert np.abs(errors).max() > bound / 60


@pytest.mark.parametrize("inputs", [40, 128, 129, 1000])
@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_the_variance_of_a_product(inputs, mean):
    """Against the errors of 20000 chains, of multiply-adds that are rounded to float32."""
    random = np.random.default_rng(inputs)
    x = random.normal(mean, 1, (1, inputs)).astype(np.float32).astype(np.float64)
    w = random.normal(0, 1, (inputs, 20000)).astype(np.float32)
    start = np.ones(20000)
    estimate = forward.product(Estimate(x, np.zeros_like(x)), Stored(w, "F32"), start)
    sums = start
    for i in range(inputs):
        sums = to_float32(sums + x[0, i] * w[i])
    np.testing.assert_allclose(estimate.value[0], start + x[0] @ w.astype(np.float64), rtol=0, atol=1e-9)
    found = np.mean((sums - estimate.value[0]) ** 2)
    # A number is mostly larger than the power of two that its rounding goes by.
    assert 0.3 * estimate.variance.mean() < found < 1.1 * estimate.variance.mean()


def test_errors_of_inputs_go_through_a_product():
    random = np.random.default_rng(7)
    variance = random.uniform(1, 2, (2, 300))
    w = random.normal(0, 1, (300, 40)).astype(np.float32)
    estimate = forward.product(Estimate(np.zeros((2, 300)), variance), Stored(w, "F32"), np.zeros(1))
    np.testing.assert_allclose(estimate.variance, variance @ w.astype(np.float64) ** 2, rtol=1e-12)


def test_a_model_that_overflows_has_no_bound():
    config, weights = make({})
    with np.errstate(all="ignore"):
        weights["ln_f.weight"] = np.full(8, 3e38, np.float32)
        weights["wte.weight"] = weights["wte.weight"] * np.float32(1e37)
        assert forward.bound(logits(config, weights, TOKENS)) > 1e60


# How weights are asked for.


@pytest.mark.parametrize("separate", [False, True])
def test_every_tensor_is_asked_for_once_in_order(separate):
    config, weights = make({"tie_word_embeddings": not separate})
    asked = []

    def give(name: str) -> Stored:
        asked.append(name)
        return Stored(weights[name], "F32")

    forward.logits(config, separate, TOKENS, give)
    expected = list(checkpoint.expected_shapes(config, separate))
    assert asked == expected + ([] if separate else ["wte.weight"])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_the_stored_numbers_count(dtype):
    config, weights = make({})
    narrow = {name: Stored(from_float32(array, dtype), dtype) for name, array in weights.items()}
    wide = {name: stored.float64().astype(np.float32) for name, stored in narrow.items()}
    found = forward.logits(config, False, TOKENS, narrow.__getitem__)
    np.testing.assert_array_equal(found.value, logits(config, wide, TOKENS).value)
    assert np.abs(found.value - logits(config, weights, TOKENS).value).max() > 1e-5


def test_a_vocabulary_in_several_parts(monkeypatch):
    config, weights = make({})
    expected = logits(config, weights, TOKENS)
    monkeypatch.setattr(forward, "HEAD_ROWS", 100)
    found = logits(config, weights, TOKENS)
    np.testing.assert_allclose(found.value, expected.value, rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-12)
