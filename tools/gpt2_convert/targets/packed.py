# SPDX-License-Identifier: MIT
"""Writes the library's own file. The format is specified in docs/model-format.md."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Callable, Sequence

import numpy as np

from .. import __version__, forward
from ..calibrate import Calibration
from ..checkpoint import Checkpoint, ModelConfig, is_embedding, is_matrix
from ..errors import ConvertError
from ..matrix_types import MatrixTypes
from ..panels import PAIRED_ORDER, PANEL_WIDTH, panels, round_up
from ..quantize import FORMATS, Bytes, Quantized, dequantize, quantize
from ..safetensors_writer import SafetensorsWriter
from ..tensors import ELEMENT_TYPES, Array, Floats, Stored, Weights, to_float32
from ..tokenizer_tables import TokenizerTables

FORMAT_VERSION = 1
LAYOUT = "panels-32"
ALIGNMENT = 64  #: bytes, of every tensor in the file
SELF_TEST_TOKENS = 8
NARROW_TYPES = ("F16", "BF16")  #: of a source's vectors, which are F32 in the file


def padded(array: Array, multiple: int) -> Array:
    """The last axis filled up with zeros to a multiple."""
    missing = round_up(array.shape[-1], multiple) - array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing else array


def element_type(dtype: str) -> str:
    """Of the elements in the file: those of integers are bytes that hold scales too."""
    return "U8" if dtype in FORMATS else dtype


def stored_shape(name: str, shape: tuple[int, ...], dtype: str) -> tuple[int, ...]:
    """The shape in the file of a tensor of this shape in a checkpoint, and of this type."""
    if is_matrix(name):
        outputs, inputs = shape if is_embedding(name) else shape[::-1]
        if dtype in FORMATS:
            return FORMATS[dtype].shape(inputs, outputs)
        return (panels(outputs), inputs, PANEL_WIDTH)
    if name.endswith((".c_attn.bias", ".c_proj.bias", ".c_fc.bias")):
        return (round_up(shape[0], PANEL_WIDTH),)
    return (*shape[:-1], round_up(shape[-1], ALIGNMENT // 4))


def pack(name: str, values: Array, dtype: str) -> Array:
    """A tensor of a checkpoint as the file has it, but for integers, which quantize() packs."""
    shape = stored_shape(name, values.shape, dtype)
    if not is_matrix(name):
        return padded(values, shape[-1])
    by_input = values.T if is_embedding(name) else values  # [in, out]
    packed = np.zeros(shape, values.dtype)
    inputs, outputs = by_input.shape
    whole = outputs // PANEL_WIDTH  # panels without padding
    by_panel = by_input[:, : whole * PANEL_WIDTH].reshape(inputs, whole, PANEL_WIDTH)  # not yet a copy
    packed[:whole] = by_panel.transpose(1, 0, 2)
    packed[whole:, :, : outputs % PANEL_WIDTH] = by_input[:, whole * PANEL_WIDTH :]
    return packed[:, :, PAIRED_ORDER] if dtype == "BF16" else packed


def unpack(name: str, stored: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    """The inverse of pack(); integers become the float32 that they stand for."""
    if not is_matrix(name):
        return stored[..., : shape[-1]]
    if dtype in FORMATS:
        inputs, outputs = shape[::-1] if is_embedding(name) else shape
        return dequantize(stored.view(np.uint8), dtype, inputs, outputs, by_output=is_embedding(name))
    packed = stored[:, :, np.argsort(PAIRED_ORDER)] if dtype == "BF16" else stored
    if is_embedding(name):
        return packed.transpose(0, 2, 1).reshape(-1, shape[1])[: shape[0]]
    return packed.transpose(1, 0, 2).reshape(shape[0], -1)[:, : shape[1]]


def self_test_tokens(config: ModelConfig) -> list[int]:
    """Ids that are spread over the vocabulary."""
    count = min(SELF_TEST_TOKENS, config.n_positions)
    return [(i * 7919 + 13) % config.vocab_size for i in range(count)]


def tokenizer_tensors(tokenizer: TokenizerTables) -> dict[str, Array]:
    """The tokenizer's tables, padded, and how long each is without padding."""
    tables = tokenizer.tables()
    lengths = [len(table) for table in tables.values()]
    tensors: dict[str, Array] = {"tokenizer.lengths": padded(np.array(lengths, np.uint32), ALIGNMENT // 4)}
    for name, table in tables.items():
        tensors[f"tokenizer.{name}"] = padded(table, ALIGNMENT // table.itemsize)
    return tensors


@dataclass
class Summary:
    """What was written."""

    size: int  #: of the file, in bytes
    bound: float  #: of the self-test
    crc32: str


def file_size(checkpoint: Checkpoint, types: MatrixTypes) -> int:
    """About how many bytes the file will have: to see in time whether the disk has them."""
    size = 16 << 20  # header, tokenizer, self-test
    for name, tensor in types.prepare(checkpoint).tensors.items():
        dtype = types.of_tensor(name)
        elements = math.prod(stored_shape(name, tensor.shape, dtype))
        size += elements * ELEMENT_TYPES[element_type(dtype)].itemsize
    return size


def source_hash(files: Sequence[Path], progress: Callable[[int], None] = lambda done: None) -> str:
    """SHA-256 over files, in the order of their names. progress: told how many bytes are done."""
    digest, done = hashlib.sha256(), 0
    for path in sorted(files, key=lambda path: path.name):
        with open(path, "rb") as file:
            for chunk in iter(lambda: file.read(1 << 22), b""):
                digest.update(chunk)
                done += len(chunk)
                progress(done)
    return digest.hexdigest()


def metadata(checkpoint: Checkpoint, sha256: str, calibration: str | None = None) -> dict[str, str]:
    """What the header says about the file, as short strings. calibration: the text, if there was one."""
    vectors = {tensor.dtype for name, tensor in checkpoint.tensors.items() if not is_matrix(name)}
    kind = vectors.pop() if len(vectors) == 1 else "F32"
    return {
        "gpt2.format_version": str(FORMAT_VERSION),
        "gpt2.layout": LAYOUT,
        "gpt2.config": json.dumps(checkpoint.config.to_json(), separators=(",", ":")),
        "gpt2.source": checkpoint.source.kind,
        "gpt2.source_revision": checkpoint.source.revision,
        "gpt2.source_sha256": sha256,
        "gpt2.source_vectors": kind if kind in NARROW_TYPES else "F32",
        "gpt2.converter": f"convert_weights.py {__version__}",
        **({} if calibration is None else {"gpt2.calibration": calibration}),
        **({"gpt2.original_ids": checkpoint.source.original_ids} if checkpoint.source.original_ids else {}),
        "gpt2.crc32": "00000000",
    }


def _self_test_tensors(tokens: list[int], estimate: forward.Estimate) -> dict[str, Array]:
    with np.errstate(over="ignore"):
        logits = estimate.value[0].astype(np.float32)
        limit = np.float32(forward.bound(estimate))
    if not (np.isfinite(logits).all() and np.isfinite(limit)):
        raise ConvertError(
            "the logits of the self-test: expected finite numbers, found numbers that float32 cannot hold "
            "(a model that was trained with an error?)"
        )
    unit = ALIGNMENT // 4
    stored = np.full(unit, -1, np.int32)
    stored[: len(tokens)] = tokens
    return {
        "self_test.tokens": stored,
        "self_test.logits": padded(logits, unit),
        "self_test.bound": padded(np.array([limit]), unit),
    }


class PackedWriter:
    """Writes the whole file, one tensor at a time."""

    def __init__(
        self,
        file: BinaryIO,
        checkpoint: Checkpoint,
        tokenizer: TokenizerTables,
        types: MatrixTypes,
        sha256: str,
        calibrate: Callable[[Checkpoint], Calibration] | None = None,
    ) -> None:
        """types: of the matrices; all else is float32. sha256: source_hash().

        calibrate: of the checkpoint with types prepared; None: matrices are rounded to nearest.
        """
        self._checkpoint = types.prepare(checkpoint)
        self._calibration = calibrate(self._checkpoint) if calibrate else None
        if self._calibration is not None:
            types = replace(types, wider=self._calibration.wider)
        self.types = types
        self._biases: dict[str, Floats] = {}  # that go with calibrated matrices
        self._types = {name: types.of_tensor(name) for name in self._checkpoint.tensors}
        self._tables = tokenizer_tensors(tokenizer)
        self._unwritten = list(self._checkpoint.tensors)
        self._tied: Weights | None = None  # quantised embeddings that are the head too
        self._crc32 = 0
        self._written = 0
        text = self._calibration.text if self._calibration else None
        header = metadata(self._checkpoint, sha256, text)
        self._writer = SafetensorsWriter(file, self._entries(), header, ALIGNMENT)

    @property
    def data_size(self) -> int:
        """Of all tensors, in bytes."""
        return self._writer.size - self._writer.data_start

    def write(self, progress: Callable[[int], None] = lambda done: None) -> Summary:
        """progress: told how many bytes of tensors are done.

        Raises ConvertError for weights that are not finite, or that the type cannot hold.
        """
        self._progress = progress
        tokens = self_test_tokens(self._checkpoint.config)
        estimate = forward.logits(
            self._checkpoint.config, self._checkpoint.has_separate_head, tokens, self._weights
        )
        test = _self_test_tensors(tokens, estimate)
        for name, table in {**self._tables, **test}.items():
            self._put(name, table)
        crc32 = f"{self._crc32:08x}"
        self._writer.set_metadata("gpt2.crc32", crc32)
        self._writer.finish()
        return Summary(self._writer.size, float(test["self_test.bound"][0]), crc32)

    def _entries(self) -> list[tuple[str, str, tuple[int, ...]]]:
        unit = ALIGNMENT // 4
        vocabulary = round_up(self._checkpoint.config.vocab_size, unit)
        integers = {1: "U8", 4: "U32", 8: "U64"}
        return [
            *(
                (name, element_type(self._types[name]), stored_shape(name, t.shape, self._types[name]))
                for name, t in self._checkpoint.tensors.items()
            ),
            *((name, integers[table.itemsize], table.shape) for name, table in self._tables.items()),
            ("self_test.tokens", "I32", (unit,)),
            ("self_test.logits", "F32", (vocabulary,)),
            ("self_test.bound", "F32", (unit,)),
        ]

    def _weights(self, name: str) -> Weights:
        """Hands a tensor to the forward pass. The first time, it is written in passing."""
        dtype = self._types[name]
        if dtype in FORMATS:
            return self._integers(name, dtype)
        weights = (
            self._biases.pop(name) if name in self._biases else self._checkpoint.tensors[name].read_as(dtype)
        )
        if self._is_next(name):
            self._put(name, pack(name, weights, dtype))
            if name == "wte.weight":
                self._begin_calibration(Stored(weights, dtype))
        return Stored(weights, dtype)

    def _integers(self, name: str, dtype: str) -> Weights:
        if self._tied is not None and name == "wte.weight":
            return self._tied
        values = self._checkpoint.tensors[name].read_as("F32", intended=dtype)
        by_input: Floats = (values.T if is_embedding(name) else values).view(np.float32)
        inputs, outputs = by_input.shape
        units = self._rounded(name, by_input, dtype)
        weights = Quantized(units, dtype, inputs, outputs, by_output=is_embedding(name))
        if self._is_next(name):
            self._put(name, units)
        if name == "wte.weight":
            self._begin_calibration(weights)
            if not self._checkpoint.has_separate_head:
                self._tied = weights
        return weights

    def _rounded(self, name: str, by_input: Floats, dtype: str) -> Bytes:
        if self._calibration is not None and not is_embedding(name):
            units, self._biases[name.replace(".weight", ".bias")] = self._calibration.round(
                name, by_input, dtype
            )
            return units
        before = self._written
        return quantize(by_input, dtype, lambda done: self._progress(before + done))

    def _begin_calibration(self, stored: Stored | Quantized) -> None:
        """stored: the embeddings as the file has them."""
        if self._calibration is not None:
            exact = self._checkpoint.tensors["wte.weight"]
            self._calibration.begin(to_float32(exact.read(), exact.dtype), stored.float32())

    def _is_next(self, name: str) -> bool:
        """Whether a tensor is still to be written, and from here on it is not."""
        if not self._unwritten or self._unwritten[0] != name:
            return False
        self._unwritten.pop(0)
        return True

    def _put(self, name: str, array: Array) -> None:
        array = np.ascontiguousarray(array)
        self._crc32 = zlib.crc32(array.reshape(-1).view(np.uint8).data, self._crc32)
        self._writer.write(name, array)
        self._written += array.nbytes
        self._progress(self._written)
