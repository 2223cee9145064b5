# SPDX-License-Identifier: MIT
"""gpt2-eval compare: the numbers, thresholds and the cache of logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2_convert import cli
from support import HELDOUT, MODEL, Reference, fails, found, load, needs_program, run

pytestmark = needs_program

N = 300
ON_TEXT = ("--text", HELDOUT, "--limit", N)


def test_it_is_what_numpy_finds(tmp_path: Path) -> None:
    rounded = tmp_path / "bf16.safetensors"
    assert cli.main([str(MODEL), "-o", str(rounded), "--dtype", "bf16", "--quiet"]) == 0
    reference = Reference(N)
    p, q = (reference.log_probabilities(load(path), 128, 64) for path in (MODEL, rounded))
    options = ("--window", 128, "--stride", 64)
    result = found("compare", f"{MODEL}:f32", f"{rounded}:f32", *ON_TEXT, *options)["candidates"][0]
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    assert result["tokens"] == N
    assert result["kl"]["value"] == pytest.approx(kl.mean(), rel=1e-3)
    assert result["kl"]["standard_error"] == pytest.approx(kl.std(ddof=1) / np.sqrt(N), rel=1e-3)
    for share in (50, 90):
        assert result["kl_percentiles"][str(share)] == pytest.approx(np.percentile(kl, share), rel=1e-3)
    same = p.argmax(axis=1) == q.argmax(axis=1)
    assert result["top1_agreement"]["value"] == pytest.approx(same.mean(), abs=1.5 / N)
    first_p, first_q = (np.argsort(-x, axis=1)[:, :5] for x in (p, q))
    shared = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(first_p, first_q)])
    assert result["top5_agreement"]["value"] == pytest.approx(shared, abs=1 / N)
    change = np.abs(np.exp(p) - np.exp(q)).max(axis=1)
    assert result["largest_probability_change"] == pytest.approx(change.max(), rel=1e-3)
    assert result["mean_probability_change"]["value"] == pytest.approx(change.mean(), rel=1e-3)
    rows, tokens = np.arange(N), reference.tokens[1:]
    difference = p[rows, tokens] - q[rows, tokens]
    assert result["perplexity_ratio"]["value"] == pytest.approx(np.exp(difference.mean()), rel=1e-6)
    error = np.exp(difference.mean()) * difference.std(ddof=1) / np.sqrt(N)
    assert result["perplexity_ratio"]["standard_error"] == pytest.approx(error, rel=1e-3)


def test_a_model_beside_itself() -> None:
    result = found("compare", MODEL, MODEL, *ON_TEXT, "--max-kl", 0, "--min-top1", 1, "--min-top5", 1)
    assert result["good"] is True
    candidate = result["candidates"][0]
    assert candidate["kl"] == {"value": 0.0, "standard_error": 0.0}
    assert candidate["perplexity_ratio"] == {"value": 1.0, "standard_error": 0.0}
    assert candidate["largest_probability_change"] == 0.0
    assert candidate["perplexity"] == candidate["reference_perplexity"]


def test_it_agrees_with_perplexity_and_threads_change_nothing() -> None:
    models = (f"{MODEL}:f32", MODEL, f"{MODEL}:int8")
    one, two = (found("compare", *models, *ON_TEXT, "--threads", n) for n in (1, 2))
    assert one == two
    for model, candidate in zip(models[1:], one["candidates"]):
        alone = found("perplexity", model, HELDOUT, "--limit", N)
        assert candidate["perplexity"] == alone["perplexity"]


@pytest.mark.parametrize(
    "threshold, bound, message",
    [
        ("--max-kl", 1e-9, "--max-kl: expected at most 1e-09, found "),
        ("--max-kl-p99", 1e-9, "--max-kl-p99: expected at most 1e-09"),
        ("--max-perplexity-ratio", 0.5, "--max-perplexity-ratio: expected at most 0.5"),
        ("--max-probability-change", 0, "--max-probability-change: expected at most 0"),
        ("--min-top1", 1, "--min-top1: expected at least 1"),
        ("--min-top5", 1, "--min-top5: expected at least 1"),
    ],
)
def test_thresholds(threshold: str, bound: float, message: str) -> None:
    arguments = ("compare", f"{MODEL}:f32", f"{MODEL}:int4", *ON_TEXT)
    out = run(*arguments, threshold, bound, status=3)
    assert message in out and "not good" in out
    loose = 0 if threshold.startswith("--min") else 10
    assert "verdict             good" in run(*arguments, threshold, loose)
    result = found(*arguments, threshold, bound, status=3)
    assert result["good"] is False and message in result["candidates"][0]["missed"][0]


def test_cached_logits_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "logits"
    arguments = ("compare", f"{MODEL}:f32", MODEL, f"{MODEL}:int8", *ON_TEXT)
    plain = found(*arguments)
    assert found(*arguments, "--cache-logits", file) == plain
    assert file.stat().st_size > N * 4 * 1000
    assert list(tmp_path.iterdir()) == [file]
    assert found(*arguments, "--cache-logits", file) == plain
    other = ("compare", f"{MODEL}:f32", MODEL, "--text", HELDOUT, "--limit", N + 1)
    assert "another limit" in fails(1, *other, "--cache-logits", file)
    data = file.read_bytes()
    file.write_bytes(data[:-3])
    assert "expected whole rows" in fails(1, *arguments, "--cache-logits", file)
    header = data.index(b"\n") + 1
    rows = len(data) - header
    file.write_bytes(data[: header + rows // N * 10])
    assert "found no more" in fails(1, *arguments, "--cache-logits", file)
    file.write_bytes(b"nonsense")
    assert "expected a file of --cache-logits" in fails(1, *arguments, "--cache-logits", file)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    assert "--text is required" in fails(2, "compare", MODEL, MODEL)
    assert "candidates is required" in fails(2, "compare", MODEL, "--text", HELDOUT).lower()
    assert "expected a number" in fails(2, "compare", MODEL, MODEL, *ON_TEXT, "--max-kl", "x")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "expected at least one token" in fails(1, "compare", MODEL, MODEL, "--text", empty)
