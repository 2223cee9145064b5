# SPDX-License-Identifier: MIT
"""The models that tools/measure_pruning.py measures are those that it says they are."""

from __future__ import annotations

import math
from typing import Any

import measure_pruning as pruning
import numpy as np
import pytest
import tiny_model
from measure_quantization import Model

from gpt2_convert import forward, safetensors_file
from gpt2_convert.checkpoint import expected_shapes
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.sources import packed as reader
from gpt2_convert.targets.packed import PackedWriter
from gpt2_convert.tensors import Stored
from gpt2_convert.tokenizer_tables import TokenizerTables

TOKENS = [259, 5, 256, 7, 31]
CONFIG = tiny_model.config(n_layer=4, n_embd=16, n_head=4)


def tiny(**changes: Any) -> Model:
    config = {**CONFIG, **changes}
    weights = {name: 4 * array for name, array in tiny_model.arrays(config).items()}
    return Model(tiny_model.checked(config, weights))


def logits(model: Model) -> np.ndarray:
    """By the other implementation, which takes shapes from the configuration."""
    shapes = expected_shapes(model.config, separate_head=False)
    assert {name: model.weights[name].shape for name in shapes} == shapes

    def weights(name: str) -> Stored:
        return Stored(model.weights[name], "F64")

    return forward.logits(model.config, False, TOKENS, weights).value[0]


def same(a: Model, b: Model) -> bool:
    for model in (a, b):
        np.testing.assert_allclose(model.logits(np.array(TOKENS))[-1], logits(model), atol=1e-9)
    return np.allclose(logits(a), logits(b), rtol=0, atol=1e-9)


def silent(model: Model, *names: str) -> Model:
    result = model.copy()
    for name in names:
        result.weights[name] = np.zeros_like(result.weights[name])
    return result


def test_without_layers():
    model = tiny()
    parts = [
        f"h.{i}.{part}.c_proj.{kind}"
        for i in (1, 3)
        for part in ("attn", "mlp")
        for kind in ("weight", "bias")
    ]
    pruned = pruning.without_layers(model, [1, 3])
    assert pruned.config.n_layer == 2
    assert same(pruned, silent(model, *parts)) and not same(pruned, model)
    assert same(pruning.without_layers(model, []), model)


def test_without_heads():
    """A head is silent where the rows of c_proj that read it are 0."""
    model = tiny()
    expected = model.copy()
    for layer, head in ((0, 1), (0, 2), (3, 0)):
        name = f"h.{layer}.attn.c_proj.weight"
        expected.weights[name] = expected.weights[name].copy()
        expected.weights[name][4 * head : 4 * head + 4] = 0
    pruned = pruning.without_heads(model, [(0, 1), (0, 2), (3, 0)])
    assert same(pruned, expected) and not same(pruned, model)


def test_with_neurons():
    model = tiny()
    kept = [np.arange(layer % 2, 64, 2) for layer in range(4)]
    expected = model.copy()
    for layer in range(4):
        name = f"h.{layer}.mlp.c_proj.weight"
        expected.weights[name] = expected.weights[name].copy()
        expected.weights[name][np.setdiff1d(np.arange(64), kept[layer])] = 0
    pruned = pruning.with_neurons(model, kept)
    assert pruned.config.n_inner == 32
    assert same(pruned, expected) and not same(pruned, model)


def windows(count: int = 200) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return list(random.integers(260, size=(count, 6)))


def test_a_repair_of_nothing_changes_nothing():
    model = tiny()
    assert same(pruning.repaired(model, model, windows(3)), model)


@pytest.mark.parametrize("removed", [[0], [2], [1, 2], [3]])
def test_repairs_bring_the_stream_back(removed):
    """On other tokens than those that it saw, and in the same shape."""
    model = tiny()
    pruned = pruning.without_layers(model, removed)
    repaired = pruning.repaired(model, model, windows(), removed)
    assert repaired.config == pruned.config
    errors = [0.0, 0.0]
    for window in np.random.default_rng(4).integers(260, size=(50, 6)):
        expected = model.logits(window)
        for index, other in enumerate((pruned, repaired)):
            errors[index] += float(((other.logits(window) - expected) ** 2).sum())
    assert errors[1] < 0.9 * errors[0]


def test_a_fit_finds_what_is_wanted():
    model = tiny()
    random = np.random.default_rng(5)
    x, change = random.normal(size=(50, 8, 16)), random.normal(size=(16, 16))
    name = "h.1.attn.c_proj"
    wanted = x @ (model.weights[f"{name}.weight"] + change) + 7
    before = ((wanted - model.linear(x, name)) ** 2).mean()
    pruning.fit(model, name, list(x), list(wanted))
    assert ((wanted - model.linear(x, name)) ** 2).mean() < 0.02 * before
    np.testing.assert_allclose((wanted - model.linear(x, name)).mean(axis=(0, 1)), 0, atol=1e-9)


def test_sizes_are_those_of_files(tmp_path):
    config = tiny_model.config(n_embd=36, n_inner=70, n_head=3)
    model = tiny_model.checked(config, tiny_model.arrays(config))
    tables = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    for dtype, found in zip(pruning.TYPES, pruning.megabytes(model.config)):
        path = tmp_path / dtype
        with open(path, "w+b") as file:
            PackedWriter(file, model, tables, MatrixTypes.of(dtype.upper()), "").write()
        tensors = safetensors_file.read(path)[0]
        size = sum(tensor.load().nbytes for name, tensor in tensors.items() if name in model.tensors)
        assert found == size / 1e6
        assert reader.read(path).config["n_inner"] == 70


def test_bits_of_a_text():
    """A model without weights gives every token the same chance."""
    config = tiny_model.config()
    model = tiny_model.checked(config, {n: 0 * a for n, a in tiny_model.arrays(config).items()})
    tables = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    text = "the thing and the other thing é"
    bits, tokens = pruning.bits_per_byte(Model(model), tables, text)
    assert tokens == 23 and bits == pytest.approx(23 * math.log2(260) / 32)
