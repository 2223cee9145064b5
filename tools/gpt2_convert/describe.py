# SPDX-License-Identifier: MIT
"""What --inspect prints."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Iterator

from . import safetensors_file
from .checkpoint import Checkpoint
from .messages import quoted
from .progress import size_text
from .quantize import FORMATS
from .ranges import ranges
from .sources import packed
from .tensors import ELEMENT_TYPES, TensorSource
from .tokenizer_tables import TokenizerTables

_INDENT = "  "


def describe(
    model: Checkpoint, tokenizer: TokenizerTables | None, checksum: packed.Checksum | None = None
) -> str:
    """A page about a model and the source it is in. checksum: of a converted file."""
    source = model.source
    lines = [source.kind]
    fields = {"revision": quoted(source.revision)} if source.revision else {}
    fields["files"] = ", ".join(
        f"{path.name} ({size_text(os.path.getsize(path))})" for path in source.files[:4]
    ) + (f" and {len(source.files) - 4} more" if len(source.files) > 4 else "")
    stored = model.tensors
    if checksum is not None:
        fields.update(_packed_fields(source.files[0], checksum))
        stored = safetensors_file.read(source.files[0])[0]
    fields["tokenizer"] = _tokenizer_text(tokenizer)
    if source.original_ids:
        fields["original ids"] = quoted(source.original_ids)
    lines += _aligned(fields)
    lines += ["", "configuration", *_aligned(_shown(model.config.to_json()))]
    parameters = sum(math.prod(tensor.shape) for tensor in model.tensors.values())
    if checksum is None:
        kind, types = "Hugging Face's names and shapes", {}
    else:
        kind, types = "as they are in the file", packed.matrix_types(stored)
    size = sum(_bytes(stored[name]) for name in model.tensors if name in stored)
    bits = f" in {8 * size / parameters:.2f} bits each" if types else ""
    lines += ["", f"{parameters:,} parameters{bits}; tensors, {kind}", *_tensor_lines(stored, types)]
    return "\n".join(lines)


def _bytes(tensor: TensorSource) -> int:
    return math.prod(tensor.shape) * ELEMENT_TYPES[tensor.dtype].itemsize


def _shown(config: dict[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in config.items()}


def _aligned(fields: dict[str, str]) -> list[str]:
    width = max(map(len, fields))
    return [f"{_INDENT}{key:<{width}}  {value}" for key, value in fields.items()]


def _tokenizer_text(tokenizer: TokenizerTables | None) -> str:
    if tokenizer is None:
        return "none (--tokenizer tells where one is)"
    special = sum(tokenizer.is_special)
    return f"{len(tokenizer):,} tokens, {special:,} of them special, {len(tokenizer.merges):,} merges"


def _packed_fields(path: Path, checksum: packed.Checksum) -> dict[str, str]:
    """What only a converted file has."""
    metadata = safetensors_file.read(path)[1]
    tokens, bound = packed.self_test(path)
    state = "correct" if checksum.is_correct else f"WRONG: the data have {quoted(checksum.found)}"
    return {
        "format version": metadata[packed.VERSION_KEY],
        "layout": quoted(metadata["gpt2.layout"]),
        "converted from": quoted(metadata.get("gpt2.source", "")),
        "source SHA-256": quoted(metadata.get("gpt2.source_sha256", "")),
        "converted by": quoted(metadata.get("gpt2.converter", "")),
        "checksum": f"{quoted(checksum.expected)}, {state}",
        "self-test": f"logits after {tokens} tokens, bound {bound:.2g}",
    }


def _tensor_lines(tensors: dict[str, TensorSource], types: dict[str, str]) -> Iterator[str]:
    """One line for each kind of tensor that layers have alike. types: of integers, INT8 or INT4, by name."""
    kinds: dict[tuple[str, str, str, tuple[int, ...]], list[int]] = {}
    for name, tensor in tensors.items():
        stem, layer, rest = _split(name)
        dtype = types.get(name, tensor.dtype)
        kinds.setdefault((stem, rest, dtype, tensor.shape), []).append(layer)
    names = [f"{stem}{_ranges(layers)}{rest}" for (stem, rest, _, _), layers in kinds.items()]
    width = max(map(len, names), default=0)
    for name, (_, _, dtype, shape) in zip(names, kinds):
        bits = f"  {FORMATS[dtype].bits:g} bits a weight" if dtype in FORMATS else ""
        yield f"{_INDENT}{name:<{width}}  {dtype:<4}  {list(shape)}{bits}"


def _split(name: str) -> tuple[str, int, str]:
    """The number of the layer in a name, -1 where there is none, and what stands around it."""
    parts = name.split(".", 2)
    if len(parts) == 3 and parts[0] == "h" and parts[1].isdigit():
        return "h.", int(parts[1]), f".{parts[2]}"
    return name, -1, ""


def _ranges(layers: list[int]) -> str:
    """3 or 0-11 or 0,2-5; empty where there is none."""
    return "" if min(layers) < 0 else ranges(sorted(layers))
