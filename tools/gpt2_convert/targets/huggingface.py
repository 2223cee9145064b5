# SPDX-License-Identifier: MIT
"""Writes a directory that Hugging Face's transformers load: AutoModelForCausalLM.from_pretrained(DIRECTORY).

Names are those of the file in openai-community/gpt2, without the prefix "transformer.". A model with a head
of its own must have the prefix: transformers 4 takes a file without it for one of the model without head, and
refuses a head in there (modeling_utils.py, "The state dictionary of the model ... is corrupted").
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..atomic import atomic_directory, create_file
from ..checkpoint import Checkpoint
from ..progress import Progress
from ..safetensors_writer import SafetensorsWriter
from ..tensors import ELEMENT_TYPES

WEIGHTS = "model.safetensors"
TORCH_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

#: The keys of transformers' GPT2Config that do not shape the model, with their defaults.
DEFAULTS: dict[str, Any] = {
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "reorder_and_upcast_attn": False,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "use_cache": True,
}


def write_directory(
    out: Path, model: Checkpoint, dtype: str | None = None, *, overwrite: bool = False, quiet: bool = False
) -> None:
    """Writes a model, one tensor after the other. dtype: of all weights; None: each keeps its own."""
    entries = _entries(model, dtype)
    texts = {
        "config.json": _json_text(_config(model, dtype)),
        "generation_config.json": _json_text(_generation_config(model)),
        "vocab.json": model.source.vocab_json,
        "merges.txt": model.source.merges_txt,
    }
    names = (WEIGHTS, *texts)
    size = sum(math.prod(shape) * ELEMENT_TYPES[kind].itemsize for _, kind, shape in entries.values())
    progress = Progress(out.name, size, quiet=quiet)
    with atomic_directory(out, overwrite=overwrite, replaces=names, expected_size=size) as directory:
        for name, text in texts.items():
            if text is not None:
                with create_file(directory / name, out / name) as file:
                    file.write(text)
        with create_file(directory / WEIGHTS, out / WEIGHTS) as file:
            writer = SafetensorsWriter(file, list(entries.values()), {"format": "pt"})
            for name, (written_name, kind, _) in entries.items():
                writer.write(written_name, model.tensors[name].read_as(kind))
                progress.update(file.tell() - writer.data_start)
            writer.finish()
    progress.finish()


def _entries(model: Checkpoint, dtype: str | None) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """What is written for each tensor, in the order of safetensors itself, which aligns the elements."""
    prefix = "transformer." if model.has_separate_head else ""
    entries = {
        name: (name if name == "lm_head.weight" else prefix + name, dtype or tensor.dtype, tensor.shape)
        for name, tensor in model.tensors.items()
    }
    return dict(sorted(entries.items(), key=lambda item: (-ELEMENT_TYPES[item[1][1]].itemsize, item[1][0])))


def _config(model: Checkpoint, dtype: str | None) -> dict[str, Any]:
    """All keys of a GPT2Config: those that shape the model as they were checked, others as found.

    original_ids is this program's own; transformers keeps keys that it does not know.
    """
    return {
        **DEFAULTS,
        **model.source.config,
        **model.config.to_json(),
        **({"original_ids": model.source.original_ids} if model.source.original_ids else {}),
        "n_ctx": model.config.n_positions,
        "architectures": ["GPT2LMHeadModel"],
        "torch_dtype": TORCH_TYPES[dtype or model.tensors["wte.weight"].dtype],
    }


def _generation_config(model: Checkpoint) -> dict[str, Any]:
    return {
        "_from_model_config": True,
        "bos_token_id": model.config.bos_token_id,
        "eos_token_id": model.config.eos_token_id,
    }


def _json_text(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode("ascii")
