# SPDX-License-Identifier: MIT
"""The same small model in every format, written without the converter's own writers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytorch_writer as by_hand
import tiny_model

Weights = dict[str, np.ndarray]

CONFIG = tiny_model.config()
WEIGHTS = tiny_model.arrays(CONFIG)
LINEAR = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")


def safetensors(path: Path, weights: Weights, dtype: str = "F32") -> Path:
    """dtype: of the numbers that the arrays stand for; BF16 in 16-bit integers."""
    header, end = {}, 0
    for name, array in weights.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in weights.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def state_dict(weights: Weights) -> tuple[bytes, dict[str, bytes]]:
    """The instructions of a pickle that make a dictionary of tensors, and their storages."""
    items, storages = b"", {}
    for i, (name, array) in enumerate(weights.items()):
        strides = [int(step) // 4 for step in np.ascontiguousarray(array).strides]
        view = by_hand.storage(f"k{i}", array.size)
        items += by_hand.value(name) + by_hand.tensor(view, 0, tuple(array.shape), tuple(strides))
        storages[f"k{i}"] = np.ascontiguousarray(array, "<f4").tobytes()
    return by_hand.call(by_hand.name("collections.OrderedDict")) + b"(" + items + b"u", storages


def pytorch(path: Path, weights: Weights, kind: str = "zip") -> Path:
    state, storages = state_dict(weights)
    return by_hand.WRITERS[kind](path, by_hand.program(state), storages)


def tokenizer(directory: Path, names: tuple[str, str] = ("vocab.json", "merges.txt")) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / names[0]).write_bytes(tiny_model.VOCAB_JSON)
    (directory / names[1]).write_bytes(tiny_model.MERGES_TXT)
    return directory


def hugging_face(
    directory: Path,
    weights: Weights = WEIGHTS,
    config: dict[str, Any] = CONFIG,
    write: Callable[[Path, Weights], Path] = safetensors,
    name: str = "model.safetensors",
) -> Path:
    tokenizer(directory)
    (directory / "config.json").write_text(json.dumps(config))
    write(directory / name, weights)
    return directory


def sharded(directory: Path, write: Callable[[Path, Weights], Path], name: str) -> Path:
    """Two files, and an index that tells which tensor is where."""
    names = list(WEIGHTS)
    places: dict[str, str] = {}

    def write_shards(index: Path, weights: Weights) -> Path:
        for number, part in enumerate((names[1::2], names[::2]), 1):
            shard = f"{number}-of-2.{name}"
            write(index.parent / shard, {key: weights[key] for key in part})
            places.update(dict.fromkeys(part, shard))
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return index

    return hugging_face(directory, write=write_shards, name=f"{name}.index.json")


def nanogpt_weights(weights: Weights = WEIGHTS, rows: int = 0, prefix: str = "") -> Weights:
    """As nn.Linear keeps them, with rows of nonsense behind the vocabulary."""
    result = {}
    for name, array in weights.items():
        result[f"{prefix}transformer.{name}"] = array.T if name.endswith(LINEAR) else array
    wte = weights["wte.weight"]
    wte = np.concatenate([wte, np.full((rows, wte.shape[1]), 9, np.float32)])
    result[f"{prefix}transformer.wte.weight"] = result[f"{prefix}lm_head.weight"] = wte
    return result


def nanogpt(path: Path, rows: int = 0, prefix: str = "_orig_mod.", **changes: Any) -> Path:
    """train.py's ckpt.pt of a model with biases."""
    arguments = {
        "n_layer": CONFIG["n_layer"],
        "n_head": CONFIG["n_head"],
        "n_embd": CONFIG["n_embd"],
        "block_size": CONFIG["n_positions"],
        "vocab_size": CONFIG["vocab_size"] + rows,
        "bias": True,
        "dropout": 0.1,
        **changes,
    }
    state, storages = state_dict(nanogpt_weights(rows=rows, prefix=prefix))
    entries = by_hand.value("model") + state + by_hand.value("model_args") + by_hand.value(arguments)
    return by_hand.write_zip(path, by_hand.program(b"}(" + entries + b"u"), storages)
