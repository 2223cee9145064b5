# SPDX-License-Identifier: MIT
"""GGUF files, read back by a parser written here from the specification (ggml, docs/gguf.md)."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import tiny_model

from gpt2_convert import atomic, checkpoint
from gpt2_convert.errors import ConvertError
from gpt2_convert.targets import gguf

CONFIG = tiny_model.config()
WEIGHTS = tiny_model.arrays(CONFIG)
SCALARS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q"}
ELEMENTS = {0: np.dtype("<f4"), 1: np.dtype("<f2")}


class Gguf:
    """The metadata and the tensors of a file; a tensor in the order of memory, slowest extent first."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            magic, version, n_tensors, n_values = struct.unpack("<4sIQQ", file.read(24))
            assert magic == b"GGUF" and version == 3
            self.types: dict[str, int] = {}
            self.values = dict(self.value(file) for _ in range(n_values))
            assert len(self.values) == n_values
            infos = [self.tensor_info(file) for _ in range(n_tensors)]
            data_start = self.aligned(file.tell())
            padding = file.read(data_start - file.tell())
            assert padding == bytes(len(padding))
            self.tensors: dict[str, np.ndarray] = {}
            end = 0
            for name, extents, kind, offset in infos:
                assert offset == self.aligned(end), "tensors follow one another"
                file.seek(data_start + end)
                assert file.read(offset - end) == bytes(offset - end)
                data = file.read(math.prod(extents) * ELEMENTS[kind].itemsize)
                self.tensors[name] = np.frombuffer(data, ELEMENTS[kind]).reshape(extents[::-1])
                end = offset + len(data)
            assert len(self.tensors) == n_tensors
            rest = file.read()
            assert rest == bytes(self.aligned(end) - end)

    def aligned(self, offset: int) -> int:
        alignment = int(self.values.get("general.alignment", 32))
        return offset + (alignment - offset % alignment) % alignment

    def number(self, file: BinaryIO, form: str) -> Any:
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]

    def string(self, file: BinaryIO) -> str:
        return file.read(self.number(file, "<Q")).decode("utf-8")

    def value(self, file: BinaryIO) -> tuple[str, Any]:
        key = self.string(file)
        self.types[key] = self.number(file, "<I")
        return key, self.element(file, self.types[key])

    def element(self, file: BinaryIO, kind: int) -> Any:
        if kind == 8:
            return self.string(file)
        if kind == 9:
            element_kind, count = self.number(file, "<I"), self.number(file, "<Q")
            return [self.element(file, element_kind) for _ in range(count)]
        return self.number(file, SCALARS[kind])

    def tensor_info(self, file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string(file)
        assert len(name) <= 64
        extents = tuple(self.number(file, "<Q") for _ in range(self.number(file, "<I")))
        return name, extents, self.number(file, "<I"), self.number(file, "<Q")


def write(path: Path, model: checkpoint.Checkpoint, dtype: str = "F32", **options: Any) -> Path:
    gguf.write_file(path, model, dtype, quiet=True, **options)
    return path


def test_metadata(tmp_path):
    model = tiny_model.checked(CONFIG, WEIGHTS)
    file = Gguf(write(tmp_path / "model.gguf", model))
    assert file.values == {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "GPT-2",
        "general.file_type": 0,
        "general.quantization_version": 2,
        "gpt2.block_count": 2,
        "gpt2.context_length": 6,
        "gpt2.embedding_length": 8,
        "gpt2.feed_forward_length": 32,
        "gpt2.attention.head_count": 2,
        "gpt2.attention.layer_norm_epsilon": pytest.approx(1e-5),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tiny_model.TOKENS,
        "tokenizer.ggml.token_type": [1] * 259 + [3],
        "tokenizer.ggml.merges": ["t h", "th e", "Ġ the"],
        "tokenizer.ggml.bos_token_id": 259,
        "tokenizer.ggml.eos_token_id": 259,
        "tokenizer.ggml.add_bos_token": False,
    }
    # gguf-py writes numbers as uint32, which llama.cpp insists on.
    unsigned = {key for key, value in file.values.items() if type(value) is int}
    assert {file.types[key] for key in unsigned} == {4}


EXPECTED_NAMES = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
    "h.1.ln_1.weight": "blk.1.attn_norm.weight",
    "h.1.ln_1.bias": "blk.1.attn_norm.bias",
    "h.1.attn.c_attn.weight": "blk.1.attn_qkv.weight",
    "h.1.attn.c_attn.bias": "blk.1.attn_qkv.bias",
    "h.1.attn.c_proj.weight": "blk.1.attn_output.weight",
    "h.1.attn.c_proj.bias": "blk.1.attn_output.bias",
    "h.1.ln_2.weight": "blk.1.ffn_norm.weight",
    "h.1.ln_2.bias": "blk.1.ffn_norm.bias",
    "h.1.mlp.c_fc.weight": "blk.1.ffn_up.weight",
    "h.1.mlp.c_fc.bias": "blk.1.ffn_up.bias",
    "h.1.mlp.c_proj.weight": "blk.1.ffn_down.weight",
    "h.1.mlp.c_proj.bias": "blk.1.ffn_down.bias",
}
LINEAR = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


@pytest.mark.parametrize("dtype, number, kind", [("F32", 0, np.float32), ("F16", 1, np.float16)])
def test_tensors(tmp_path, dtype, number, kind):
    file = Gguf(write(tmp_path / "model.gguf", tiny_model.checked(CONFIG, WEIGHTS), dtype))
    assert file.values["general.file_type"] == number
    assert len(file.tensors) == len(WEIGHTS)
    for key, name in EXPECTED_NAMES.items():
        found, array = file.tensors[name], WEIGHTS[key]
        is_matrix = key.endswith(LINEAR) or key == "wte.weight"
        assert found.dtype == (kind if is_matrix else np.float32)
        np.testing.assert_array_equal(found, (array.T if key.endswith(LINEAR) else array).astype(found.dtype))


