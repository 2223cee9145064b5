# SPDX-License-Identifier: MIT
"""What the formats cost on the default model stays what it is: the gate against a loss of quality.

expected_quality.json holds the results of every format, rounded at load, on the first tokens of the held-out
text. Levels with fused multiply-adds have the same logits to the last bit: what may differ is how a compiler
orders the metrics' own arithmetic. The portable level rounds each multiply-add twice, which moves the integer
formats' activations across rounding boundaries. The file's bounds for it are three times what was seen.
To store new results after a change that is meant: GPT2_STORE_QUALITY=1.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support import HELDOUT, MODEL, found, needs_program

pytestmark = needs_program

FILE = Path(__file__).with_name("expected_quality.json")
FORMATS = ("float16", "bfloat16", "int8", "int4/int8", "int4/int4")
VALUES = ("kl", "perplexity", "perplexity_ratio", "top1_agreement", "top5_agreement")
FUSED_BOUND = 1e-9


def measure() -> dict[str, Any]:
    models = [f"{MODEL}:{name}" for name in FORMATS]
    result = found("compare", f"{MODEL}:float32", *models, "--text", HELDOUT, "--limit", 4096)
    measured = {}
    for name, candidate in zip(FORMATS, result["candidates"]):
        measured[name] = {value: candidate[value]["value"] for value in VALUES}
    measured["float32"] = {"perplexity": result["candidates"][0]["reference_perplexity"]["value"]}
    return measured


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    result = measure()
    if os.environ.get("GPT2_STORE_QUALITY"):
        stored = json.loads(FILE.read_text()) if FILE.exists() else {}
        FILE.write_text(json.dumps({**stored, "results": result}, indent=2) + "\n")
    return result


@pytest.mark.parametrize("name", ("float32", *FORMATS))
def test_quality_is_what_it_was(name: str, measured: dict[str, Any]) -> None:
    expected = json.loads(FILE.read_text())
    portable = os.environ.get("GPT2_ISA") == "portable"
    for value, number in expected["results"][name].items():
        if portable:
            bound = {"rel": 0, "abs": expected["portable_bounds"][name][value]}
        else:
            bound = {"rel": FUSED_BOUND, "abs": FUSED_BOUND}
        assert measured[name][value] == pytest.approx(number, **bound), value
