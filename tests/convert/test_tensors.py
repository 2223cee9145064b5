# SPDX-License-Identifier: MIT
"""Element types: what rounds to what, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from gpt2_convert import tensors
from gpt2_convert.errors import ConvertError
from gpt2_convert.tensors import NUMPY_TYPES, Stored, TensorSource, from_float32, of_array, to_float32


def source(array: Any, dtype: str) -> TensorSource:
    return of_array("x", np.asarray(array), "file", dtype)


def message(array: Any, dtype: str, to: str) -> str:
    with pytest.raises(ConvertError) as error:
        source(array, dtype).read_as(to)
    return str(error.value)


# Rounding.


def test_every_bfloat16_and_what_lies_between():
    """All upper halves of a float32 with lower halves around the tie, against distances in float64."""
    high = np.arange(0x10000, dtype=np.uint32)
    high = high[(high & 0x7FFF) < 0x7F80]  # finite
    for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (high << 16 | low).view(np.float32)
        below = to_float32(high.astype(np.uint16), "BF16").astype(np.float64)
        above = to_float32((high + 1).astype(np.uint16), "BF16").astype(np.float64)
        above = np.where(np.isfinite(above), above, np.copysign(2.0**128, below))
        to_below, to_above = np.abs(values - below), np.abs(above - values.astype(np.float64))
        up = (to_above < to_below) | ((to_above == to_below) & (high % 2 == 1))
        np.testing.assert_array_equal(from_float32(values, "BF16"), (high + up).astype(np.uint16))


def test_bfloat16_as_torch_rounds():
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(from_float32(values, "BF16"), expected)


def test_every_bfloat16_comes_back():
    bits = np.arange(0x10000, dtype=np.uint32)
    bits = bits[(bits & 0x7FFF) < 0x7F80].astype(np.uint16)
    np.testing.assert_array_equal(from_float32(to_float32(bits, "BF16"), "BF16"), bits)
    np.testing.assert_array_equal(source(bits, "BF16").read_as("BF16"), bits)


def test_every_float16_comes_back():
    bits = np.arange(0x10000, dtype=np.uint32)
    bits = bits[(bits & 0x7FFF) < 0x7C00].astype("<u2")
    halves = bits.view(np.float16)
    expected = np.array(struct.unpack(f"<{len(bits)}e", bits.tobytes()))
    np.testing.assert_array_equal(Stored(halves, "F16").float64(), expected)
    np.testing.assert_array_equal(source(halves, "F16").read_as("F32"), expected)
    for through in ("F16", "F32", "F64"):
        back = source(source(halves, "F16").read_as(through), through).read_as("F16")
        np.testing.assert_array_equal(back.view(np.uint16), bits)


def test_float16_as_python_rounds():
    random = np.random.default_rng(2)
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16).astype(np.float64)
    next_ones = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves + next_ones) / 2  # each a tie, and exact in float32
    values = np.concatenate(
        [middles, np.nextafter(middles.astype(np.float32), 1e9), random.normal(0, 1, 5000)]
    )
    values = np.concatenate([values, -values])
    for dtype in ("F32", "F64"):
        kept = values.astype(NUMPY_TYPES[dtype])
        expected = struct.pack(f"<{len(kept)}e", *kept.tolist())
        assert source(kept, dtype).read_as("F16").tobytes() == expected


def test_float64_goes_through_float32():
    """There it becomes a tie."""
    value = 1 + 2.0**-11 + 2.0**-40
    assert source([value], "F64").read_as("F16")[0] == 1


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_elements_of_the_same_type_are_not_touched(dtype):
    values = np.array([[-0.0, 2.0**-24, 1 / 3], [65504.0, -65504.0, -(2.0**-14)]], np.float32)
    stored = from_float32(values, dtype)
    assert source(stored, dtype).read_as(dtype) is stored
    assert source(stored, dtype).read_as(dtype).tobytes() == stored.tobytes()


def test_arrays_of_any_order():
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for array in (values, values.T, values[::-1, :, ::2]):
        for dtype in ("F32", "F16", "F64"):
            np.testing.assert_array_equal(source(array, "F32").read_as(dtype), array)


def test_many_blocks():
    values = np.random.default_rng(3).normal(size=(3, tensors.BLOCK + 5)).astype(np.float32)
    np.testing.assert_array_equal(source(values, "F32").read_as("F16"), values.astype(np.float16))


# What is refused.


#: The largest number of each type, and half the step to where the next one would be.
LARGEST = {
    "F16": (65504.0, 16.0),
    "BF16": (255 * 2.0**120, 2.0**119),
    "F32": (2.0**128 - 2.0**104, 2.0**103),
}


@pytest.mark.parametrize(
    "dtype, to",
    [("F32", "F16"), ("F32", "BF16"), ("F64", "F32"), ("F64", "F16"), ("F64", "BF16"), ("BF16", "F16")],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_number_of_each_type(dtype, to, sign):
    largest, half_step = LARGEST[to]
    limit = sign * (largest + half_step)
    if dtype == "BF16":  # exact there, too
        fits, too_large = sign * 65280.0, sign * 65536.0
        largest = 65280.0
    elif dtype == "F64" and to == "F32":
        fits, too_large = np.nextafter(limit, 0), limit
    else:
        fits, too_large = np.nextafter(np.float32(limit), np.float32(0)), limit
    kinds = {"F32": np.float32, "F64": np.float64}

    def stored(value: float) -> Any:
        return from_float32(np.float32([value]), "BF16") if dtype == "BF16" else kinds[dtype]([value])

    assert to_float32(source(stored(fits), dtype).read_as(to), to)[0] == sign * largest
    assert message(stored(too_large), dtype, to) == (
        f'"file": tensor "x", shape [1]: expected weights within the range of {to}, '
        f"found {too_large:g} at element 0 (choose another --dtype)"
    )


@pytest.mark.parametrize("to", LARGEST)
def test_numbers_that_only_float32_makes_too_large(to):
    """A float64 below the limit that rounds to it."""
    limit = sum(LARGEST[to])
    if to == "F32":
        assert source([np.nextafter(limit, 0)], "F64").read_as(to)[0] == LARGEST[to][0]
    else:
        assert f"within the range of {to}" in message([1.0, np.nextafter(limit, 0)], "F64", to)


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
@pytest.mark.parametrize("to", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 7, tensors.BLOCK + 3])
def test_weights_that_are_not_finite(dtype, to, bad, position):
    values = np.zeros((2, tensors.BLOCK), np.float32)
    values.reshape(-1)[position] = bad
    stored = (
        (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else from_float32(values, dtype)
    )
    assert message(stored, dtype, to) == (
        f'"file": tensor "x", shape [2, {tensors.BLOCK}]: expected finite weights, '
        f"found {bad:g} at element {position}"
    )


@pytest.mark.parametrize(
    "dtype, bits", [("F16", 0x7C01), ("F16", 0xFE00), ("BF16", 0x7F81), ("BF16", 0xFFC0)]
)
def test_every_kind_of_nan(dtype, bits):
    stored = np.array([0, bits], np.uint16).view(NUMPY_TYPES[dtype])
    assert "expected finite weights, found nan at element 1" in message(stored, dtype, dtype)


def test_the_position_of_a_weight_that_is_too_large():
    values = np.zeros(tensors.BLOCK + 10, np.float32)
    values[[tensors.BLOCK + 4, tensors.BLOCK + 6]] = -70000, np.inf
    assert message(values, "F32", "F16") == (
        f'"file": tensor "x", shape [{tensors.BLOCK + 10}]: expected weights within the range of F16, '
        f"found -70000 at element {tensors.BLOCK + 4} (choose another --dtype)"
    )


def test_types_that_weights_do_not_have():
    tensor = TensorSource("x", "I64", (1,), "file", lambda: np.zeros(1, np.int64))
    with pytest.raises(ConvertError, match='"file": tensor "x": expected floating-point weights .*found I64'):
        tensor.read_as("F32")
    with pytest.raises(ConvertError, match="expected floating-point weights, found int64"):
        of_array("x", np.zeros(1, np.int64), "file")
    with pytest.raises(ConvertError, match="found uint16"):
        of_array("x", np.zeros(1, np.uint16), "file")


@pytest.mark.parametrize("array", [np.zeros(3, np.float32), np.zeros((2, 2), np.float16)])
def test_a_reader_that_returns_something_else(array):
    tensor = TensorSource("x", "F32", (2, 2), "file", lambda: array)
    with pytest.raises(ConvertError, match=r"expected F32 \[2, 2\], found float"):
        tensor.read()


# Views.


def test_views_of_tensors():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = source(values, "F32")
    assert tensor.renamed("y").name == "y"
    assert tensor.transposed().shape == (3, 2) and tensor.first_rows(1).shape == (1, 3)
    np.testing.assert_array_equal(tensor.transposed().read(), values.T)
    np.testing.assert_array_equal(tensor.first_rows(1).read(), values[:1])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_stored_numbers(dtype):
    values = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
    stored = Stored(from_float32(values, dtype), dtype)
    assert len(stored) == 3
    np.testing.assert_array_equal(stored.float64(), values)
    np.testing.assert_array_equal(stored[[2, 0]].float64(), values[[2, 0]])
    np.testing.assert_array_equal(stored[1:].transposed().float64(), values[1:].T)
    assert stored.float64().dtype == np.float64
