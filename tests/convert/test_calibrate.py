# SPDX-License-Identifier: MIT
"""Calibration: the forward pass that it goes by, the texts, what becomes of a matrix, and of a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import integer_arithmetic
import measure_quantization
import numpy as np
import pytest
import sources
import test_forward
import test_quantize
import tiny_model
from test_cli import contents, convert, fails  # noqa: F401
from test_packed import File

from gpt2_convert import batched, calibrate, calibration_text, mixed, quantize, sample
from gpt2_convert.calibrate import Calibration, Linear, Sums, fitted
from gpt2_convert.checkpoint import is_matrix
from gpt2_convert.errors import ConvertError
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.sources import packed as reader
from gpt2_convert.targets.packed import PackedWriter
from gpt2_convert.text_tokens import encode
from gpt2_convert.tokenizer_tables import TokenizerTables

HELD_OUT = Path(__file__).parents[1] / "data" / "heldout.txt"
TEXT = "the thing that then gathers is theirs, and there it is. " * 40

# The forward pass.


@pytest.mark.parametrize("shape", test_forward.SHAPES, ids=test_forward.IDS)
def test_both_streams_are_the_model(shape):
    """Without rounding, text after text, against float64."""
    config, weights = test_forward.make(shape)
    model = tiny_model.checked(tiny_model.config(**shape), weights)
    tokens = np.array([test_forward.TOKENS, [1, 2, 3, 4, 259]])
    calibration = Calibration(model, tokens, "")
    calibration._parts = [slice(0, 1), slice(1, 2)]
    calibration.begin(weights["wte.weight"], weights["wte.weight"])
    for name in weights:
        if name.startswith("h.") and is_matrix(name):
            _, number, kind = name[: -len(".weight")].split(".", 2)
            linear = Linear(weights[name], weights[name.replace(".weight", ".bias")])
            calibration._exact.linear[kind] = calibration._rounded.linear[kind] = linear
            calibration._advance(int(number), kind)
    head = weights.get("lm_head.weight", weights["wte.weight"]).T
    for stream in (calibration._exact, calibration._rounded):
        for text in (0, 1):
            found = (stream.norm("ln_f", slice(None)) @ head)[text, -1]
            expected = test_forward.logits(config, weights, tokens[text].tolist()).value[0]
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_the_error_function():
    x = np.linspace(-6, 6, 4001, dtype=np.float32)
    np.testing.assert_allclose(batched.erf(x), [math.erf(value) for value in x], atol=6e-7)


@pytest.mark.parametrize("group", [32, 64])
def test_inputs_are_rounded_as_the_library_does(group):
    """By products with the identity in integers."""
    x = np.random.default_rng(1).normal(size=(2, 5, 130)).astype(np.float32)
    x[:, :, 64:96] = 0
    dtype = {32: "INT4", 64: "INT8"}[group]
    units = quantize.quantize(np.eye(130, dtype=np.float32), dtype)
    rows = x.reshape(10, 130)
    expected = integer_arithmetic.product(rows, units, dtype, np.zeros(130, np.float32))[:, :130]
    np.testing.assert_allclose(batched.rounded(x, group).reshape(10, 130), expected, rtol=0.005, atol=1e-7)
    assert batched.rounded(x, group).shape == x.shape


# Texts.


@pytest.mark.parametrize("shape", [{}, {"tie_word_embeddings": False}], ids=["tied", "untied"])
def test_chances_with_a_cache_are_those_of_the_model(shape):
    config, weights = test_forward.make(shape)
    writer = sample._Writer(tiny_model.checked(tiny_model.config(**shape), weights))
    tokens = np.array([test_forward.TOKENS, [1, 2, 3, 4, 259]])
    writer.start(2, 5)
    for position in range(5):
        chances = writer.chances(tokens[:, position], position)
        for text in (0, 1):
            logits = test_forward.logits(config, weights, tokens[text, : position + 1].tolist()).value[0]
            np.testing.assert_allclose(chances[text], np.exp(logits - logits.max()), atol=2e-4)


def test_tokens_fall_by_their_chances():
    chances = np.broadcast_to([0.0, 1.0, 2.0, 0.0, 5.0], (8000, 5))
    found = sample.drawn(chances, (np.arange(8000) + 0.5) / 8000)
    assert np.bincount(found, minlength=5).tolist() == [0, 1000, 2000, 0, 5000]
    assert sample.drawn(chances[:2], np.array([0.0, np.nextafter(1, 0)])).tolist() == [1, 4]


def test_texts_depend_on_the_seed_alone(monkeypatch):
    model = tiny_model.checked(tiny_model.config(), tiny_model.arrays(tiny_model.config()))
    steps: list[int] = []
    first = sample.sampled(model, 7, 6, 1, steps.append)
    assert steps == sorted(steps) and steps[-1] == 42
    assert first.shape == (7, 6) and (first[:, 0] == tiny_model.VOCAB_SIZE - 1).all()
    np.testing.assert_array_equal(first, sample.sampled(model, 7, 6, 1))
    assert (first != sample.sampled(model, 7, 6, 2)).any()
    monkeypatch.setattr(sample, "CACHE_BYTES", 1)  # one text at a time
    assert len(np.unique(sample.sampled(model, 7, 6, 1), axis=0)) == 7


def test_windows_are_spread_over_a_text(monkeypatch):
    monkeypatch.setattr(calibration_text, "TOKENS", 12)
    windows = calibration_text.windows
    assert windows(list(range(7)), 10).tolist() == [list(range(7))]
    assert windows(list(range(11)), 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert windows(list(range(100)), 3)[:, 0].tolist() == [0, 24, 48, 72]


# A matrix.


def sums_of(x: Any, lacking: Any) -> Sums:
    sums = Sums(x.shape[1], lacking.shape[1])
    for begin in range(0, len(x), 100):
        sums.add(x[None, begin : begin + 100], lacking[None, begin : begin + 100])
    return sums


def test_moments():
    random = np.random.default_rng(1)
    x = (random.normal(size=(250, 6)) + 3).astype(np.float32)
    y = random.normal(size=(250, 2)).astype(np.float32)
    moments, products = sums_of(x, y).central()
    np.testing.assert_allclose(moments, np.cov(x.T, bias=True), atol=1e-5)
    np.testing.assert_allclose(products, np.cov(x.T, y.T, bias=True)[:6, 6:], atol=1e-5)


@pytest.mark.parametrize("dtype", ["INT8", "INT4"])
def test_a_matrix_makes_up_for_what_is_lacking(dtype):
    """In the mean always; where outputs lack what the inputs can tell and the type follows, in that too."""
    random = np.random.default_rng(1)
    x = (random.normal(size=(4000, 64)) + 5).astype(np.float32)
    weight, other = (random.normal(size=(64, 8)).astype(np.float32) for _ in range(2))
    linear = Linear(weight, np.ones(8, np.float32))
    wanted = linear(x) + x @ (np.float32(0.5) * other) + np.float32(2)
    units, result = fitted(linear, sums_of(x, wanted - linear(x)), dtype)
    np.testing.assert_array_equal(quantize.dequantize(units, dtype, 64, 8), result.weight)
    left = wanted - (x @ result.weight + result.bias)
    assert np.abs(left.mean(axis=0)).max() < 1e-2 * wanted.std()
    share = left.var(axis=0).sum() / (wanted - linear(x)).var(axis=0).sum()
    assert share < 0.2 if dtype == "INT4" else share > 0.9


# Whole files.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return sources.hugging_face(tmp_path / "model")


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("source", ["self", "text"])
def test_the_same_bytes_each_time(model, tmp_path, dtype, source):
    (tmp_path / "text").write_text(TEXT)
    text = "self" if source == "self" else tmp_path / "text"
    first, second = (
        convert(model, tmp_path / name, "--dtype", dtype, "--calibrate", text) for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()
    plain = convert(model, tmp_path / "plain", "--dtype", dtype)
    assert len(contents(plain)[0]) == len(contents(first)[0])
    assert contents(plain)[0] != contents(first)[0]
    found = File(first.read_bytes()).metadata["gpt2.calibration"]
    assert found.startswith(
        "written by the model itself, " if source == "self" else "a text with the CRC-32 "
    )
    assert "gpt2.calibration" not in File(plain.read_bytes()).metadata


def test_texts_that_cannot_be_used(model, tmp_path, fails):  # noqa: F811
    path = tmp_path / "text"
    arguments = (model, "-o", tmp_path / "out", "--dtype", "int4", "--calibrate", path)
    assert f"{path}" in fails(*arguments)  # there is none
    path.write_text("the end")
    assert f'"{path}": expected a text of at least 1024 tokens to calibrate with, found 5' in fails(
        *arguments
    )
    path.write_bytes(b"abc\xff" * 500)
    assert f'"{path}": expected UTF-8, found other bytes at byte 3' in fails(*arguments)
    assert not (tmp_path / "out").exists()


def test_a_model_that_overflows_on_the_text():
    config = tiny_model.config()
    weights = tiny_model.arrays(config)
    weights["h.1.ln_1.weight"][:] = 1e38
    model = tiny_model.checked(config, weights)
    calibration = Calibration(
        model, sample.sampled(tiny_model.checked(config, tiny_model.arrays(config)), 40, 6), ""
    )
    calibration.begin(weights["wte.weight"], weights["wte.weight"])
    with np.errstate(all="ignore"), pytest.raises(
        ConvertError, match='"h.1.attn.c_attn.weight": expected finite'
    ):
        for name in weights:
            if name.startswith("h.") and is_matrix(name):
                calibration.round(name, weights[name], "INT8")


@pytest.mark.parametrize(
    "types",
    [("INT4", "INT4", "F16"), ("INT8", "F32"), ("INT4", "INT8", "INT4")],
    ids=" ".join,
)
@pytest.mark.parametrize("tied", [True, False])
def test_any_head_and_embedding(types, tied, tmp_path):
    """The file's own test holds in the library's arithmetic."""
    config = {**test_quantize.CONFIG, "tie_word_embeddings": tied}
    weights = tiny_model.arrays(config, separate_head=not tied)
    checkpoint = tiny_model.checked(config, weights)
    tokenizer = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    tokens = np.random.default_rng(1).integers(0, 260, (200, 6))
    with open(tmp_path / "model", "w+b") as file:
        PackedWriter(
            file,
            checkpoint,
            tokenizer,
            MatrixTypes.of(*types),
            "",
            lambda model: Calibration(model, tokens, ""),
        ).write()
    largest, bound = test_quantize.difference(File((tmp_path / "model").read_bytes()))
    assert largest < 0.6 * bound


# Quality.


@pytest.fixture(scope="module")
def novella() -> tuple[Any, Any, Any]:
    """The default model, some of its own texts, and of the text that it never saw."""
    source = reader.read(test_quantize.NOVELLA)
    texts = sample.sampled(tiny_model.checkpoint.check(source), 6, 256)
    tables = measure_quantization.tokenizer(source)
    held_out = encode(HELD_OUT.read_text(encoding="utf-8")[20000:23000], tables)[:512]
    return source, texts, np.array(held_out).reshape(2, 256)


def divergence(novella: Any, dtype: str, texts: Any, twin: bool = False, bits: float | None = None) -> float:
    """Mean KL on the held-out text of a file from the model that is not rounded."""
    source, _, windows = novella
    exact = measure_quantization.Model(tiny_model.checkpoint.check(source))
    other = measure_quantization.outlier_source(source) if twin else source
    found = measure_quantization.converted(other, dtype, texts, bits)
    return float(np.mean([mean_divergence(exact, found, window) for window in windows]))


def mean_divergence(exact: Any, other: Any, tokens: Any) -> float:
    p, q = (measure_quantization.log_softmax(model.logits(tokens)) for model in (exact, other))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.fixture(scope="module")
def int4(novella: Any) -> float:
    """The divergence of the default model in INT4, with a twentieth of the usual calibration text."""
    return divergence(novella, "INT4", novella[1])


def test_the_default_model_in_int4(novella, int4):
    """To nearest it is past the bound by half."""
    assert int4 < 0.015
    assert divergence(novella, "INT4", None) > 1.5 * 0.015


def test_the_default_model_in_int8(novella):
    assert divergence(novella, "INT8", novella[1]) < 0.001


def test_outliers_change_nothing(novella):
    assert divergence(novella, "INT4", novella[1], twin=True) < 0.015


def test_more_bits_less_divergence(novella, int4, monkeypatch):
    """Those that get 8 bits are chosen by fewer tokens than usual, of fewer texts."""
    monkeypatch.setattr(mixed, "FITTED", 768)
    monkeypatch.setattr(mixed, "MEASURED", 256)
    assert divergence(novella, "INT4", novella[1], bits=6.0) < 0.8 * int4


def test_what_follows_the_text_is_what_the_documentation_says():
    assert calibrate.FOLLOW == {"INT8": None, "INT4": 0.1}
