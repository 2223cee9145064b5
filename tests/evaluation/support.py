# SPDX-License-Identifier: MIT
"""Running gpt2-eval, and the model it runs in numpy."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import measure_quantization as numpy_gpt2
from gpt2_convert import checkpoint
from gpt2_convert.sources import packed

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("GPT2_EVAL", "")
MODEL = ROOT / "models" / "novella-f16.safetensors"
HELDOUT = ROOT / "tests" / "data" / "heldout.txt"
GOLDEN = ROOT / "tests" / "data" / "novella_golden.json"

needs_program = pytest.mark.skipif(not PROGRAM, reason="GPT2_EVAL does not name gpt2-eval")


def run(*arguments: object, status: int = 0, **environment: str) -> str:
    """What the program prints; it must end with that status and say nothing else."""
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


def found(*arguments: object, status: int = 0, **environment: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(run(*arguments, "--json", status=status, **environment))
    return result


def fails(status: int, *arguments: object) -> str:
    """What the program complains of; it must print nothing."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("gpt2-eval: error: ") and done.stderr.count("\n") == 1
    return done.stderr


def load(path: Path) -> numpy_gpt2.Model:
    """A model in float64."""
    return numpy_gpt2.Model(checkpoint.check(packed.read(path)))


class Reference:
    """The first tokens of the held-out text with the start token before them, for models in float64."""

    def __init__(self, n_tokens: int) -> None:
        source = packed.read(MODEL)
        text = HELDOUT.read_text(encoding="utf-8")[: 20 * n_tokens]
        start = json.loads(source.vocab_json)["<|endoftext|>"]
        self.tokens = np.array([start, *numpy_gpt2.encode(text, numpy_gpt2.tokenizer(source))[:n_tokens]])

    def log_probabilities(self, model: numpy_gpt2.Model, window: int, stride: int) -> np.ndarray:
        """[tokens, V] before each token but the first, each in the first window that holds it."""
        rows: list[np.ndarray] = []
        begin = 0
        while len(rows) + 1 < len(self.tokens):
            found = numpy_gpt2.log_softmax(model.logits(self.tokens[begin : begin + window]))
            end = min(begin + window, len(self.tokens) - 1)
            rows += list(found[len(rows) - begin : end - begin])
            begin += stride
        return np.array(rows)
