# SPDX-License-Identifier: MIT
"""bench/compare/quality, as far as it goes without llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import measure_quality as quality
import quality_tables
from gpt2_convert import cli
from gpt2_convert.sources import packed
from gpt2_convert.text_tokens import encode
from gpt2_convert.tokenizer_tables import TokenizerTables
from quality_tables import Bits, Row

ROOT = Path(__file__).resolve().parents[2]
NOVELLA = ROOT / "models" / "novella-f16.safetensors"
DRIVER = os.environ.get("GPT2_COMPARE", "")
WINDOW = 256

needs_driver = pytest.mark.skipif(not DRIVER, reason="GPT2_COMPARE does not name compare-gpt2")


def estimate(value: float, error: float) -> dict[str, float]:
    return {"value": value, "standard_error": error}


def row(library: str, name: str, kl: float, *types: str) -> Row:
    layers, head = Bits.Sum(), Bits.Sum()
    for kind in types or ("q4_0",):
        layers.add(18, 32, kind)
    head.add(34, 32, "q8_0")
    result = {
        "tokens": 100,
        "kl": estimate(kl, kl / 100),
        "top1_agreement": estimate(0.95, 0.001),
        "perplexity": estimate(40.0, 0.5),
        "perplexity_ratio": estimate(1.01, 0.001),
    }
    return Row(library, name, Bits(layers, head), 12345678, {"model": result, "twin": result})


ROWS = [
    row("gpt2", "int8", 0.002),
    row("llama.cpp", "Q8_0", 0.001),
    row("llama.cpp", "Q4_K_M", 0.02, "a", "b"),
]
FACTS: dict[str, Any] = {"model": "m", "text": "t.txt", "versions": {"gpt2": "gpt2 1"}, "revision": "r"}


def test_tables() -> None:
    found = quality_tables.format_table(ROWS)
    assert found[1][:7] == [
        *("gpt2 int8", "4.50", "8.50", "12.35", "40.000"),
        *("+1.00 ± 0.10 %", "0.00200 ± 0.00002"),
    ]
    assert found[1][7] == "95.00 ± 0.10 %"
    pairs = quality_tables.equal_bits_table(ROWS)
    assert pairs[1:] == [["int8", "Q8_0", "4.50 : 4.50", "8.50 : 8.50", "2.00 ± 0.03", "2.00 ± 0.03"]]
    text = quality_tables.as_markdown(FACTS, ROWS)
    assert "100 tokens of t.txt" in text and "Q4_K_M: 1 a, 1 b." in text
    assert json.loads(quality_tables.as_json(FACTS, ROWS))["formats"]["llama.cpp Q8_0"]["types_head"] == {
        "q8_0": 1
    }


def test_every_pair_is_measured() -> None:
    names = {format_.name for format_ in quality.FORMATS}
    for name, peers in quality_tables.EQUAL_BITS.items():
        assert {name, *peers} <= names


def test_formats_have_files_of_their_own() -> None:
    names = [quality.slug(f"{format_.library} {format_.name}").lower() for format_ in quality.FORMATS]
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def int4_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int4") / "int4.safetensors"
    assert cli.main([str(NOVELLA), "-o", str(path), "--dtype", "int4", "--quiet"]) == 0
    return path


def test_bits_of_a_file(int4_file: Path) -> None:
    bits = quality.bits_of_ours(int4_file)
    assert (bits.layers.each, bits.head.each) == (4.5, 8.25)
    assert (bits.layers.types, bits.head.types) == ({"int4": 24}, {"int8": 1})
    assert (bits.layers.count, bits.head.count) == (6 * 12 * 256**2, 8192 * 256)


def ask(model: Path, *commands: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [DRIVER, "--model", str(model), "--threads", "2"],
        input="".join(f"{command}\n" for command in commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()[1:]]


def write_tokens(folder: Path) -> list[int]:
    source = packed.read(NOVELLA)
    tables = TokenizerTables(source.vocab_json, source.merges_txt, "tokenizer")
    tokens = encode((ROOT / "tests" / "data" / "heldout.txt").read_text(encoding="utf-8"), tables)[:601]
    np.array(tokens, "<i4").tofile(folder / "tokens")
    return tokens


def log_softmax(logits: Any) -> Any:
    below = logits - logits.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


@needs_driver
def test_a_model_beside_itself(tmp_path: Path) -> None:
    write_tokens(tmp_path)
    kept, found = ask(NOVELLA, f"reference {WINDOW} {tmp_path}", f"compare {WINDOW} {tmp_path}")
    assert kept == {"tokens": 600}
    assert found["tokens"] == 600
    assert found["kl"] == estimate(0, 0) and found["perplexity_ratio"] == estimate(1, 0)
    assert found["top1_agreement"] == estimate(1, 0)


@needs_driver
def test_comparison_against_numpy(tmp_path: Path, int4_file: Path) -> None:
    tokens = write_tokens(tmp_path)
    ask(NOVELLA, f"reference {WINDOW} {tmp_path}")
    (found,) = ask(int4_file, f"compare {WINDOW} {tmp_path}")
    p = log_softmax(np.fromfile(tmp_path / "logits", "<f4").reshape(600, -1).astype(np.float64))
    ask(int4_file, f"reference {WINDOW} {tmp_path}")
    q = log_softmax(np.fromfile(tmp_path / "logits", "<f4").reshape(600, -1).astype(np.float64))
    kl = (np.exp(p) * (p - q)).sum(axis=1)
    targets = (np.arange(600), tokens[1:])
    assert found["kl"]["value"] == pytest.approx(kl.mean(), rel=1e-5)
    assert found["kl"]["standard_error"] == pytest.approx(kl.std(ddof=1) / 600**0.5, rel=1e-5)
    assert found["top1_agreement"]["value"] == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert found["perplexity"]["value"] == pytest.approx(np.exp(-q[targets].mean()), rel=1e-6)
    assert found["perplexity_ratio"]["value"] == pytest.approx(np.exp((p - q)[targets].mean()), rel=1e-6)


@needs_driver
def test_windows_begin_with_an_empty_context(tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path)
    ask(NOVELLA, f"reference {WINDOW} {tmp_path}")
    whole = np.fromfile(tmp_path / "logits", "<f4").reshape(600, -1)
    np.array(tokens[WINDOW : 2 * WINDOW + 1], "<i4").tofile(tmp_path / "tokens")
    ask(NOVELLA, f"reference {WINDOW} {tmp_path}")
    alone = np.fromfile(tmp_path / "logits", "<f4").reshape(WINDOW, -1)
    assert np.array_equal(whole[WINDOW : 2 * WINDOW], alone)


@needs_driver
def test_too_few_logits_are_an_error(tmp_path: Path) -> None:
    write_tokens(tmp_path)
    (tmp_path / "logits").write_bytes(bytes(8192 * 4))
    done = subprocess.run(
        [DRIVER, "--model", str(NOVELLA), "--threads", "2"],
        input=f"compare {WINDOW} {tmp_path}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "expected the logits of 600 tokens, found fewer" in done.stderr
