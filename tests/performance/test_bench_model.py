# SPDX-License-Identifier: MIT
"""bench-model does what its help says. (What it measures is not checked: tests do not depend on time.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from performance import cli
from performance.results import read_results

PROGRAM = os.environ.get("GPT2_BENCH_MODEL", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="GPT2_BENCH_MODEL does not name bench-model")

SHORT = "--size novella --prompts 8 --depths 0,16 --batches 2,3 --busy 1 --rounds 2 --seconds 0.001"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [PROGRAM, *SHORT.split(), "--python", sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results")
    done = run(
        "--formats",
        "f16,f32",
        "--json",
        f"{path}/model-novella.json",
        "--markdown",
        f"{path}/model-novella.md",
    )
    assert done.returncode == 0, done.stderr
    assert "round 2 of 2" in done.stderr
    assert "prefill/8" in done.stdout
    return path


@pytest.fixture(scope="module")
def found(directory: Path) -> dict[tuple[str, str], dict[str, Any]]:
    data = json.loads((directory / "model-novella.json").read_text())
    assert data["skipped"] == []
    return {(entry["format"], entry["case"]): entry for entry in data["results"]}


def test_every_case_is_there(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    cases = ["prefill/8", "decode/0", "decode/16", "batch/2", "batch/3", "busy/1", "generate/13+87"]
    cases += ["cold-start", "memory/13+87"] if sys.platform == "linux" else []
    assert list(found) == [(name, case) for name in ("f32", "f16") for case in cases]
    for entry in found.values():
        assert 0 < entry["min"] <= entry["median"] <= entry["max"]
        assert len(entry["rounds"]) == 2


def test_limits(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    for (_, case), entry in found.items():
        kind = case.split("/")[0]
        assert ("limit" in entry) == (kind in ("prefill", "decode", "batch"))
        if kind == "decode":
            assert entry["bound"] == "bandwidth" and entry["bandwidth"] > 0
        if kind == "prefill":
            assert entry["bound"] == "fma" and entry["fma"] > 0
        if "limit" in entry:
            shares = [value / limit for value, limit in zip(entry["rounds"], entry["limit_rounds"])]
            assert entry["share"]["median"] == pytest.approx(sum(shares) / 2)
    assert found["f32", "decode/0"]["weight_bytes"] == 2 * found["f16", "decode/0"]["weight_bytes"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_more_than_the_file(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    entry = found["f16", "memory/13+87"]
    assert 7 < entry["file"] < 30  # 7 million weights, and the tokenizer
    assert 0 < entry["anonymous"] < entry["median"]


def test_the_report_understands_it(directory: Path) -> None:
    assert {r.kind for r in read_results(directory / "model-novella.json")} >= {"prefill", "decode", "busy"}
    assert cli.main([str(directory), "--size", "novella"]) == 0
    assert (directory / "decode-by-depth.svg").exists()
    assert "| decode/16 (tok/s) |" in (directory / "model-novella.md").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--formats", "q8"], "expected f32, f16, "),
        (["--formats", "file"], "expected --model"),
        (["--size", "5M"], "expected 124M, 355M, 774M, 1558M, novella, tiny; found"),
        (["--cases", "decode/1"], "prefill/8 decode/0 decode/16 batch/2"),
        (["--kv-dtype", "f8"], "expected auto, f32, f16; found"),
        (["--prompts", "0"], "expected a number from 1"),
        (["--rounds", "many"], "expected a number from 1"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_options_that_are_not_understood(arguments: list[str], message: str) -> None:
    done = run("--cases", "decode/0", *arguments) if "--cases" not in arguments else run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr + done.stdout


def test_a_case_that_does_not_fit_is_left_out_and_said_so() -> None:
    done = run("--cases", "prefill", "--prompts", "8,600", "--formats", "f16")
    assert done.returncode == 0
    assert "prefill/600 is left out: needs 600 positions, the model has 512" in done.stderr
