# SPDX-License-Identifier: MIT
"""Hugging Face directories that are written, read back here from the specification of safetensors."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from gpt2_convert.errors import ConvertError
from gpt2_convert.safetensors_writer import SafetensorsWriter
from gpt2_convert.targets.huggingface import write_directory
from gpt2_convert.tensors import from_float32

CONFIG = tiny_model.config()
WEIGHTS = tiny_model.arrays(CONFIG)
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def read_safetensors(path: Path) -> tuple[dict[str, tuple[str, list[int], bytes]], dict[str, str]]:
    """Type, shape and bytes of every tensor, and the metadata."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors, end = {}, 0
    for name, entry in header.items():  # in the order of the data, without gaps
        begin, following = entry["data_offsets"]
        assert begin == end and begin % SIZES[entry["dtype"]] == 0
        end = following
        elements = data[8 + length + begin : 8 + length + end]
        assert len(elements) == SIZES[entry["dtype"]] * int(np.prod(entry["shape"]))
        tensors[name] = (entry["dtype"], entry["shape"], elements)
    assert 8 + length + end == len(data)
    return tensors, metadata


def write(out: Path, model: Any, dtype: str | None = None, **options: Any) -> Path:
    write_directory(out, model, dtype, quiet=True, **options)
    return out


def test_a_directory_has_all_files(tmp_path):
    out = write(tmp_path / "out", tiny_model.checked(CONFIG, WEIGHTS))
    assert sorted(os.listdir(out)) == [
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "vocab.json",
    ]
    assert (out / "vocab.json").read_bytes() == tiny_model.VOCAB_JSON
    assert (out / "merges.txt").read_bytes() == tiny_model.MERGES_TXT
    tensors, metadata = read_safetensors(out / "model.safetensors")
    assert metadata == {"format": "pt"}
    assert tensors == {name: ("F32", list(array.shape), array.tobytes()) for name, array in WEIGHTS.items()}
    config = json.loads((out / "config.json").read_text())
    assert CONFIG.items() <= config.items()
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert config["torch_dtype"] == "float32"
    assert config["tie_word_embeddings"] is True
    assert config["n_inner"] == 4 * tiny_model.N_EMBD and config["n_ctx"] == tiny_model.N_POSITIONS
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tiny_model.VOCAB_SIZE - 1


def test_what_does_not_shape_the_model_is_kept(tmp_path):
    values = {**CONFIG, "task_specific_params": {"a": 1}, "resid_pdrop": 0.25, "activation_function": "gelu"}
    out = write(tmp_path / "out", tiny_model.checked(values, WEIGHTS))
    assert values.items() <= json.loads((out / "config.json").read_text()).items()


def test_element_types_are_kept_to_the_bit(tmp_path):
    """Also where they differ; negative zero, subnormal numbers and the largest ones included."""
    values = tiny_model.config(n_embd=5, n_head=1)  # sizes that align nothing by themselves
    weights = tiny_model.arrays(values)
    dtypes = dict(zip(weights, ["F16", "F32", "BF16", "F64"] * len(weights)))
    for name, dtype in dtypes.items():
        largest = {"F16": 65504.0, "BF16": 3.3895314e38, "F32": 3.4028235e38, "F64": 3.4028235e38}[dtype]
        tiny = {"F16": 2.0**-24, "BF16": 2.0**-133, "F32": 2.0**-149, "F64": 2.0**-149}[dtype]
        weights[name].reshape(-1)[:4] = [-0.0, tiny, -largest, 1 / 3]
    model = tiny_model.checked(values, weights, dtypes)
    tensors, _ = read_safetensors(write(tmp_path / "out", model) / "model.safetensors")
    assert {name: entry[0] for name, entry in tensors.items()} == dtypes
    for name, (_, _, elements) in tensors.items():
        assert elements == model.tensors[name].read().tobytes(), name


def test_float64_is_not_rounded(tmp_path):
    model = tiny_model.checked(CONFIG, WEIGHTS, {"wte.weight": "F64"})
    model.tensors["wte.weight"].read()[0, 0] = 0.1  # not a float32
    out = write(tmp_path / "out", model)
    elements = read_safetensors(out / "model.safetensors")[0]["wte.weight"][2]
    assert struct.unpack("<d", elements[:8]) == (0.1,)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "float64"


