# SPDX-License-Identifier: MIT
"""int8 and int4: rounding and layout against a second implementation, and the bound of the self-test against
the library's arithmetic."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import integer_arithmetic
import numpy as np
import pytest
import tiny_model
from test_packed import File

from gpt2_convert import checkpoint, forward, quantize
from gpt2_convert.errors import ConvertError
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.quantize import FORMATS, Quantized
from gpt2_convert.sources import packed as reader
from gpt2_convert.targets import packed as writer
from gpt2_convert.tensors import Stored, of_array
from gpt2_convert.tokenizer_tables import TokenizerTables

INTEGERS = ("INT8", "INT4")
NOVELLA = Path(__file__).parents[2] / "models" / "novella-f16.safetensors"


def normal(inputs: int, outputs: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)


def kinds_of_groups() -> dict[str, Any]:
    """Matrices of 64 inputs and 33 outputs that have what rounding can go wrong at."""
    random = np.random.default_rng(3)
    plain = normal(64, 33)
    ties = random.integers(-254, 255, (64, 33)).astype(np.float32) / 2  # the scale is 1, halves are ties
    ties[::32] = 127
    ties4 = random.integers(-8, 8, (64, 33)).astype(np.float32) / 2  # exact with the scale 0.5,
    ties4[5::32] = (random.integers(-8, 8, (2, 33)) + 0.5) / 2  # but for one, a tie
    ties4[::32] = -4
    equal = random.choice(np.array([-3, 3], np.float32), (64, 33))  # which is the first of the largest?
    zeros = plain * (random.random((64, 33)) < 0.02)
    zeros[:, ::3] = 0
    signed_zeros = np.where(random.random((64, 33)) < 0.5, np.float32(-0.0), zeros)
    wide = plain * np.float32(2) ** random.integers(-60, 60, (64, 33)).astype(np.float32)
    edges = plain * np.float32(2.0**-100) * np.float32(2) ** random.integers(-3, 12, 33).astype(np.float32)
    at_the_edge = np.full((64, 33), 2.0**-100, np.float32)
    at_the_edge[:, 1:] *= np.nextafter(np.float32(127), [0, 127, 200] * 10 + [0, 127], dtype=np.float32)
    return {
        "normal": plain,
        "subnormal": plain * np.float32(2.0**-130),
        "large": plain * np.float32(2.0**124),
        "ties": ties,
        "ties4": ties4,
        "equal": equal,
        "zeros": zeros,
        "signed zeros": signed_zeros.astype(np.float32),
        "wide": np.clip(wide, -(2.0**100), 2.0**100).astype(np.float32),
        "near the least scale": edges.astype(np.float32),
        "at the least scale": at_the_edge,
        "rising": np.linspace(0.3, 1, 64 * 33, dtype=np.float32).reshape(64, 33),
        "one large number": np.where(np.arange(64)[:, None] % 32 == 5, plain * 1000, plain),
    }


KINDS = kinds_of_groups()


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", KINDS)
def test_rounding(kind, dtype):
    np.testing.assert_array_equal(
        quantize.quantize(KINDS[kind], dtype), integer_arithmetic.packed(KINDS[kind], dtype)
    )


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (31, 2), (33, 31), (63, 32), (65, 40), (130, 65)])
def test_extents_that_fill_nothing_up(inputs, outputs, dtype, monkeypatch):
    weights = normal(inputs, outputs)
    expected = integer_arithmetic.packed(weights, dtype)
    assert expected.shape == FORMATS[dtype].shape(inputs, outputs)
    np.testing.assert_array_equal(quantize.quantize(weights, dtype), expected)
    transposed = np.ascontiguousarray(weights.T).T
    monkeypatch.setattr(quantize, "BLOCK_WEIGHTS", 1)
    monkeypatch.setattr(quantize, "BLOCK_OUTPUTS", 32)
    np.testing.assert_array_equal(quantize.quantize(transposed, dtype), expected)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_what_the_integers_stand_for(dtype):
    """Read back by the second implementation: close to the weights, and the same as dequantize()."""
    weights = normal(100, 50)
    units = quantize.quantize(weights, dtype)
    codes, scales = integer_arithmetic.unpacked(units, dtype)
    found = (codes * scales[:, None].astype(np.float64)).reshape(-1, 64)
    assert not found[100:].any() and not found[:, 50:].any()
    assert codes.min() >= (-127 if dtype == "INT8" else -8)
    step = np.repeat(np.abs(scales), FORMATS[dtype].group, axis=0)[:100, :50]
    error = np.abs(found[:100, :50] - weights)
    assert (error <= step * (0.5 if dtype == "INT8" else 2)).all()
    np.testing.assert_array_equal(quantize.dequantize(units, dtype, 100, 50), found[:100, :50])
    np.testing.assert_array_equal(quantize.dequantize(units, dtype, 100, 50, True), found[:100, :50].T)


def test_the_four_bit_scales_that_are_tried():
    """The last is never the best of 100000 groups of Gaussian numbers, so that rounding does not show it."""
    assert quantize.INT4_DIVISORS == [-6 - i / 4 for i in range(16)]


def test_the_four_bit_scale_is_the_best_that_was_tried():
    """Better than the largest weight at 7 or at -8."""
    weights = normal(32, 2000)
    found = quantize.dequantize(quantize.quantize(weights, "INT4"), "INT4", 32, 2000)
    for divisor, least in ((7, -7), (-8, -8)):
        largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)
        scale = largest / divisor
        simple = np.clip(np.rint(weights / scale), least, 7) * scale
        assert ((found - weights) ** 2).mean() < 0.95 * ((simple - weights) ** 2).mean()


@pytest.mark.parametrize("dtype, bits", [("INT8", 8.25), ("INT4", 4.5)])
def test_bits_a_weight(dtype, bits):
    assert FORMATS[dtype].bits == bits


def test_progress_of_one_matrix():
    steps: list[int] = []
    units = quantize.quantize(normal(3000, 2000), "INT8", steps.append)
    assert steps == sorted(steps) and len(steps) > 10 and steps[-1] == units.nbytes


@pytest.mark.parametrize("dtype", INTEGERS)
def test_parts_of_a_matrix(dtype):
    weights = normal(200, 100)
    units = quantize.quantize(weights, dtype)
    whole = quantize.dequantize(units, dtype, 200, 100).astype(np.float64)
    matrix = Quantized(units, dtype, 200, 100)
    assert len(matrix) == 200 and matrix.group == FORMATS[dtype].group
    np.testing.assert_array_equal(matrix.float64(), whole)
    np.testing.assert_array_equal(matrix[128:256].float64(), whole[128:])
    np.testing.assert_array_equal(matrix[64:128].float64(), whole[64:128])
    rows = matrix.transposed()
    assert len(rows) == 100
    np.testing.assert_array_equal(rows.float64(), whole.T)
    np.testing.assert_array_equal(rows[32:100].transposed()[64:128].float64(), whole[64:128, 32:])
    np.testing.assert_array_equal(rows[[99, 3, 40]].float64(), whole.T[[99, 3, 40]])
    for refused in (lambda: matrix[1:9], lambda: rows[16:32], lambda: matrix[[1]]):
        with pytest.raises(ValueError, match="expected"):
            refused()


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    "bad, text", [(np.nan, "finite weights, found nan"), (2.0**127, f"of {{}}, found {2.0**127:g}")]
)
def test_weights_that_cannot_be_rounded(dtype, bad, text):
    weights = normal(40, 40)
    weights[3, 5] = bad
    with pytest.raises(ConvertError, match="at element 125") as error:
        of_array("h.0.mlp.c_fc.weight", weights, "file").read_as("F32", intended=dtype)
    assert text.format(dtype) in str(error.value)
    weights[3, 5] = np.nextafter(np.float32(2.0**127), np.float32(0))
    array = of_array("h.0.mlp.c_fc.weight", weights, "file").read_as("F32", intended=dtype)
    units = quantize.quantize(array.view(np.float32), dtype)
    assert np.isfinite(quantize.dequantize(units, dtype, 40, 40)).all()


# Whole files.

CONFIG = tiny_model.config(n_embd=72, n_inner=200, n_head=3)


def write(
    types: MatrixTypes, config: dict[str, Any] = CONFIG, scale: float = 1.0
) -> tuple[File, dict[str, Any]]:
    weights = tiny_model.arrays(config, separate_head=not config.get("tie_word_embeddings", True))
    weights = {
        name: np.float32(scale)
        * (array + np.float32(name.split(".")[-2].startswith("ln_") and "weight" in name))
        for name, array in weights.items()
    }
    tokenizer = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    file = io.BytesIO()
    model = tiny_model.checked(config, weights)
    steps: list[int] = []
    packed = writer.PackedWriter(file, model, tokenizer, types, "")
    summary = packed.write(steps.append)
    assert summary.size == len(file.getvalue()) <= writer.file_size(model, types)
    assert steps == sorted(steps) and steps[-1] == packed.data_size
    return File(file.getvalue()), weights


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("separate", [False, True])
def test_a_file(dtype, separate):
    """By default int4 has a head of int8. Rows and gains are of about equal size: nothing is balanced."""
    file, weights = write(MatrixTypes.of(dtype), {**CONFIG, "tie_word_embeddings": not separate})
    assert file.start % 64 == 0
    for name, array in weights.items():
        entry = file.header[name]
        assert entry["data_offsets"][0] % 64 == 0
        embedding = name in ("wte.weight", "lm_head.weight")
        if not writer.is_matrix(name):
            assert entry["dtype"] == "F32"
            continue
        expected = integer_arithmetic.packed(array.T if embedding else array, "INT8" if embedding else dtype)
        assert entry["dtype"] == "U8" and entry["shape"] == list(expected.shape)
        np.testing.assert_array_equal(file.array(name), expected)


@pytest.mark.parametrize(
    "types, expected, tied",
    [
        (MatrixTypes.of("INT4"), ("INT4", "INT8", "INT8"), True),
        (MatrixTypes.of("INT8"), ("INT8", "INT8", "INT8"), True),
        (MatrixTypes.of("F16"), ("F16", "F16", "F16"), True),
        (MatrixTypes.of("INT4", "INT4"), ("INT4", "INT4", "INT4"), True),
        (MatrixTypes.of("F32", "INT8"), ("F32", "INT8", "INT8"), True),
        (MatrixTypes.of("INT8", None, "F16"), ("INT8", "INT8", "F16"), False),
        (MatrixTypes.of("INT4", "BF16", "INT8"), ("INT4", "BF16", "INT8"), False),
    ],
    ids=lambda value: value.text() if isinstance(value, MatrixTypes) else "",
)
def test_types_of_layers_head_and_embedding(tmp_path, types, expected, tied):
    file, weights = write(types)
    (tmp_path / "model").write_bytes(file.bytes())
    assert json.loads(file.metadata["gpt2.config"])["tie_word_embeddings"] == tied
    assert ("lm_head.weight" in file.header) == (not tied)
    model = checkpoint.check(reader.read(tmp_path / "model"))
    assert model.has_separate_head == (not tied)
    names = {"h.0.mlp.c_fc.weight": expected[0], "wte.weight": expected[2]}
    if not tied:
        names["lm_head.weight"] = expected[1]
    for name, dtype in names.items():
        assert file.header[name]["dtype"] == ("U8" if dtype in FORMATS else dtype)
        weight = weights["wte.weight" if name == "lm_head.weight" else name]
        tensor = model.tensors[name]
        assert tensor.dtype == ("F32" if dtype in FORMATS else dtype) and tensor.shape == weight.shape
        values = Stored(tensor.read(), tensor.dtype).float64()
        if name == "h.0.mlp.c_fc.weight" and dtype in FORMATS:
            units = quantize.quantize(weight, dtype)
            np.testing.assert_array_equal(values, quantize.dequantize(units, dtype, *weight.shape))
        tolerance = {"F32": 0, "F16": 1e-3, "BF16": 1e-2, "INT8": 0.05, "INT4": 0.5}[dtype]
        assert np.abs(values - weight).max() <= tolerance * np.abs(weight).max()


def test_a_matrix_of_bytes_that_is_no_type(tmp_path):
    file, _ = write(MatrixTypes.of("INT8"))
    entry = file.header["h.0.mlp.c_fc.weight"]
    entry["shape"] = [entry["shape"][0], entry["shape"][1] * 2, 1056]
    (tmp_path / "model").write_bytes(file.bytes())
    with pytest.raises(ConvertError, match=r'"h.0.mlp.c_fc.weight": expected shape \[7, 72, 32\]'):
        reader.read(tmp_path / "model")


# The self-test.

SHAPES: list[dict[str, Any]] = [
    {},
    {"activation_function": "gelu"},
    {"activation_function": "relu"},
    {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    {"tie_word_embeddings": False, "layer_norm_epsilon": 0.01},
]


def difference(file: File, change: Any = None) -> tuple[float, float]:
    """Of the logits in the library's arithmetic from those in the file: the largest, and the bound."""
    config = checkpoint.ModelConfig.from_json(json.loads(file.metadata["gpt2.config"]), "file")

    def tensor(name: str) -> Any:
        return file.array(name) if change is None else change(name, file.array(name))

    tokens = [token for token in file.array("self_test.tokens").tolist() if token >= 0]
    found = integer_arithmetic.Model(config, tensor).logits(tokens)
    expected = file.array("self_test.logits")[: config.vocab_size]
    return float(np.abs(found - expected).max()), float(file.array("self_test.bound")[0])


