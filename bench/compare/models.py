# SPDX-License-Identifier: MIT
"""The same weights in the file format of every engine."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_graph import write_graph
from safetensors_header import read_tensors
from workplace import HERE, REPOSITORY, WORK, CompareError, execute, hash_of, make, say

sys.path.insert(0, str(REPOSITORY / "tools"))
from gpt2_convert.tokenizer_tables import spell  # noqa: E402

CONVERTER = REPOSITORY / "tools" / "convert_weights.py"
SEED = "4"


@dataclass(frozen=True)
class Model:
    """A Hugging Face directory with float32 weights, and the folder for what is made of it."""

    name: str
    directory: Path
    folder: Path
    identity: str  #: changes with the weights

    @property
    def config(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.directory / "config.json").read_text())
        return result


def convert(source: Path, out: Path, arguments: list[str], recipe: str) -> Path:
    """With tools/convert_weights.py."""
    recipe = " ".join([recipe, *arguments, hash_of(REPOSITORY / "tools" / "gpt2_convert")])

    def body() -> None:
        say(f"writing {out.name}")
        command: list[str | Path] = [
            sys.executable,
            CONVERTER,
            source,
            "-o",
            out,
            *arguments,
            "--overwrite",
            "--quiet",
        ]
        execute(command, "convert")

    return make(out, recipe, body)


def write_vocabulary(folder: Path, size: int) -> None:
    """A tokenizer with a token for each id, like GPT-2's: the bytes, then a merge each, then <|endoftext|>.
    It takes part in the cold start."""
    singles = [bytes([byte]) for byte in range(256)]
    pairs = [(a, b) for a in singles for b in singles][: size - 257]
    tokens = [spell(token) for token in singles] + [spell(a + b) for a, b in pairs] + ["<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    merges = "".join(f"{spell(a)} {spell(b)}\n" for a, b in pairs)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges)


def random_model(size: str, programs: Path) -> Model:
    folder = WORK / "models" / size
    maker = programs / "tools" / "make-random-model"
    recipe = hash_of(REPOSITORY / "tools" / "random_model.hpp", HERE / "models.py") + SEED

    def body() -> None:
        say(f"writing a random model of {size}")
        command: list[str | Path] = [
            maker,
            folder / "hf",
            "--size",
            size,
            "--dtype",
            "f32",
            "--seed",
            SEED,
            "--quiet",
        ]
        execute(command, "random-model")
        vocab_size = json.loads((folder / "hf" / "config.json").read_text())["vocab_size"]
        write_vocabulary(folder / "hf", vocab_size)

    return Model(f"{size}, random weights", make(folder / "hf", recipe, body), folder, recipe)


def given_model(source: Path) -> Model:
    """Any source that the converter reads, as float32."""
    if not source.exists():
        raise CompareError(f'"{source}": expected a model, found nothing')
    path = source.resolve()
    folder = WORK / "models" / path.name
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    identity = " ".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    directory = convert(path, folder / "hf", ["--to", "hf", "--dtype", "f32"], identity)
    return Model(path.name, directory, folder, identity)


def gpt2_file(model: Model, name: str, arguments: list[str]) -> Path:
    return convert(model.directory, model.folder / f"gpt2-{name}.safetensors", arguments, model.identity)


def gguf_file(model: Model, kind: str, quantizer: list[str], arguments: list[str] | None = None) -> Path:
    """F32 and F16 come from the converter, the rest from llama.cpp's own quantiser, of the F32 file.
    arguments: how, unless kind says it all."""
    out = model.folder / f"{kind.lower().replace(', ', '-').replace(' ', '-')}.gguf"
    if kind in ("F32", "F16"):
        return convert(model.directory, out, ["--to", "gguf", "--dtype", kind.lower()], model.identity)
    source = gguf_file(model, "F32", quantizer)
    command = [*quantizer, *(arguments or ["--quantize", kind.lower()])]

    def body() -> None:
        say(f"writing {out.name}")
        execute([*command, "--model", source, "--out", out], "quantize")

    return make(out, f"{model.identity} {' '.join(command)}", body)


def onnx_file(model: Model) -> Path:
    path = model.directory / "model.onnx"
    config = model.config

    def body() -> None:
        tensors = read_tensors(model.directory / "model.safetensors")
        write_graph(path, tensors, config["n_layer"], config["n_head"], config["layer_norm_epsilon"])

    return make(path, model.identity + hash_of(HERE / "onnx_graph.py"), body)
