# SPDX-License-Identifier: MIT
"""Powers of two that move from a matrix into the layer norm before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import test_forward
import tiny_model

from gpt2_convert import balance, checkpoint
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.tensors import Stored, to_float32

CONFIG = tiny_model.config(n_embd=64, n_inner=96, tie_word_embeddings=False)
CHANNELS = [3, 17, 40]
FED = {"ln_1": "attn.c_attn", "ln_2": "mlp.c_fc"}


def norms() -> dict[str, str]:
    """Layer norms and what reads them, written out a second time."""
    pairs = {f"h.{i}.{norm}": f"h.{i}.{fed}.weight" for i in range(2) for norm, fed in FED.items()}
    return {**pairs, "ln_f": "lm_head.weight"}


def twin(factor: float = 64.0, head: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model, and the same function with large channels in its layer norms."""
    plain = tiny_model.arrays(CONFIG, separate_head=True)
    for name in norms():
        plain[f"{name}.weight"] = plain[f"{name}.weight"] * np.float32(0.5) + np.float32(1)
    other = dict(plain)
    for norm, matrix in norms().items():
        if norm == "ln_f" and not head:
            continue
        factors = np.ones(64, np.float32)
        factors[CHANNELS] = factor
        for vector in (f"{norm}.weight", f"{norm}.bias"):
            other[vector] = other[vector] * factors
        other[matrix] = other[matrix] / (factors if norm == "ln_f" else factors[:, None])
    return plain, other


def read(model: checkpoint.Checkpoint) -> dict[str, Any]:
    return {name: to_float32(tensor.read(), tensor.dtype) for name, tensor in model.tensors.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert list(a) == list(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("factor", [64.0, 1 / 64])
@pytest.mark.parametrize("dtypes", ["F32", "BF16"])
def test_large_channels_are_taken_back(factor, dtypes):
    """To the very same numbers: all are products with powers of two."""
    plain, other = twin(factor)
    kinds = dict.fromkeys(plain, dtypes)
    model = tiny_model.checked(CONFIG, other, kinds)
    found = balance.balanced(model, list(norms().values()))
    same(read(found), read(tiny_model.checked(CONFIG, plain, kinds)))
    for name, tensor in found.tensors.items():
        assert tensor.dtype == ("F32" if name in norms().values() else dtypes)


def test_a_model_of_even_channels_stays_as_it_is():
    plain, _ = twin()
    model = tiny_model.checked(CONFIG, plain)
    same(read(balance.balanced(model, list(norms().values()))), plain)


def test_only_the_matrices_that_are_asked_for():
    plain, other = twin()
    found = read(balance.balanced(tiny_model.checked(CONFIG, other), ["h.1.mlp.c_fc.weight"]))
    changed = {"h.1.mlp.c_fc.weight", "h.1.ln_2.weight", "h.1.ln_2.bias"}
    same(found, {name: (plain if name in changed else other)[name] for name in other})


@pytest.mark.parametrize(
    "types, balanced",
    [
        (("F16",), set()),
        (("F32", "INT8"), {"ln_f"}),
        (("INT8", "BF16"), {"h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2"}),
        (("INT4",), {"h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"}),
    ],
)
def test_what_the_types_ask_for(types, balanced):
    plain, other = twin()
    found = read(MatrixTypes.of(*types).prepare(tiny_model.checked(CONFIG, other)))
    for norm, matrix in norms().items():
        expected = plain if norm in balanced else other
        for name in (f"{norm}.weight", f"{norm}.bias", matrix):
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_tied_head_cannot_be_balanced():
    """Its matrix holds the embeddings too."""
    config = {**CONFIG, "tie_word_embeddings": True}
    weights = {name: array for name, array in twin()[1].items() if name != "lm_head.weight"}
    found = read(MatrixTypes.of("INT8").prepare(tiny_model.checked(config, weights)))
    for name in ("wte.weight", "ln_f.weight", "ln_f.bias"):
        np.testing.assert_array_equal(found[name], weights[name])
    found = read(MatrixTypes.of("INT8", "INT8", "F16").prepare(tiny_model.checked(config, weights)))
    ratio = found["lm_head.weight"] / weights["wte.weight"]
    np.testing.assert_array_equal(ratio, np.broadcast_to(ratio[:1], ratio.shape))
    np.testing.assert_array_equal(found["ln_f.weight"] * ratio[0], weights["ln_f.weight"])
    assert (ratio[0, CHANNELS] > 1).all() and (np.delete(ratio[0], CHANNELS) == 1).all()


def test_the_function_is_the_same():
    rough = tiny_model.arrays(CONFIG, separate_head=True)
    random = np.random.default_rng(1)
    for name in rough:
        rough[name] = (
            rough[name]
            * np.exp(random.normal(0, 2, rough[name].shape[:1])).astype(np.float32)[
                (slice(None),) + (None,) * (rough[name].ndim - 1)
            ]
        )
    config = checkpoint.ModelConfig.from_json(CONFIG, "config.json")
    found = read(balance.balanced(tiny_model.checked(CONFIG, rough), list(norms().values())))
    assert sum(bool((found[name] != rough[name]).any()) for name in rough) >= 12
    expected = test_forward.logits(config, rough, [5, 77, 0]).value
    np.testing.assert_allclose(
        test_forward.logits(config, found, [5, 77, 0]).value,
        expected,
        rtol=0,
        atol=1e-12 * np.abs(expected).max(),
    )


def test_vectors_keep_their_type():
    """Not where a power of two would take a number out of the range of its type."""
    _, other = twin(2.0**12)
    gain = other["h.0.ln_1.weight"]
    gain[3], other["h.0.ln_1.bias"][3] = 60000, 2.0**-20  # large; its bias would not survive
    kinds = {name: "F16" if ".ln_1." in name else "F32" for name in other}
    model = tiny_model.checked(CONFIG, other, kinds)
    before, found = read(model), read(balance.balanced(model, ["h.0.attn.c_attn.weight"]))
    ratio = before["h.0.ln_1.weight"] / found["h.0.ln_1.weight"]
    assert ratio[3] == 1 and ratio[17] == ratio[40] == 2.0**12
    for name in ("h.0.ln_1.weight", "h.0.ln_1.bias"):
        np.testing.assert_array_equal(found[name] * ratio, before[name])
    np.testing.assert_array_equal(
        found["h.0.attn.c_attn.weight"], before["h.0.attn.c_attn.weight"] * ratio[:, None]
    )


def test_channels_without_a_magnitude():
    zero, inf, nan = 0.0, np.inf, np.nan
    rows = np.array([1.0, zero, 2.0**-40, inf, nan, 1.0, 1.0, 1.0, 1.0, 3.0])
    inputs = np.array([1.0, 1.0, 1.0, 1.0, 1.0, zero, inf, 2.0**90, 1.0, 1.0])
    assert balance.exponents(rows, inputs).tolist() == [0, 0, 20, 0, 0, 0, 0, 32, 0, 0]
    assert balance.exponents(np.zeros(3), np.ones(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["F16", "F32", "BF16", "F64"])
@pytest.mark.parametrize("name", ["h.0.mlp.c_fc.weight", "lm_head.weight"])
def test_the_magnitude_of_rows(name, dtype):
    weights = tiny_model.arrays(CONFIG, separate_head=True)
    tensor = tiny_model.checked(CONFIG, weights, {name: dtype}).tensors[name]
    values = Stored(tensor.read(), dtype).float64()
    by_input = values.T if name == "lm_head.weight" else values
    np.testing.assert_allclose(
        balance.row_magnitudes(tensor), np.sqrt((by_input**2).mean(axis=1)), rtol=1e-6
    )
