# SPDX-License-Identifier: MIT
"""What bench/compare/quality measures on: a text, one to calibrate with, and the model's outlier twin."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models import CONVERTER, Model, gpt2_file
from workplace import REPOSITORY, CompareError, hash_of, make, say

# Found by way of models, which makes the converter's modules known.
from gpt2_convert import calibration_text, checkpoint
from gpt2_convert.sources import packed
from gpt2_convert.targets import huggingface
from gpt2_convert.text_tokens import encode
from gpt2_convert.tokenizer_tables import TokenizerTables

MEASUREMENTS = REPOSITORY / "tools" / "measure_quantization.py"


def measurements() -> Any:
    """tools/measure_quantization.py, which has no types: it makes the twin, and the text that the converter
    calibrates with."""
    return importlib.import_module("measure_quantization")


def float32_file(model: Model) -> Path:
    return gpt2_file(model, "f32", ["--dtype", "f32"])


def outlier_twin(model: Model) -> Model:
    """The same function in exact arithmetic, with channels of the layer norms that are far larger than the
    others (docs/quantization.md)."""
    folder = model.folder / "twin"
    identity = f"twin of {model.identity}, {hash_of(MEASUREMENTS)}"

    def body() -> None:
        say("writing the outlier twin")
        twin = measurements().outlier_source(packed.read(float32_file(model)))
        huggingface.write_directory(folder / "hf", checkpoint.check(twin), "F32", overwrite=True, quiet=True)

    return replace(model, directory=make(folder / "hf", identity, body), folder=folder, identity=identity)


def write_tokens(path: Path, tokens: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(tokens, "<i4").tofile(path)


def text_tokens(model: Model, text: Path, limit: int) -> list[int]:
    """Of a text, after the token that texts begin with. limit: how many are scored at most; 0: all."""
    source = packed.read(float32_file(model))
    assert source.vocab_json is not None and source.merges_txt is not None  # such a file has a tokenizer
    config = checkpoint.check(source).config
    start = config.eos_token_id if config.bos_token_id is None else config.bos_token_id
    if start is None:
        raise CompareError(f"{model.name}: expected a token that texts begin with (bos_token_id), found none")
    try:
        data = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CompareError(f'"{text}": expected a text in UTF-8, found {error}') from error
    tokens = [start, *encode(data, TokenizerTables(source.vocab_json, source.merges_txt, "tokenizer"))]
    if len(tokens) < 2:
        raise CompareError(f'"{text}": expected a text of at least one token, found none')
    return tokens[: limit + 1] if limit else tokens


def own_tokens(model: Model) -> Path:
    """A file of the tokens that `--calibrate self` draws, in windows of own_length()."""
    path = model.folder / "own-tokens"

    def body() -> None:
        say("letting the model write the text that llama.cpp's importance matrices come from")
        source = packed.read(float32_file(model))
        write_tokens(path, measurements().own_texts(source, calibration_text.TOKENS).reshape(-1))

    return make(path, f"{model.identity} {hash_of(CONVERTER.parent / 'gpt2_convert')}", body)


def own_length(model: Model) -> int:
    return min(int(model.config["n_positions"]), calibration_text.OWN_LENGTH)
