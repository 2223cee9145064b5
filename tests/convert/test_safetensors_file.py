# SPDX-License-Identifier: MIT
"""The reader of safetensors files, against files written here from the specification."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2_convert import json_text
from gpt2_convert.errors import ConvertError
from gpt2_convert.safetensors_file import is_safetensors_file, read


def write(path: Path, header: Any, data: bytes, length: int | None = None) -> Path:
    """A file of this header, a dictionary or its text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: Any, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_tensors_of_all_types_of_weights(file: Path) -> None:
    arrays = {
        "F64": np.array([[0.1, -2.0]], "<f8"),
        "F32": np.arange(6, dtype="<f4").reshape(2, 3),
        "F16": np.array([1.5], "<f2"),
        "BF16": np.array([0x3F80, 0x8000, 0x4049], "<u2"),
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "é": "\n"}}
    data = b""
    for name, array in reversed(arrays.items()):
        header["t." + name] = entry(name, list(array.shape), len(data), len(data) + array.nbytes)
        data += array.tobytes()
    tensors, metadata = read(write(file, json.dumps(header).encode() + b"   ", data))
    assert metadata == {"format": "pt", "é": "\n"}
    assert list(tensors) == ["t.BF16", "t.F16", "t.F32", "t.F64"]  # in the order of the data
    for name, array in arrays.items():
        tensor = tensors["t." + name]
        assert (tensor.name, tensor.dtype, tensor.shape) == ("t." + name, name, array.shape)
        assert tensor.where == str(file)
        assert np.array_equal(tensor.read(), array)


def test_numbers_and_tensors_without_elements(file: Path) -> None:
    header = {"none": entry("F32", [0, 2**40], 0, 0), "one": entry("F16", [], 0, 2)}
    tensors, _ = read(write(file, header, struct.pack("<e", 0.25)))
    assert tensors["none"].read().shape == (0, 2**40)
    assert tensors["one"].read() == np.float16(0.25)


def test_a_file_without_tensors(file: Path) -> None:
    assert read(write(file, {}, b"")) == ({}, {})


def test_other_types_are_there_but_are_no_weights(file: Path) -> None:
    header = {"h.0.attn.bias": entry("BOOL", [2], 0, 2), "f8": entry("F8_E4M3", [2], 2, 4)}
    tensors, _ = read(write(file, header, b"\1\0\0\0"))
    assert np.array_equal(tensors["h.0.attn.bias"].load(), [True, False])
    for name, dtype in [("h.0.attn.bias", "BOOL"), ("f8", "F8_E4M3")]:
        with pytest.raises(ConvertError, match=f'tensor "{name}": expected floating-point.* found {dtype}'):
            tensors[name].read()
    with pytest.raises(ConvertError, match='tensor "f8": expected elements that numpy can hold'):
        tensors["f8"].load()


def test_nothing_is_read_before_it_is_needed(file: Path) -> None:
    tensor = read(write(file, {"a": entry("F32", [1], 0, 4)}, struct.pack("<f", 1.0)))[0]["a"]
    write(file, {"a": entry("F32", [1], 0, 4)}, struct.pack("<f", 2.0))
    assert tensor.read() == 2.0
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ConvertError, match="expected 4 bytes at offset .*, found only 3 .truncated"):
        tensor.read()


ONE = {"a": entry("F32", [2], 0, 8)}


