# SPDX-License-Identifier: MIT
"""Reads the library's own file, to change its type or to write it in another format."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import json_text, safetensors_file
from ..checkpoint import ModelConfig, expected_shapes, is_matrix
from ..errors import ConvertError
from ..messages import quoted
from ..quantize import FORMATS
from ..source_model import SourceModel
from ..targets.packed import FORMAT_VERSION, LAYOUT, NARROW_TYPES, stored_shape, unpack
from ..tensors import Array, TensorSource, from_float32, to_float32
from ..tokenizer_tables import NO_RANK, spell

#: The tables in the order of tokenizer.lengths.
TABLES = (
    "token_ends",
    "token_bytes",
    "is_special",
    "specials",
    "byte_tokens",
    "products",
    "short_tokens",
    "long_tokens",
    "pairs",
    "pair_filter",
)
VERSION_KEY = "gpt2.format_version"
KIND = "converted file"


def recognizes(path: Path) -> bool:
    try:
        return VERSION_KEY in safetensors_file.read(path)[1]
    except ConvertError:
        return False


def read(path: Path) -> SourceModel:
    tensors, metadata = safetensors_file.read(path)
    _require(path, metadata, VERSION_KEY, str(FORMAT_VERSION))
    _require(path, metadata, "gpt2.layout", LAYOUT)
    config_name = f"{path}: gpt2.config"
    values = json_text.parse(metadata.get("gpt2.config", "").encode("utf-8", "surrogatepass"), config_name)
    if not isinstance(values, dict):
        raise ConvertError(f'"{config_name}": expected a JSON object')
    config = ModelConfig.from_json(values, config_name)
    vectors = metadata.get("gpt2.source_vectors", "F32")
    if vectors not in ("F32", *NARROW_TYPES):
        raise ConvertError(
            f'"{path}": "gpt2.source_vectors": expected F32, F16 or BF16, found {quoted(vectors)}'
        )
    shapes = expected_shapes(config, separate_head=not config.tie_word_embeddings)
    vocab_json, merges_txt = read_tokenizer(path, tensors)
    return SourceModel(
        kind=KIND,
        config=values,
        config_name=config_name,
        tensors={name: _unpacked(path, tensors, name, shape, vectors) for name, shape in shapes.items()},
        vocab_json=vocab_json,
        merges_txt=merges_txt,
        files=[path],
        revision=metadata.get("gpt2.source_revision", ""),
        original_ids=metadata.get("gpt2.original_ids", ""),
    )


def _require(path: Path, metadata: dict[str, str], key: str, expected: str) -> None:
    found = metadata.get(key)
    if found != expected:
        raise ConvertError(f'"{path}": "{key}": expected "{expected}", found {json.dumps(found)}')


def _find(path: Path, tensors: dict[str, TensorSource], name: str) -> TensorSource:
    if name not in tensors:
        raise ConvertError(f'"{path}": expected tensor "{name}", found no such tensor')
    return tensors[name]


def _unpacked(
    path: Path, tensors: dict[str, TensorSource], name: str, shape: tuple[int, ...], vectors: str
) -> TensorSource:
    """A tensor as a checkpoint has it. Vectors take the type of the source again: they came from it."""
    tensor = _find(path, tensors, name)
    dtype = matrix_type(tensor) if is_matrix(name) else tensor.dtype
    stored = stored_shape(name, shape, dtype)
    if tensor.shape != stored:
        raise ConvertError(
            f'"{path}": tensor "{name}": expected shape {list(stored)}, found {list(tensor.shape)}'
        )
    narrow = not is_matrix(name) and vectors in NARROW_TYPES

    def load() -> Array:
        if dtype in FORMATS:
            return np.ascontiguousarray(unpack(name, tensor.load(), dtype, shape))
        values = unpack(name, tensor.read(), dtype, shape)
        return from_float32(to_float32(values, "F32"), vectors) if narrow else np.ascontiguousarray(values)

    read_as = vectors if narrow else "F32" if dtype in FORMATS else dtype
    return TensorSource(name, read_as, shape, str(path), load)


def matrix_type(tensor: TensorSource) -> str:
    """The type of a matrix in a file. Bytes are integers with their scales, and their unit tells which."""
    if tensor.dtype == "U8":
        for name, form in FORMATS.items():
            if tensor.shape[-1:] == (form.unit,):
                return name
    return tensor.dtype


def matrix_types(tensors: dict[str, TensorSource]) -> dict[str, str]:
    """The types of a file's matrices of integers, by their names."""
    types = {name: matrix_type(tensor) for name, tensor in tensors.items() if is_matrix(name)}
    return {name: dtype for name, dtype in types.items() if dtype in FORMATS}


def read_tokenizer(path: Path, tensors: dict[str, TensorSource]) -> tuple[bytes, bytes]:
    """vocab.json and merges.txt from the tables."""
    lengths = _find(path, tensors, "tokenizer.lengths").load().tolist()
    tables: dict[str, Array] = {}
    for name, length in zip(TABLES, lengths):
        table = _find(path, tensors, f"tokenizer.{name}").load()
        if length > len(table):
            raise ConvertError(
                f'"{path}": tensor "tokenizer.{name}": expected {length} elements, found {len(table)}'
            )
        tables[name] = table[:length]
    try:
        return _tokenizer_files(tables)
    except (KeyError, IndexError, TypeError, ValueError):  # of UTF-8 as well
        raise ConvertError(f'"{path}": expected tables of a tokenizer, found damaged ones') from None


def _tokenizer_files(tables: dict[str, Array]) -> tuple[bytes, bytes]:
    ends, data = tables["token_ends"].tolist(), tables["token_bytes"].tobytes()
    tokens = [data[begin:end] for begin, end in zip([0, *ends], ends)]
    spellings = [
        token.decode("utf-8", "surrogatepass") if special else spell(token)
        for token, special in zip(tokens, tables["is_special"].tolist())
    ]
    pairs = tables["pairs"].reshape(-1, 3)
    pairs = pairs[pairs[:, 2] != NO_RANK]
    pairs = pairs[np.argsort(pairs[:, 2])].tolist()
    merges = ["#version: 0.2", *(f"{spellings[left]} {spellings[right]}" for left, right, _ in pairs), ""]
    vocabulary = {token: index for index, token in enumerate(spellings)}
    return (
        json.dumps(vocabulary, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        "\n".join(merges).encode("utf-8"),
    )


def self_test(path: Path) -> tuple[int, float]:
    """How many tokens the self-test has, and how far logits that the library computes may be from its own."""
    tensors, _ = safetensors_file.read(path)
    tokens = _find(path, tensors, "self_test.tokens").load().astype(np.int64)
    bound = _find(path, tensors, "self_test.bound").load().astype(np.float64)
    return int((tokens >= 0).sum()), float(bound.reshape(-1)[:1].sum())


@dataclass(frozen=True)
class Checksum:
    """The CRC-32 of a file's data."""

    expected: str  #: in the header
    found: str  #: of the data

    @property
    def is_correct(self) -> bool:
        return self.expected == self.found


def checksum(path: Path) -> Checksum:
    """Reads the whole file."""
    metadata = safetensors_file.read(path)[1]
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        crc = 0
        for chunk in iter(lambda: file.read(1 << 22), b""):
            crc = zlib.crc32(chunk, crc)
    return Checksum(metadata.get("gpt2.crc32", ""), f"{crc:08x}")
