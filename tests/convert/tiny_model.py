# SPDX-License-Identifier: MIT
"""A GPT-2 of a few kilobytes for the tests of readers and writers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gpt2_convert import checkpoint
from gpt2_convert.source_model import SourceModel
from gpt2_convert.tensors import from_float32, of_array
from gpt2_convert.tokenizer_tables import BYTE_CHARACTERS

N_LAYER, N_HEAD, N_EMBD, N_POSITIONS = 2, 2, 8, 6
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the")]
TOKENS = [*BYTE_CHARACTERS, *("".join(pair) for pair in MERGES), "<|endoftext|>"]
VOCAB_SIZE = len(TOKENS)
VOCAB_JSON = json.dumps({token: index for index, token in enumerate(TOKENS)}).encode()
MERGES_TXT = "#version: 0.2\n{}\n".format("\n".join(" ".join(pair) for pair in MERGES)).encode()


def config(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": VOCAB_SIZE,
        "n_positions": N_POSITIONS,
        "n_embd": N_EMBD,
        "n_layer": N_LAYER,
        "n_head": N_HEAD,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "bos_token_id": VOCAB_SIZE - 1,
        "eos_token_id": VOCAB_SIZE - 1,
        **changes,
    }


def arrays(values: dict[str, Any], separate_head: bool = False, seed: int = 1) -> dict[str, np.ndarray]:
    """Random weights by plain name, linear weights [in, out]."""
    random = np.random.default_rng(seed)
    shapes = checkpoint.expected_shapes(
        checkpoint.ModelConfig.from_json(values, "config.json"), separate_head
    )
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def checked(
    values: dict[str, Any],
    weights: dict[str, np.ndarray],
    dtypes: dict[str, str] | None = None,
    files: list[Path] | None = None,
) -> checkpoint.Checkpoint:
    """A model of these weights; dtypes: of single tensors, F32 where absent."""
    sources = {}
    for name, array in weights.items():
        dtype = (dtypes or {}).get(name, "F32")
        kept = array.astype(np.float64) if dtype == "F64" else from_float32(array, dtype)
        sources[name] = of_array(name, kept, "weights", dtype)
    source = SourceModel("test", values, "config.json", sources, VOCAB_JSON, MERGES_TXT, files or [])
    return checkpoint.check(source)