def refused(path: Path, message: str) -> None:
    with pytest.raises(ConvertError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "header, n_data, message",
    [
        ([], 0, 'header that begins with "{"'),
        (b"", 0, "an empty header"),
        (b" {}", 0, 'header that begins with "{"'),
        (b'{"a":', 0, "expected valid JSON"),
        (b'{"a":1e999}', 0, "too large"),
        (b'{"a":NaN}', 0, "NaN"),
        (b'{"a":' + b"9" * 10000 + b"}", 0, "a number of 10000 digits"),
        (b'{"\xff": 1}', 0, "not UTF-8"),
        (b'{"\\ud800": 1}', 0, "not UTF-8"),
        (b"{}{}", 0, "expected valid JSON"),
        (b"{}\0", 0, "expected valid JSON"),
        (b'{"a":' + b"[" * 100_000, 0, "nested too deeply"),
        (b'{"a":{},"a":{}}', 0, 'the key "a" twice'),
        (b'{"a":{"dtype":"U8","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8, 'the key "dtype" twice'),
        ({"__metadata__": []}, 0, '"__metadata__": expected an object'),
        ({"__metadata__": {"a": 1}}, 0, '"a": expected a string, found 1'),
        ({"a": 3}, 0, 'tensor "a": expected an object, found 3'),
        ({"a": {"dtype": "F32", "shape": [2]}}, 8, 'expected the keys.* found "dtype", "shape"$'),
        ({"a": {**ONE["a"], "x": 1}}, 8, "expected the keys"),
        ({"a": entry("F33", [2], 0, 8)}, 8, 'expected an element type.* found "F33"'),
        ({"a": entry(["F32"], [2], 0, 8)}, 8, "expected an element type.* found an array"),
        ({"a": entry("F32", 2, 0, 8)}, 8, '"shape": expected an array of whole numbers, found 2'),
        ({"a": entry("F32", [-2], 0, 8)}, 8, "found -2"),
        ({"a": entry("F32", [True, 2], 0, 8)}, 8, "found true"),
        ({"a": entry("F32", [2.0], 0, 8)}, 8, "found 2.0"),
        ({"a": entry("F32", [None], 0, 8)}, 8, '"shape": expected an array'),
        ({"a": entry("F32", [1] * 33, 0, 4)}, 4, "at most 32 dimensions, found 33"),
        ({"a": entry("F32", [2**31, 2**31], 0, 8)}, 8, "fits 63 bits"),
        ({"a": entry("F32", [0, 2**62], 0, 0)}, 0, "fits 63 bits"),
        ({"a": entry("F32", [2**30], 0, 8)}, 8, "expected 4294967296 bytes"),
        ({"a": entry("F32", [2], 0, 2**40)}, 8, "within the 8 bytes of data"),
        ({"a": entry("F32", [2], 8, 0)}, 8, "in order"),
        ({"a": entry("F32", [2], -8, 0)}, 8, "whole numbers, found -8"),
        ({"a": {**ONE["a"], "data_offsets": [0, 4, 8]}}, 8, "a beginning and an end"),
        ({"a": {**ONE["a"], "data_offsets": []}}, 8, "a beginning and an end"),
        ({"a": entry("F32", [2], 0, 4)}, 8, r"expected 8 bytes for shape \[2\] of F32, found 4 bytes"),
        ({"a": entry("F4", [3], 0, 2)}, 2, "expected 2 bytes"),
        (ONE, 9, "expected 8 bytes of data for 1 tensors, found 9"),
        ({}, 1, "expected 0 bytes of data for 0 tensors, found 1"),
        ({**ONE, "b": entry("F32", [2], 4, 12)}, 12, "tensors overlap"),
        ({**ONE, "b": entry("F32", [2], 0, 8)}, 8, "tensors overlap"),
        ({**ONE, "b": entry("F32", [1], 9, 13)}, 13, "bytes that belong to no tensor"),
        ({"a": entry("F32", [2], 1, 9)}, 9, "bytes that belong to no tensor"),
    ],
)
def test_headers_that_lie(file: Path, header: Any, n_data: int, message: str) -> None:
    refused(write(file, header, bytes(n_data)), message)


@pytest.mark.parametrize("length", [3, 2**31, 2**63, 2**64 - 1, 100_000_001])
def test_header_lengths_that_lie(file: Path, length: int) -> None:
    refused(write(file, b"{}", b"", length), "header")
    assert is_safetensors_file(file) is False


def test_every_truncation_is_noticed(file: Path) -> None:
    whole = write(file, ONE, bytes(8)).read_bytes()
    assert is_safetensors_file(file)
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        refused(file, "expected")


def test_what_is_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "none", "cannot read it: No such file")
    refused(tmp_path, "expected a file, found a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "expected a file, found a special file")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        assert is_safetensors_file(path) is False


def test_control_characters_do_not_reach_the_terminal(file: Path) -> None:
    with pytest.raises(ConvertError) as error:
        read(write(file, {"\x1b[2J\x9b\n": 1}, b""))
    assert r'"\x1b[2J\x9b\n"' in str(error.value)


def test_json(tmp_path: Path) -> None:
    assert json_text.parse(b'{"a": [1, -2.5, true, null, "\\ud83d\\ude00"]}', "x") == {
        "a": [1, -2.5, True, None, "\U0001f600"]
    }
    for text, message in [
        (b"", "an empty file"),
        (b"\xef\xbb\xbf{}", "expecting value|BOM"),
        (b"[1,\n2,]", "line 2"),
        (b"-Infinity", "-Infinity"),
        (b'{"a":{"b":1,"c":2,"b":1}}', 'the key "b" twice in one object'),
        (b"[" * 100_000, "nested too deeply"),
    ]:
        with pytest.raises(ConvertError, match=f'"x": expected valid JSON, found .*({message})'):
            json_text.parse(text, "x")
    path = tmp_path / "config.json"
    path.write_text("[]")
    with pytest.raises(ConvertError, match="expected a JSON object, found an array"):
        json_text.parse_object(path)
    os.truncate(path, json_text.MAX_FILE_SIZE + 1)  # sparse
    with pytest.raises(ConvertError, match="at most 100000000 bytes, found 100000001"):
        json_text.parse_object(path)