@pytest.mark.parametrize("types", [("INT8",), ("INT4",), ("INT4", "INT4", "F16")], ids=" ".join)
@pytest.mark.parametrize(
    "shape", SHAPES, ids=lambda shape: " ".join(f"{k}={v}" for k, v in shape.items()) or "plain"
)
def test_the_arithmetic_stays_within_the_bound_and_not_far_below(types, shape):
    file, _ = write(MatrixTypes.of(*types), {**CONFIG, **shape}, scale=2.0)
    largest, bound = difference(file)
    assert bound / 20 < largest < 0.6 * bound


@pytest.fixture(scope="module")
def novella(tmp_path_factory) -> dict[str, File]:
    directory, files = tmp_path_factory.mktemp("novella"), {}
    source = reader.read(NOVELLA)
    model = checkpoint.check(source)
    assert source.vocab_json is not None and source.merges_txt is not None
    tokenizer = TokenizerTables(source.vocab_json, source.merges_txt, "novella")
    for dtype in INTEGERS:
        with open(directory / dtype, "w+b") as out:
            writer.PackedWriter(out, model, tokenizer, MatrixTypes.of(dtype), "").write()
        files[dtype] = File((directory / dtype).read_bytes())
    return files


@pytest.mark.parametrize("dtype", INTEGERS)
def test_a_real_model_stays_within_the_bound(novella, dtype):
    largest, bound = difference(novella[dtype])
    print(f"{dtype}: {largest / bound:.2f} of the bound, {bound:.3f}")  # for docs/quantization.md
    assert bound / 20 < largest < 0.6 * bound
    logits = novella[dtype].array("self_test.logits")[:8192]
    assert bound < 0.25 * logits.std()


