# SPDX-License-Identifier: MIT
"""Checkpoints of llm.c: the .bin that its train_gpt2 and train_gpt2.py write.

Facts from https://github.com/karpathy/llm.c, train_gpt2.cu (gpt2_write_to_checkpoint), train_gpt2.py
(write_model) and dev/eval/export_hf.py: a header of 256 32-bit integers, then the parameters, all layers of
one kind together. Linear weights are [out, in]. Version 3 holds float32, version 5 bfloat16. The vocabulary
is padded to a multiple of 128 rows. GELU is the form with tanh, the layer norms' epsilon 1e-5.
"""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path
from typing import Iterator

import numpy as np

from ..errors import ConvertError
from ..file_access import file_size, read_elements, read_span
from ..source_model import SourceModel
from ..tensors import NUMPY_TYPES, Array, TensorSource

MAGIC = 20240326
HEADER_SIZE = 256 * 4
VERSIONS = {3: "F32", 5: "BF16"}
FIELDS = ("max_seq_len", "vocab_size", "num_layers", "num_heads", "channels", "padded_vocab_size")


def recognizes(path: Path) -> bool:
    try:
        return read_span(path, 0, 4) == struct.pack("<i", MAGIC)
    except ConvertError:
        return False


def read(path: Path, *, vocabulary: str = "trim") -> SourceModel:
    """Reads a checkpoint. vocabulary: "trim" drops the rows that belong to no token, "keep" keeps them."""
    sizes, dtype = _header(path)
    tensors: dict[str, TensorSource] = {}
    offset = HEADER_SIZE
    for name, shape in _layout(sizes):
        load = partial(_load, path, NUMPY_TYPES[dtype], offset, shape)
        tensors[name] = TensorSource(name, dtype, shape, str(path), load)
        offset += math.prod(shape) * NUMPY_TYPES[dtype].itemsize
    size = file_size(path)
    if size != offset:
        raise ConvertError(
            f'"{path}": expected {offset} bytes, as its header demands for {dtype}, found {size}'
        )
    for name in tensors:
        if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            tensors[name] = tensors[name].transposed()
    rows = sizes["padded_vocab_size" if vocabulary == "keep" else "vocab_size"]
    tensors["wte.weight"] = tensors["wte.weight"].first_rows(rows)
    config = {
        "model_type": "gpt2",
        "vocab_size": rows,
        "n_positions": sizes["max_seq_len"],
        "n_embd": sizes["channels"],
        "n_layer": sizes["num_layers"],
        "n_head": sizes["num_heads"],
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
    }
    return SourceModel("llm.c checkpoint", config, f"{path}: header", tensors, None, None, [path])


def _header(path: Path) -> tuple[dict[str, int], str]:
    """The sizes, positive and no larger than the file can hold, and the element type."""
    magic, version, *values = struct.unpack("<8i", read_span(path, 0, HEADER_SIZE)[:32])
    if magic != MAGIC:
        raise ConvertError(f'"{path}": expected the magic number {MAGIC} of llm.c, found {magic}')
    if version not in VERSIONS:
        raise ConvertError(
            f'"{path}": expected version 3 (float32) or 5 (bfloat16) of llm.c\'s format, found {version} '
            "(a current train_gpt2.py writes these)"
        )
    sizes = dict(zip(FIELDS, values))
    for field, value in sizes.items():
        # Every size is the extent of some tensor, or, for heads, divides one.
        if not 1 <= value <= file_size(path):
            raise ConvertError(f'"{path}": {field}: expected a positive size within the file, found {value}')
    if sizes["padded_vocab_size"] < sizes["vocab_size"]:
        raise ConvertError(
            f'"{path}": padded_vocab_size: expected at least vocab_size, {sizes["vocab_size"]}, '
            f'found {sizes["padded_vocab_size"]}'
        )
    if sizes["channels"] % sizes["num_heads"] != 0:
        raise ConvertError(
            f'"{path}": num_heads: expected a divisor of channels, {sizes["channels"]}, '
            f'found {sizes["num_heads"]}'
        )
    return sizes, VERSIONS[version]


def _layout(sizes: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the file."""
    c = sizes["channels"]
    yield "wte.weight", (sizes["padded_vocab_size"], c)
    yield "wpe.weight", (sizes["max_seq_len"], c)
    kinds: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (c,),
        "ln_1.bias": (c,),
        "attn.c_attn.weight": (3 * c, c),
        "attn.c_attn.bias": (3 * c,),
        "attn.c_proj.weight": (c, c),
        "attn.c_proj.bias": (c,),
        "ln_2.weight": (c,),
        "ln_2.bias": (c,),
        "mlp.c_fc.weight": (4 * c, c),
        "mlp.c_fc.bias": (4 * c,),
        "mlp.c_proj.weight": (c, 4 * c),
        "mlp.c_proj.bias": (c,),
    }
    for kind, shape in kinds.items():
        for layer in range(sizes["num_layers"]):
            yield f"h.{layer}.{kind}", shape
    yield "ln_f.weight", (c,)
    yield "ln_f.bias", (c,)


def _load(path: Path, dtype: np.dtype[np.generic], offset: int, shape: tuple[int, ...]) -> Array:
    return read_elements(path, offset, math.prod(shape), dtype).reshape(shape)
