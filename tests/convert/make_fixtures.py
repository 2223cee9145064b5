#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes, with the converter, the files that the C++ tests read: make_fixtures.py DIRECTORY

  tiny/                   a Hugging Face directory with random weights, of extents that fill nothing up
  tiny-{f32,f16,bf16,int8,int4}.safetensors  the same, converted
  tiny-int4-int4.safetensors       with a head of int4 as well
  tiny-int4-f16.safetensors        with embeddings of float16 beside a head of int8
  tiny-{int8,int4}-calibrated.safetensors  calibrated with texts that the model writes
  tiny-mixed.safetensors           some matrices int8 where most are int4
  untied.safetensors      with a head of its own, from untied/
  gpt2-vocabulary.safetensors      the 50257 tokens of GPT-2, with next to no weights
  novella/                the default model as a Hugging Face directory
  novella-{int8,int4}.safetensors  the default model in integers
  domain.txt              the beginning of the held-out text
  novella-{f16,int8,int4}-trimmed.safetensors  the default model with the tokens of domain.txt alone
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from gpt2_convert import cli  # noqa: E402
from gpt2_convert.checkpoint import ModelConfig, expected_shapes  # noqa: E402
from gpt2_convert.safetensors_writer import SafetensorsWriter  # noqa: E402
from gpt2_convert.tokenizer_tables import BYTE_CHARACTERS  # noqa: E402

TINY = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_positions": 24,
    "n_embd": 40,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 72,
    "bos_token_id": 256,
    "eos_token_id": 256,
}


def write_model(directory: Path, config: dict[str, Any], seed: int = 1) -> None:
    """A Hugging Face directory with random weights, without a tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    model = ModelConfig.from_json(config, "config.json")
    shapes = expected_shapes(model, separate_head=not model.tie_word_embeddings)
    random = np.random.default_rng(seed)
    with open(directory / "model.safetensors", "wb") as file:
        writer = SafetensorsWriter(file, [(name, "F32", shape) for name, shape in shapes.items()], {})
        for name, shape in shapes.items():
            values = random.standard_normal(shape) * (1.0 if ".bias" in name else 0.2)
            writer.write(name, (values + ("ln_" in name and ".weight" in name)).astype(np.float32))
        writer.finish()


def write_byte_vocabulary(directory: Path) -> None:
    """Every byte, the end of text, a special token that is no byte spelling, and two merges."""
    tokens = [*BYTE_CHARACTERS, "<|endoftext|>", "<a space>", "th", "the"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (directory / "merges.txt").write_text("#version: 0.2\nt h\nth e\n", encoding="utf-8")


def convert(*arguments: object) -> None:
    if cli.main([*map(str, arguments), "--quiet", "--overwrite"]) != 0:
        sys.exit(1)


def main(directory: Path) -> None:
    write_model(directory / "tiny", TINY)
    write_byte_vocabulary(directory / "tiny")
    for dtype in ("f32", "f16", "bf16", "int8", "int4"):
        convert(directory / "tiny", "-o", directory / f"tiny-{dtype}.safetensors", "--dtype", dtype)
    for name, option in (("int4-int4", "--head-dtype=int4"), ("int4-f16", "--embedding-dtype=f16")):
        out = directory / f"tiny-{name}.safetensors"
        convert(directory / "tiny", "-o", out, "--dtype", "int4", option)
    for dtype in ("int8", "int4"):
        out = directory / f"tiny-{dtype}-calibrated.safetensors"
        convert(directory / "tiny", "-o", out, "--dtype", dtype, "--calibrate", "self")
    out = directory / "tiny-mixed.safetensors"
    convert(directory / "tiny", "-o", out, "--dtype", "int4", "--calibrate", "self", "--bits", 6)
    write_model(directory / "untied", {**TINY, "tie_word_embeddings": False, "activation_function": "relu"})
    write_byte_vocabulary(directory / "untied")
    convert(directory / "untied", "-o", directory / "untied.safetensors", "--dtype", "f32")
    wide = {**TINY, "vocab_size": 50257, "n_embd": 4, "n_layer": 1, "n_inner": 4, "n_head": 1}
    write_model(directory / "gpt2", {**wide, "bos_token_id": 50256, "eos_token_id": 50256})
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(ROOT / "tests" / "data" / "tokenizer" / name, directory / "gpt2" / name)
    convert(directory / "gpt2", "-o", directory / "gpt2-vocabulary.safetensors", "--dtype", "f16")
    novella = ROOT / "models" / "novella-f16.safetensors"
    convert(novella, "--to", "hf", "-o", directory / "novella")
    for dtype in ("int8", "int4"):
        convert(novella, "-o", directory / f"novella-{dtype}.safetensors", "--dtype", dtype)
    domain = directory / "domain.txt"
    domain.write_bytes((ROOT / "tests" / "data" / "heldout.txt").read_bytes()[:60000])
    for dtype in ("f16", "int8", "int4"):
        out = directory / f"novella-{dtype}-trimmed.safetensors"
        convert(novella, "-o", out, "--dtype", dtype, "--vocabulary-from", domain)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