def outputs_reversed(units: Any) -> Any:
    """The integers of the first panel, in another order of the outputs."""
    units = units.copy()
    lanes = 32 if units.shape[2] == 2112 else 16
    codes = units[0, :, :-64].reshape(units.shape[1], -1, lanes, 4)
    units[0, :, :-64] = codes[:, :, ::-1].reshape(units.shape[1], -1)
    return units


def quads_reversed(units: Any) -> Any:
    units = units.copy()
    units[0, :, :-64] = (
        units[0, :, :-64].reshape(units.shape[1], -1, 4)[..., ::-1].reshape(units.shape[1], -1)
    )
    return units


def groups_reversed(units: Any) -> Any:
    units = units.copy()
    units[0] = units[0, ::-1]
    return units


def scales_in_order(units: Any) -> Any:
    """Of all panels, as if they did not stand in pairs."""
    units = units.copy()
    scales = np.ascontiguousarray(units[:, :, -64:]).view(np.uint16)
    swapped = np.concatenate([scales[..., ::2], scales[..., 1::2]], axis=2)
    units[:, :, -64:] = swapped.view(np.uint8)
    return units


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("wrong", [outputs_reversed, quads_reversed, groups_reversed, scales_in_order])
def test_a_wrong_layout_exceeds_the_bound(novella, dtype, wrong):
    """In a single panel of many matrices already (not of all: one of queries moves next to nothing)."""
    for name in ("h.0.attn.c_proj", "h.0.mlp.c_proj", "wte"):
        largest, bound = difference(
            novella[dtype], lambda key, array: wrong(array) if key == f"{name}.weight" else array
        )
        assert largest > 2 * bound, name


