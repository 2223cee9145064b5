# SPDX-License-Identifier: MIT
"""The converted file, looked into here as docs/model-format.md describes it, and damaged ones."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from gpt2_convert import __version__, checkpoint, forward
from gpt2_convert.errors import ConvertError
from gpt2_convert.matrix_types import MatrixTypes
from gpt2_convert.sources import packed as reader
from gpt2_convert.targets import packed as writer
from gpt2_convert.tensors import Stored, from_float32, to_float32
from gpt2_convert.tokenizer_tables import TokenizerTables

DTYPES = ("F32", "F16", "BF16")
#: Extents that fill nothing up.
CONFIG = tiny_model.config(n_embd=36, n_inner=70, n_head=3)


class File:
    """A file as any reader of safetensors sees it."""

    def __init__(self, data: bytes) -> None:
        size = int.from_bytes(data[:8], "little")
        self.header = json.loads(data[8 : 8 + size])
        self.metadata = self.header.pop("__metadata__")
        self.data = data[8 + size :]
        self.start = 8 + size

    def array(self, name: str) -> np.ndarray:
        entry = self.header[name]
        kinds = {
            "F32": "<f4",
            "F16": "<f2",
            "BF16": "<u2",
            "U8": "u1",
            "U32": "<u4",
            "U64": "<u8",
            "I32": "<i4",
        }
        begin, end = entry["data_offsets"]
        return np.frombuffer(self.data[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"])

    def bytes(self) -> bytes:
        text = json.dumps({"__metadata__": self.metadata, **self.header}).encode()
        return len(text).to_bytes(8, "little") + text + self.data


def write(dtype: str, config: dict[str, Any] = CONFIG, **options: Any) -> tuple[File, dict[str, np.ndarray]]:
    weights = tiny_model.arrays(config, separate_head=not config.get("tie_word_embeddings", True))
    model = tiny_model.checked(config, weights, **options)
    tokenizer = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    file = io.BytesIO()
    types = MatrixTypes.of(dtype)
    summary = writer.PackedWriter(file, model, tokenizer, types, "ab" * 32).write()
    assert summary.size == len(file.getvalue()) <= writer.file_size(model, types)
    return File(file.getvalue()), weights


def is_matrix(name: str) -> bool:
    return name.split(".")[-2] in ("wte", "lm_head", "c_attn", "c_proj", "c_fc") and name.endswith("weight")


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_every_weight_is(dtype):
    file, weights = write(dtype, {**CONFIG, "tie_word_embeddings": False})
    for name, array in weights.items():
        stored = file.array(name)
        assert file.header[name]["dtype"] == (dtype if is_matrix(name) else "F32")
        if not is_matrix(name):
            assert stored.shape[:-1] == array.shape[:-1]
            np.testing.assert_array_equal(stored[..., : array.shape[-1]], array)
            unit = 32 if ".c_" in name else 16
            assert stored.shape[-1] == -(-array.shape[-1] // unit) * unit
            assert not stored[..., array.shape[-1] :].any()
            continue
        by_input = array.T if name in ("wte.weight", "lm_head.weight") else array
        inputs, outputs = by_input.shape
        assert stored.shape == (-(-outputs // 32), inputs, 32)
        expected = np.zeros(stored.shape, stored.dtype)
        for n in range(outputs):
            j = n % 32
            place = j if dtype != "BF16" else 2 * j if j < 16 else 2 * (j - 16) + 1
            expected[n // 32, :, place] = from_float32(by_input[:, n], dtype)
        np.testing.assert_array_equal(stored, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (31, 5), (32, 5), (33, 64), (64, 1), (65, 100)],
    ids=lambda shape: "x".join(map(str, shape)),
)
@pytest.mark.parametrize("name", ["wte.weight", "h.0.mlp.c_fc.weight", "wpe.weight", "h.0.mlp.c_fc.bias"])
def test_what_is_packed_is_unpacked(name, shape, dtype):
    kind = dtype if is_matrix(name) else "F32"
    values = from_float32(np.random.default_rng(1).normal(size=shape).astype(np.float32), kind)
    values = values if not name.endswith("bias") else values[0]
    stored = writer.pack(name, values, kind)
    assert stored.shape == writer.stored_shape(name, values.shape, kind)
    np.testing.assert_array_equal(writer.unpack(name, stored, kind, values.shape), values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_alignment_and_metadata(dtype):
    file, _ = write(dtype)
    assert file.start % 64 == 0
    assert all(entry["data_offsets"][0] % 64 == 0 for entry in file.header.values())
    assert file.metadata.pop("gpt2.crc32") == f"{zlib.crc32(file.data):08x}"
    config = checkpoint.ModelConfig.from_json(CONFIG, "config.json")
    assert json.loads(file.metadata.pop("gpt2.config")) == config.to_json()
    assert file.metadata == {
        "gpt2.format_version": "1",
        "gpt2.layout": "panels-32",
        "gpt2.source": "test",
        "gpt2.source_revision": "",
        "gpt2.source_sha256": "ab" * 32,
        "gpt2.source_vectors": "F32",
        "gpt2.converter": f"convert_weights.py {__version__}",
    }


def test_the_tokenizer():
    file, _ = write("F16")
    tables = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny").tables()
    lengths = file.array("tokenizer.lengths")
    assert lengths.shape == (16,) and not lengths[10:].any()
    assert lengths[:10].tolist() == [len(table) for table in tables.values()]
    for (name, table), length in zip(tables.items(), lengths.tolist()):
        stored = file.array(f"tokenizer.{name}")
        np.testing.assert_array_equal(stored[:length], table)
        assert not stored[length:].any()
    assert list(reader.TABLES) == list(tables)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("separate", [False, True])
def test_the_self_test(dtype, separate):
    """The logits of the weights as they are in the file."""
    values = {**CONFIG, "tie_word_embeddings": not separate}
    file, weights = write(dtype, values)
    config = checkpoint.ModelConfig.from_json(values, "config.json")
    tokens = file.array("self_test.tokens")
    assert tokens.tolist() == [(i * 7919 + 13) % 260 for i in range(6)] + [-1] * 10

    def give(name: str) -> Stored:
        kind = dtype if is_matrix(name) else "F32"
        return Stored(to_float32(from_float32(weights[name], kind), kind), "F32")

    estimate = forward.logits(config, separate, tokens[:6].tolist(), give)
    logits = file.array("self_test.logits")
    assert logits.shape == (272,) and not logits[260:].any()
    np.testing.assert_array_equal(logits[:260], estimate.value[0].astype(np.float32))
    bound = file.array("self_test.bound")
    assert bound[0] == np.float32(forward.bound(estimate)) > 0 and not bound[1:].any()


def test_a_self_test_of_a_large_model_has_eight_tokens():
    config = checkpoint.ModelConfig.from_json({}, "config.json")
    assert writer.self_test_tokens(config) == [13, 7932, 15851, 23770, 31689, 39608, 47527, 5189]


@pytest.mark.parametrize("scale", [1e3, 3e38])
def test_logits_that_float32_cannot_hold(scale):
    """The logits alone, or the bound too."""
    config = {**CONFIG, "tie_word_embeddings": False}
    weights = tiny_model.arrays(config, separate_head=True)
    weights["ln_f.weight"] = np.full(36, scale, np.float32)
    weights["lm_head.weight"] = np.float32(3e38) * np.sign(weights["lm_head.weight"])
    tokenizer = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    model = tiny_model.checked(config, weights)
    with pytest.raises(ConvertError, match="the logits of the self-test: expected finite numbers"):
        writer.PackedWriter(io.BytesIO(), model, tokenizer, MatrixTypes.of("F32"), "").write()


def test_progress():
    model = tiny_model.checked(CONFIG, tiny_model.arrays(CONFIG))
    tokenizer = TokenizerTables(tiny_model.VOCAB_JSON, tiny_model.MERGES_TXT, "tiny")
    packed = writer.PackedWriter(io.BytesIO(), model, tokenizer, MatrixTypes.of("F32"), "")
    steps: list[int] = []
    packed.write(steps.append)
    assert steps == sorted(steps) and steps[-1] == packed.data_size and len(steps) > 30


def test_the_hash_of_the_source(tmp_path):
    first, second = tmp_path / "y" / "a", tmp_path / "x" / "b"
    for path, content in ((first, b"first " * 1_000_000), (second, b"second")):
        path.parent.mkdir()
        path.write_bytes(content)
    steps: list[int] = []
    found = writer.source_hash([second, first], steps.append)
    assert found == hashlib.sha256(b"first " * 1_000_000 + b"second").hexdigest()
    assert steps == [1 << 22, 6_000_000, 6_000_006]


# Reading.


@pytest.fixture
def save(tmp_path):
    def write_file(file: File) -> Path:
        (tmp_path / "model").write_bytes(file.bytes())
        return tmp_path / "model"

    return write_file


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_and_tokenizer_come_back(save, dtype):
    file, weights = write(dtype)
    path = save(file)
    assert reader.recognizes(path) and reader.checksum(path).is_correct
    source = reader.read(path)
    assert source.kind == reader.KIND and source.files == [path]
    model = checkpoint.check(source)
    for name, array in weights.items():
        kind = dtype if is_matrix(name) else "F32"
        assert model.tensors[name].dtype == kind
        np.testing.assert_array_equal(model.tensors[name].read(), from_float32(array, kind))
    assert json.loads(source.vocab_json or b"") == json.loads(tiny_model.VOCAB_JSON)
    assert source.merges_txt == tiny_model.MERGES_TXT
    assert reader.self_test(path) == (6, float(file.array("self_test.bound")[0]))


def refused(path: Path, *parts: str) -> None:
    assert reader.recognizes(path)
    with pytest.raises(ConvertError) as error:
        checkpoint.check(reader.read(path))
    for part in (str(path), *parts):
        assert part in str(error.value)


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("gpt2.format_version", "2", '"gpt2.format_version": expected "1", found "2"'),
        ("gpt2.layout", "panels-64", '"gpt2.layout": expected "panels-32", found "panels-64"'),
        ("gpt2.layout", None, '"gpt2.layout": expected "panels-32", found null'),
        ("gpt2.config", None, "gpt2.config"),
        ("gpt2.config", "[]", "expected a JSON object"),
        ("gpt2.config", '{"n_head": 5}', '"n_head": expected a divisor'),
        ("gpt2.source_vectors", "I8", 'source_vectors": expected F32, F16 or BF16, found "I8"'),
    ],
)
def test_metadata_that_cannot_be_used(save, key, value, expected):
    file, _ = write("F16")
    file.metadata.pop(key)
    if value is not None:
        file.metadata[key] = value
    refused(save(file), expected)


def test_tensors_that_are_missing_or_of_another_shape(save):
    file, _ = write("F16")
    for name in ("wte.weight", "h.1.ln_1.bias", "tokenizer.lengths", "tokenizer.pairs"):
        whole = File(file.bytes())
        whole.header[f"other.{name}"] = whole.header.pop(name)
        refused(save(whole), f'expected tensor "{name}", found no such tensor')
    file.header["h.0.ln_1.weight"]["shape"] = [2, 24]
    refused(save(file), 'tensor "h.0.ln_1.weight": expected shape [48], found [2, 24]')


def changed(file: File, name: str, index: int, value: int) -> File:
    begin = file.header[name]["data_offsets"][0]
    array = file.array(name).reshape(-1).copy()
    array[index] = value
    file.data = file.data[:begin] + array.tobytes() + file.data[begin + array.nbytes :]
    return file


@pytest.mark.parametrize(
    "name, index, value",
    [
        ("tokenizer.lengths", 0, 2**32 - 1),
        ("tokenizer.lengths", 1, 10),
        ("tokenizer.lengths", 8, 1),
        ("tokenizer.token_ends", 5, 2**32 - 1),
        ("tokenizer.token_ends", 5, 0),
        ("tokenizer.is_special", 200, 1),  # a byte that is no UTF-8
        ("tokenizer.pairs", 0, 2**31),
        ("tokenizer.pairs", 2, 2**31),
    ],
)
def test_damaged_tables(save, name, index, value):
    """None of these changes ends in anything but a message, here or where the tokenizer is made."""
    file, _ = write("F16")
    path = save(changed(file, name, index, value))
    assert not reader.checksum(path).is_correct
    try:
        source = reader.read(path)
        assert source.vocab_json is not None and source.merges_txt is not None
        TokenizerTables(source.vocab_json, source.merges_txt, "damaged")
    except ConvertError as error:
        assert "expected" in str(error)


def test_any_byte_of_the_tables_may_be_damaged(save):
    """Errors are all of the right kind."""
    random = np.random.default_rng(1)
    file, _ = write("F16")
    names = [name for name in file.header if name.startswith("tokenizer.")]
    begin = min(file.header[name]["data_offsets"][0] for name in names)
    end = max(file.header[name]["data_offsets"][1] for name in names)
    for _ in range(200):
        data = bytearray(file.data)
        for at in random.integers(begin, end, 3):
            data[at] ^= int(random.integers(1, 256))
        broken = File(file.bytes())
        broken.data = bytes(data)
        path = save(broken)
        assert reader.checksum(path).is_correct == (broken.data == file.data)
        try:
            source = reader.read(path)
            TokenizerTables(source.vocab_json or b"", source.merges_txt or b"", "damaged")
        except ConvertError:
            pass


def test_other_files_are_not_recognized(tmp_path):
    (tmp_path / "text").write_text("gpt2.format_version")
    for path in (tmp_path, tmp_path / "text", tmp_path / "none"):
        assert not reader.recognizes(path)