def test_every_layer_has_its_own_weights(tmp_path):
    file = Gguf(write(tmp_path / "model.gguf", tiny_model.checked(CONFIG, WEIGHTS)))
    for i in range(tiny_model.N_LAYER):
        found = file.tensors[f"blk.{i}.attn_qkv.weight"]
        np.testing.assert_array_equal(found.T, WEIGHTS[f"h.{i}.attn.c_attn.weight"])


def test_a_separate_head(tmp_path):
    values = tiny_model.config(tie_word_embeddings=False)
    weights = tiny_model.arrays(values, separate_head=True)
    file = Gguf(write(tmp_path / "model.gguf", tiny_model.checked(values, weights)))
    np.testing.assert_array_equal(file.tensors["output.weight"], weights["lm_head.weight"])


def test_another_inner_size_and_no_special_tokens(tmp_path):
    values = tiny_model.config(n_inner=20, bos_token_id=None, eos_token_id=None)
    file = Gguf(write(tmp_path / "model.gguf", tiny_model.checked(values, tiny_model.arrays(values))))
    assert file.values["gpt2.feed_forward_length"] == 20
    assert file.tensors["blk.0.ffn_up.weight"].shape == (20, 8)
    assert not {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"} & file.values.keys()


def test_rows_without_a_token(tmp_path):
    values = tiny_model.config(vocab_size=tiny_model.VOCAB_SIZE + 2)
    file = Gguf(write(tmp_path / "model.gguf", tiny_model.checked(values, tiny_model.arrays(values))))
    assert file.values["tokenizer.ggml.tokens"][-3:] == ["<|endoftext|>", "[PAD260]", "[PAD261]"]
    assert file.values["tokenizer.ggml.token_type"][-3:] == [3, 5, 5]
    assert file.tensors["token_embd.weight"].shape[0] == 262


def test_more_tokens_than_rows(tmp_path):
    values = tiny_model.config(vocab_size=200, bos_token_id=None, eos_token_id=None)
    with pytest.raises(ConvertError, match="expected at least 260, the tokens of the tokenizer, found 200"):
        write(tmp_path / "model.gguf", tiny_model.checked(values, tiny_model.arrays(values)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("activation_function", "gelu", "gelu_new"),
        ("activation_function", "relu", "gelu_new"),
        ("scale_attn_weights", False, "true"),
        ("scale_attn_by_inverse_layer_idx", True, "false"),
    ],
)
def test_what_llama_cpp_cannot_compute(tmp_path, key, value, expected):
    model = tiny_model.checked(tiny_model.config(**{key: value}), WEIGHTS)
    with pytest.raises(ConvertError, match=f'"config.json": "{key}": expected "?{expected}"?.*llama.cpp'):
        write(tmp_path / "model.gguf", model)
    assert os.listdir(tmp_path) == []


def test_other_element_types_and_no_tokenizer(tmp_path):
    model = tiny_model.checked(CONFIG, WEIGHTS)
    with pytest.raises(ConvertError, match="expected F32 or F16 .* found BF16"):
        write(tmp_path / "model.gguf", model, "BF16")
    model.source.vocab_json = None
    with pytest.raises(ConvertError, match="expected a tokenizer"):
        write(tmp_path / "model.gguf", model)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype, bad", [("F32", np.nan), ("F32", -np.inf), ("F16", 1e6)])
def test_weights_that_cannot_be_stored(tmp_path, dtype, bad):
    weights = {**WEIGHTS, "h.1.mlp.c_fc.weight": np.full((8, 32), bad, np.float32)}
    with pytest.raises(ConvertError, match='tensor "h.1.mlp.c_fc.weight"'):
        write(tmp_path / "model.gguf", tiny_model.checked(CONFIG, weights), dtype)
    assert os.listdir(tmp_path) == []


def test_an_interrupted_file_has_no_header(tmp_path, monkeypatch):
    """What a killed program leaves behind, looked at just before the header is written."""
    left = []

    class Recorder:
        def __init__(self, file: Any) -> None:
            self._file = file

        def seek(self, offset: int) -> None:
            self._file.flush()
            left.append(next(tmp_path.iterdir()).read_bytes())
            self._file.seek(offset)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    @atomic.contextmanager
    def recording(*arguments: Any, **options: Any):
        with atomic.atomic_file(*arguments, **options) as file:
            yield Recorder(file)

    monkeypatch.setattr(gguf, "atomic_file", recording)
    whole = write(tmp_path / "model.gguf", tiny_model.checked(CONFIG, WEIGHTS)).read_bytes()
    assert len(left) == 1 and len(left[0]) == len(whole)
    assert left[0][:24] == bytes(24) and whole[:4] == b"GGUF"


def test_the_same_input_gives_the_same_bytes(tmp_path):
    model = tiny_model.checked(CONFIG, WEIGHTS)
    a, b = write(tmp_path / "a.gguf", model, "F16"), write(tmp_path / "b.gguf", model, "F16")
    assert a.read_bytes() == b.read_bytes()


def test_an_existing_file(tmp_path):
    path = write(tmp_path / "model.gguf", tiny_model.checked(CONFIG, WEIGHTS))
    with pytest.raises(ConvertError, match="exists already"):
        write(path, tiny_model.checked(CONFIG, WEIGHTS))
    write(path, tiny_model.checked(CONFIG, WEIGHTS), "F16", overwrite=True)
    assert Gguf(path).values["general.file_type"] == 1
