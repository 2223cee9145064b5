# SPDX-License-Identifier: MIT
"""bench-speculation does what its help says. (Not what it measures: tests do not depend on time.)"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

PROGRAM = os.environ.get("GPT2_BENCH_SPECULATION", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="GPT2_BENCH_SPECULATION does not name bench-speculation")

SHORT = "--size tiny --draft tiny --proposals 3,2 --rates 1,0,0.5 --new-tokens 25 --rounds 2"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *SHORT.split(), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("results") / "speculation.json"
    done = run("--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "round 2 of 2" in done.stderr
    assert "pays from" in done.stdout
    assert "itself in int4" in done.stdout
    found: list[dict[str, Any]] = json.loads(path.read_text())["groups"]
    return found


def test_every_case_is_there(groups: list[dict[str, Any]]) -> None:
    assert [group["text"] for group in groups if group["kind"] == "text"] == ["greedy", "sampled"]
    for group in groups[:2]:
        cases = [(result["case"], result["proposals"]) for result in group["results"]]
        assert cases == [(name, n) for n in (2, 3) for name in ("prompt lookup", "itself in int4")]
    imposed = [(group["draft"], [result["rate"] for result in group["results"]]) for group in groups[2:]]
    assert imposed == [(name, [0, 0.5, 1]) for name in ("no cost", "no cost", "tiny", "tiny")]
    for group in groups:
        assert len(group["plain_rounds"]) == 2
        for result in group["results"]:
            assert len(result["rounds"]) == len(result["factor_rounds"]) == 2
            assert result["tokens_per_s"] > 0 and result["factor"] > 0


def test_imposed_rates(groups: list[dict[str, Any]]) -> None:
    for group in groups[2:]:
        wrong, half, right = group["results"]
        n = wrong["proposals"]
        assert (wrong["accepted"], wrong["passes"]) == (0, 24)  # 25 tokens, the first without a pass
        assert right["accepted"] == right["proposed"] > 0
        assert right["passes"] == -(-24 // (n + 1))
        assert 0 < half["accepted"] < half["proposed"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size", "5M"], "expected 124M, 355M, 774M, 1558M, novella, tiny; found"),
        (["--cases", "other"], "expected text, imposed; found"),
        (["--rates", "1.5"], "1.5"),
        (["--proposals", "0"], "expected a number from 1"),
        (["--new-tokens", "1"], "expected a number from 2"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_options_that_are_not_understood(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr + done.stdout


def test_a_text_that_does_not_fit_is_an_error() -> None:
    words = SHORT.replace("--new-tokens 25", "--new-tokens 100").split()
    done = subprocess.run(
        [PROGRAM, *words, "--cases", "imposed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "n_positions" in done.stderr
