# SPDX-License-Identifier: MIT
"""gpt2-eval perplexity: the numbers, their independence of how they were reached, and what goes wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import GOLDEN, HELDOUT, MODEL, Reference, fails, found, load, needs_program, run

pytestmark = needs_program


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "seconds"}


def test_the_whole_text_has_the_golden_likelihood() -> None:
    golden = json.loads(GOLDEN.read_text())["heldout_full"]["heldout_fp16"]
    result = found("perplexity", MODEL, HELDOUT, "--weights", "float32")
    assert result["complete"] and result["tokens"] == golden["tokens"]
    assert result["total_nll"] == pytest.approx(golden["nll"], rel=1e-6)
    assert result["perplexity"]["value"] == pytest.approx(golden["ppl"], rel=1e-5)
    assert result["bits_per_byte"]["value"] == pytest.approx(golden["bpb"], rel=1e-6)
    text = HELDOUT.read_bytes()
    assert result["bytes"] == len(text) and result["words"] == len(text.split())
    assert result["word_perplexity"]["value"] == pytest.approx(math.exp(golden["nll"] / len(text.split())))


@pytest.mark.parametrize("window, stride", [(128, 128), (100, 37)])
def test_it_is_what_numpy_finds(window: int, stride: int) -> None:
    reference = Reference(300)
    rows = reference.log_probabilities(load(MODEL), window, stride)
    nll = -rows[np.arange(300), reference.tokens[1:]]
    options = ("--limit", 300, "--window", window, "--stride", stride, "--weights", "f32")
    result = found("perplexity", MODEL, HELDOUT, *options)
    assert result["tokens"] == 300
    assert result["nll"]["value"] == pytest.approx(nll.mean(), rel=1e-6)
    assert result["nll"]["standard_error"] == pytest.approx(nll.std(ddof=1) / math.sqrt(300), rel=1e-5)
    assert result["perplexity"]["value"] == pytest.approx(math.exp(nll.mean()), rel=1e-6)


def test_threads_change_nothing() -> None:
    options = ("--limit", 1500, "--stride", 200)
    one, two = (found("perplexity", MODEL, HELDOUT, *options, "--threads", n) for n in (1, 2))
    assert numbers(one) == numbers(two)


@pytest.mark.parametrize("options", [(), ("--window", 100, "--stride", 30), ("--no-start-token",)])
def test_resumed_equals_uninterrupted(options: tuple[object, ...], tmp_path: Path) -> None:
    arguments = ("perplexity", MODEL, HELDOUT, "--limit", 1600, *options)
    whole = found(*arguments)
    kept = ("--checkpoint", tmp_path / "run")
    pieces = 0
    result = found(*arguments, *kept, "--stop-after", 1, status=4)
    while not result["complete"]:
        assert pieces < 100
        pieces += 1
        status = 0 if result["tokens"] == whole["tokens"] else 4
        result = found(*arguments, *kept, "--stop-after", 1, status=status)
    assert pieces > 1 and numbers(result) == numbers(whole)
    assert numbers(found(*arguments, *kept)) == numbers(whole)


def test_a_checkpoint_is_for_one_run(tmp_path: Path) -> None:
    file = tmp_path / "run"
    run("perplexity", MODEL, HELDOUT, "--limit", 50, "--checkpoint", file)
    arguments = ("perplexity", MODEL, HELDOUT, "--checkpoint", file)
    message = fails(1, *arguments, "--limit", 60)
    assert f'"{file}": made with another limit: expected 60, found 50' in message
    assert "another weights" in fails(1, *arguments, "--limit", 50, "--weights", "int8")
    other = tmp_path / "other.txt"
    other.write_text("Another text.")
    assert "another text" in fails(1, "perplexity", MODEL, other, "--checkpoint", file, "--limit", 50)
    file.write_text("nonsense")
    assert f'"{file}": expected a checkpoint of gpt2-eval' in fails(1, *arguments)


def test_formats_may_be_named_behind_the_model() -> None:
    one = found("perplexity", f"{MODEL}:int4/int8", HELDOUT, "--limit", 200)
    options = ("--weights", "int4", "--head-weights", "int8")
    assert numbers(one) == numbers(found("perplexity", MODEL, HELDOUT, "--limit", 200, *options))
    assert one["model"] == f"{MODEL}:int4/int8"


def test_text_output() -> None:
    out = run("perplexity", MODEL, HELDOUT, "--limit", 100)
    assert "100 tokens scored in 1 windows" in out
    assert "per token" in out and "per word" in out and "per byte" in out and "±" in out


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "expected at least one token to score" in fails(1, "perplexity", MODEL, empty)
    assert "missing.txt" in fails(1, "perplexity", MODEL, tmp_path / "missing.txt")
    assert "no such file" in fails(2, "perplexity", f"{MODEL}:int9", HELDOUT)
    assert "expected one of both" in fails(2, "perplexity", f"{MODEL}:int8", HELDOUT, "--weights", "int8")
    assert "stride: expected at most 10" in fails(
        2, "perplexity", MODEL, HELDOUT, "--window", 10, "--stride", 11
    )
    assert "window: expected at most" in fails(2, "perplexity", MODEL, HELDOUT, "--window", 100000)
    assert "--limit is -1" in fails(2, "perplexity", MODEL, HELDOUT, "--limit", -1)
    assert "--threads is 0" in fails(2, "perplexity", MODEL, HELDOUT, "--threads", 0)
    assert "--stop-after" in fails(2, "perplexity", MODEL, HELDOUT, "--stop-after", 1)
    assert "expected a command" in fails(2)
