# SPDX-License-Identifier: MIT
"""Matrices of two types: what each loses by 4 bits, which of them get 8, and the files."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import measure_quantization
import numpy as np
import pytest
import sources
import test_calibrate
import test_forward
import test_quantize
import tiny_model
from test_cli import convert, inspect
from test_packed import File

from gpt2_convert import calibrate, mixed, sample
from gpt2_convert.compensate import Rounded
from gpt2_convert.mixed import Sensitivity, fullest, wider_matrices
from gpt2_convert.quantize import FORMATS

CONFIG = {**test_quantize.CONFIG, "n_positions": 24}
TOKENS = np.random.default_rng(1).integers(0, 260, (40, 24))


def matrices(layers: int = 2) -> list[str]:
    return [f"h.{layer}.{kind}.weight" for layer in range(layers) for kind in mixed.KINDS]


# What is chosen.


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_choices(seed):
    random = np.random.default_rng(seed)
    names = [f"item {i}" for i in range(9)]
    sizes = {name: 3 * int(size) for name, size in zip(names, random.integers(1, 8, 9))}
    values = dict(zip(names, random.exponential(size=9)))
    for room in (0, 2, 5, 20, 47, 200):
        best = max(
            sum(values[name] for name in chosen)
            for count in range(10)
            for chosen in itertools.combinations(names, count)
            if sum(sizes[name] for name in chosen) <= room
        )
        found = fullest(values, sizes, room)
        assert sum(sizes[name] for name in found) <= room
        assert math.isclose(sum(values[name] for name in found), best)


def test_what_gains_nothing_is_not_chosen():
    values = {"a": 0.0, "b": math.nan, "c": 1.0, "d": -1e-9}
    assert fullest(values, dict.fromkeys(values, 1), 4) == {"c"}


def test_sizes_without_a_common_unit(monkeypatch):
    """Then the room is divided into as many units as there may be; what fits them fits the room."""
    monkeypatch.setattr(mixed, "UNITS", 50)
    sizes = {"a": 1001, "b": 997, "c": 499, "d": 503}
    found = fullest({"a": 2.0, "b": 1.9, "c": 1.0, "d": 0.9}, sizes, 1600)
    assert found == {"a", "c"}


@pytest.mark.parametrize("bits", [4.5, 4.6, 5, 5.5, 6, 7, 8, 8.2499, 8.25])
def test_bits_are_kept_and_used(monkeypatch, bits):
    model = tiny_model.checked(CONFIG, tiny_model.arrays(CONFIG))
    sizes = {name: math.prod(model.tensors[name].shape) for name in matrices()}
    monkeypatch.setattr(Sensitivity, "measured", lambda self, progress: dict.fromkeys(sizes, 1e-3))
    found = wider_matrices(model, TOKENS, bits, quiet=True)
    total = sum(sizes.values())
    wide = sum(sizes[name] for name in found)
    mean = (wide * FORMATS["INT8"].bits + (total - wide) * FORMATS["INT4"].bits) / total
    assert mean <= bits < mean + 3.75 * max(sizes.values()) / total + 1e-9
    assert (bits < 8.25) == (len(found) < len(sizes))


def test_nothing_is_measured_where_nothing_can_be_chosen(monkeypatch):
    model = tiny_model.checked(CONFIG, tiny_model.arrays(CONFIG))
    monkeypatch.delattr(Sensitivity, "measured")
    assert wider_matrices(model, TOKENS, 4.5) == frozenset()
    assert wider_matrices(model, TOKENS, 8.25) == frozenset(matrices())


# What is measured.


def test_divergence():
    random = np.random.default_rng(1)
    logits, change = random.normal(size=(2, 5, 40))
    p, q = mixed.softmax(logits), mixed.softmax(logits + change)
    np.testing.assert_allclose(mixed.softmax(logits + 700), p, rtol=1e-9)
    np.testing.assert_allclose(mixed.divergence(p, change), (p * np.log(p / q)).sum(axis=1))
    np.testing.assert_allclose(mixed.divergence(p, np.full_like(p, 3.0)), 0, atol=1e-12)


def to_halves(moments: Any, wanted: Any, dtype: str) -> Rounded:
    """A rounding that is easy to repeat: to multiples of a half."""
    scales = np.full((-(-len(wanted) // 32), wanted.shape[1]), 0x3F00, np.uint16)
    return Rounded(np.rint(2 * wanted), scales, dtype)


@pytest.mark.parametrize(
    "shape",
    [{}, {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True}],
    ids=["tied", "untied"],
)
def test_sensitivity_is_the_divergence_of_one_rounded_matrix(monkeypatch, shape):
    """Against whole models in float64, each with a matrix replaced."""
    config = {**CONFIG, **shape}
    _, weights = test_forward.make({**config, "n_layer": 3})
    model = tiny_model.checked({**config, "n_layer": 3}, weights)
    monkeypatch.setattr(mixed, "rounded_for", to_halves)
    monkeypatch.setattr(mixed, "FITTED", 10 * 24)
    monkeypatch.setattr(mixed, "MEASURED", 3 * 24)
    monkeypatch.setattr(calibrate, "BATCH", 4 * 24)
    monkeypatch.setattr(mixed, "HEAD_ROWS", 50)
    steps: list[int] = []
    found = Sensitivity(model, TOKENS).measured(steps.append)
    assert list(found) == matrices(3) and steps == list(range(1, 13))
    exact = measure_quantization.Model(model)
    texts = TOKENS[::4]
    for name, divergence in found.items():
        other = exact.copy()
        other.weights[name] = np.rint(2 * exact.weights[name]) / 2
        inputs = np.concatenate([inputs_of(exact, name, text) for text in texts])
        bias = name.replace(".weight", ".bias")
        lost = inputs.mean(axis=0) @ (exact.weights[name] - other.weights[name])
        other.weights[bias] = exact.weights[bias] + lost
        expected = np.mean([test_calibrate.mean_divergence(exact, other, text) for text in texts[:3]])
        assert 1e-6 < divergence and math.isclose(divergence, expected, rel_tol=1e-3)


def inputs_of(model: Any, name: str, text: Any) -> Any:
    """What a matrix reads, [positions, channels]."""
    seen = {}

    class Watched(measure_quantization.Model):
        def product(self, x: Any, of: str) -> Any:
            seen[of] = x
            return super().product(x, of)

    watched = object.__new__(Watched)
    watched.__dict__.update(model.__dict__)
    watched.logits(text)
    return seen[name]


# Files.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return sources.hugging_face(tmp_path / "model")


def types_of(path: Path) -> dict[str, str]:
    """INT8 or INT4 by the size of the units."""
    header = File(path.read_bytes()).header
    return {name: {2112: "INT8", 576: "INT4"}[header[name]["shape"][-1]] for name in matrices()}


def test_a_file_of_two_types(model, tmp_path, capsys):
    (tmp_path / "text").write_text(test_calibrate.TEXT)
    options = ("--dtype", "int4", "--calibrate", tmp_path / "text")
    first, second = (convert(model, tmp_path / name, *options, "--bits", 6) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    types = types_of(first)
    assert set(types.values()) == {"INT4", "INT8"}
    weights = {name: math.prod(sources.WEIGHTS[name].shape) for name in types}
    bits = sum(FORMATS[types[name]].bits * count for name, count in weights.items())
    assert 5 < bits / sum(weights.values()) <= 6
    largest, bound = test_quantize.difference(File(first.read_bytes()))
    assert largest < 0.6 * bound
    lines = inspect(capsys, first)
    for name, dtype in types.items():
        layer, kind = name.split(".", 2)[1:]
        other = types[name.replace(f"h.{layer}.", f"h.{1 - int(layer)}.")]
        label = f"h.{'0-1' if other == dtype else layer}.{kind}"
        assert any(line.startswith(f"{label} {dtype} ") for line in lines), label
    assert set(types_of(convert(model, tmp_path / "c", *options, "--bits", 4.5)).values()) == {"INT4"}
    assert set(types_of(convert(model, tmp_path / "d", *options, "--bits", 8.25)).values()) == {"INT8"}


def test_what_is_said_of_it(model, tmp_path, capsys):
    from gpt2_convert import cli

    arguments = (model, "-o", tmp_path / "out", "--dtype", "int4", "--calibrate", "self", "--bits", 6)
    assert cli.main([*map(str, arguments)]) == 0
    out, progress = capsys.readouterr()
    wide = sum(dtype == "INT8" for dtype in types_of(tmp_path / "out").values())
    assert f"; int4 and {wide} matrices int8, head int8, from: " in out
    assert "sensitivity: 100 %  8/8 matrices" in progress


def test_the_text_that_measures_is_spread_over_all():
    model = tiny_model.checked(CONFIG, tiny_model.arrays(CONFIG))
    tokens = sample.sampled(model, 1000, 24)
    chosen = Sensitivity(model, tokens)._tokens
    np.testing.assert_array_equal(chosen, tokens[::2][: mixed.FITTED // 24])
    np.testing.assert_array_equal(Sensitivity(model, tokens[:5])._tokens, tokens[:5])