def test_a_layout_that_is_wrong_everywhere(novella):
    """Matrices of one kind, of all layers."""
    for kind in ("c_attn", "mlp.c_fc"):

        def change(name: str, array: Any) -> Any:
            return array[::-1] if f"{kind}.weight" in name else array

        largest, bound = difference(novella["INT4"], change)
        assert largest > 4 * bound


# The variance of rounded inputs.


@pytest.mark.parametrize("group", [32, 64])
def test_the_variance_of_rounded_inputs(group):
    """Against the errors of many rows, without and with one large number among them, and zeros."""
    random = np.random.default_rng(group)
    x = random.normal(size=(20000, 130))
    x[:, 70] *= 50
    x[:, :20] = 0
    estimate = forward.quantised(forward.Estimate(x, np.zeros_like(x)), group)
    errors = np.zeros_like(x)
    for begin in range(0, 130, group):
        part = x[:, begin : begin + group]
        step = np.abs(part).max(axis=1, keepdims=True) / 127
        errors[:, begin : begin + group] = np.rint(part / step) * step - part
    np.testing.assert_array_equal(estimate.value, x)
    assert not estimate.variance[:, :20].any()
    for part in (slice(20, 32), slice(64, 70), slice(96, 128), slice(128, 130)):
        found, expected = (errors[:, part] ** 2).mean(), estimate.variance[:, part].mean()
        # The largest number of a group is exact, which is much where there are two.
        assert (0.9 if part.start < 128 else 0.4) * expected < found < 1.1 * expected, part


def test_floating_point_is_not_rounded():
    x = forward.Estimate(np.ones((1, 3)), np.zeros((1, 3)))
    assert forward.quantised(x, 0) is x