@pytest.mark.parametrize("dtype, name", [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")])
def test_all_weights_in_one_type(tmp_path, dtype, name):
    out = write(tmp_path / "out", tiny_model.checked(CONFIG, WEIGHTS, {"wpe.weight": "F64"}), dtype)
    tensors, _ = read_safetensors(out / "model.safetensors")
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == name
    for key, array in WEIGHTS.items():
        assert tensors[key] == (dtype, list(array.shape), from_float32(array, dtype).tobytes())


def test_a_separate_head(tmp_path):
    """transformers refuses a head in a file whose other names lack the prefix."""
    values = tiny_model.config(tie_word_embeddings=False)
    weights = tiny_model.arrays(values, separate_head=True)
    out = write(tmp_path / "out", tiny_model.checked(values, weights))
    tensors, _ = read_safetensors(out / "model.safetensors")
    expected = {name if name == "lm_head.weight" else f"transformer.{name}" for name in weights}
    assert tensors.keys() == expected
    assert tensors["lm_head.weight"][2] == weights["lm_head.weight"].tobytes()
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for out in ("a", "b"):
        write(tmp_path / out, tiny_model.checked(CONFIG, dict(reversed(WEIGHTS.items()))))
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_other_programs_read_the_weights(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    out = write(tmp_path / "out", tiny_model.checked(CONFIG, WEIGHTS))
    for name, array in safetensors.load_file(out / "model.safetensors").items():
        np.testing.assert_array_equal(array, WEIGHTS[name])


@pytest.mark.parametrize("dtype", [None, "F16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_weights_that_are_not_finite(tmp_path, dtype, bad):
    weights = {**WEIGHTS, "ln_f.weight": np.full(8, bad, np.float32)}
    if dtype is None and np.isfinite(bad):
        write(tmp_path / "out", tiny_model.checked(CONFIG, weights), dtype)
        return
    with pytest.raises(ConvertError, match='tensor "ln_f.weight".*expected'):
        write(tmp_path / "out", tiny_model.checked(CONFIG, weights), dtype)
    assert os.listdir(tmp_path) == []


def test_existing_directories(tmp_path):
    model = tiny_model.checked(CONFIG, WEIGHTS)
    out = write(tmp_path / "out", model)
    with pytest.raises(ConvertError, match="exists already"):
        write(out, model)
    write(out, model, "F16", overwrite=True)
    assert read_safetensors(out / "model.safetensors")[0]["wpe.weight"][0] == "F16"
    (out / "tokenizer.json").write_text("{}")
    with pytest.raises(ConvertError, match='expected only files that are replaced, found "tokenizer.json"'):
        write(out, model, overwrite=True)
    assert os.listdir(tmp_path) == ["out"]


# The writer of safetensors by itself.


class TestSafetensorsWriter:
    ENTRIES = [("a", "F32", (2, 3)), ("b", "BF16", (4,)), ("c", "I64", ()), ("d", "U8", (0,))]
    ARRAYS = [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(4, dtype=np.uint16),
        np.array(-5, np.int64),
        np.zeros(0, np.uint8),
    ]

    def write(self, path: Path, align: int = 8, finish: bool = True) -> SafetensorsWriter:
        with path.open("wb") as file:
            writer = SafetensorsWriter(file, self.ENTRIES, {"format": "pt", "sum": "0000"}, align)
            for (name, _, _), array in zip(self.ENTRIES, self.ARRAYS):
                writer.write(name, array)
            writer.set_metadata("sum", "beef")
            if finish:
                writer.finish()
        return writer

    @pytest.mark.parametrize("align", [1, 8, 64, 4096])
    def test_layout(self, tmp_path, align):
        path = tmp_path / "x.safetensors"
        writer = self.write(path, align)
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        assert writer.data_start == 8 + length and writer.data_start % align == 0
        assert writer.size == len(data) and data[8:9] == b"{"
        header = json.loads(data[8 : 8 + length])
        assert header.pop("__metadata__") == {"format": "pt", "sum": "beef"}
        assert header == {
            name: {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + array.nbytes]}
            for (name, dtype, shape), array, begin in zip(self.ENTRIES, self.ARRAYS, (0, 24, 32, 40))
        }
        assert data[8 + length :] == b"".join(array.tobytes() for array in self.ARRAYS)

    def test_an_unfinished_file_begins_with_zeros(self, tmp_path):
        path = tmp_path / "x.safetensors"
        writer = self.write(path, finish=False)
        assert path.read_bytes()[: writer.data_start] == bytes(writer.data_start)

    def test_arrays_that_are_not_contiguous(self, tmp_path):
        array = np.arange(6, dtype=np.float32).reshape(3, 2)
        with (tmp_path / "x").open("wb") as file:
            writer = SafetensorsWriter(file, [("a", "F32", (2, 3)), ("b", "F32", (3,))], {})
            writer.write("a", array.T)
            writer.write("b", array[:, 1])
            writer.finish()
        tensors, metadata = read_safetensors(tmp_path / "x")
        assert metadata == {}
        assert tensors["a"][2] == array.T.tobytes() and tensors["b"][2] == array[:, 1].tobytes()

    def test_names_that_are_not_ascii(self, tmp_path):
        with (tmp_path / "x").open("wb") as file:
            writer = SafetensorsWriter(file, [], {"source": 'Gödel "x"\\\n\udcff'})
            writer.finish()
        assert read_safetensors(tmp_path / "x")[1] == {"source": 'Gödel "x"\\\n?'}

    def test_mistakes(self, tmp_path):
        with (tmp_path / "x").open("wb") as file:
            with pytest.raises(ValueError, match="twice"):
                SafetensorsWriter(file, [("a", "F32", ()), ("a", "F32", ())], {})
            writer = SafetensorsWriter(file, self.ENTRIES, {"sum": "0000"})
            for name, array in [
                ("b", self.ARRAYS[0]),
                ("a", self.ARRAYS[0].astype(np.float64)),
                ("a", self.ARRAYS[0].T),
            ]:
                with pytest.raises(ValueError, match="expected"):
                    writer.write(name, array)
            with pytest.raises(ValueError, match="not written"):
                writer.finish()
            with pytest.raises(ValueError, match="as long as"):
                writer.set_metadata("sum", "00000")
            with pytest.raises(KeyError):
                writer.set_metadata("other", "")
            for (name, _, _), array in zip(self.ENTRIES, self.ARRAYS):
                writer.write(name, array)
            with pytest.raises(ValueError, match="no tensor is expected"):
                writer.write("e", self.ARRAYS[0])
            writer.finish()
