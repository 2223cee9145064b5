# SPDX-License-Identifier: MIT
"""The pages that are made of what gpt2-eval report wrote, and the twin that it reports on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import make_outlier_twin
import measure_quantization
import numpy as np
import pytest

from gpt2_convert import checkpoint
from gpt2_convert.sources import packed
from performance import cli as performance
from quality import cli
from support import MODEL, ROOT

ESTIMATES = ("perplexity", "perplexity_ratio", "kl", "top1_agreement")


def model(label: str, ratio: float, kl: float, top1: float) -> dict[str, Any]:
    values = dict(zip(ESTIMATES, (40.0 * ratio, ratio, kl, top1)))
    found: dict[str, Any] = {name: {"value": x, "standard_error": x / 1e4} for name, x in values.items()}
    return {"label": label, "file_bytes": 14_898_624, "decode": {"median": 1234.5}, **found}


def reference() -> dict[str, Any]:
    found = model("f32", 1.0, 0.0, 1.0)
    return {name: found[name] for name in ("label", "file_bytes", "decode", "perplexity")}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    novella = [
        reference(),
        model("f16", 1.00009, 1e-7, 1.0),
        model("int8-calibrated", 0.9985, 5e-4, 0.981),
        model("int4-calibrated", 1.007, 6e-3, 0.951),
    ]
    twin = [reference(), model("f16", 0.9998, 1e-7, 1.0)]
    (tmp_path / "novella.json").write_text(json.dumps({"models": novella}))
    (tmp_path / "twin.json").write_text(json.dumps({"models": twin}))
    rounding = {"name": "twin, int8, one scale a matrix", "kl": 3.14, "perplexity_change": 12.5}
    (tmp_path / "one-scale.json").write_text(json.dumps([{**rounding, "top1_agreement": 0.25}]))
    (tmp_path / "novella.md").write_text("a table of gpt2-eval\n")
    return tmp_path


def blocks(*names: str) -> str:
    return "".join(f"<!-- begin: {name} -->\nold {name}\n<!-- end -->\n" for name in names)


def test_pages_are_filled_in(directory: Path) -> None:
    page = directory / "page.txt"
    page.write_text(blocks("quality", "targets", "one-scale", "novella", "twin", "llama.cpp"))
    assert cli.main([str(directory), "--page", str(page)]) == 0
    once = page.read_text()
    assert "old" not in once and "a table of gpt2-eval" in once
    assert once.count("`scripts/measure-quality` fills this in") == 2  # twin and llama.cpp
    assert "| f32 | 14.9 | 1234 | 40.00 |  |  |" in once
    assert "| int4-calibrated | 14.9 | 1234 | +0.700 % | 0.006 | 95.10 ± 0.01 % |" in once
    assert (
        "| float16: perplexity within 0.01 % | +0.0090 ± 0.0100 %, met | -0.0200 ± 0.0100 %, **missed** |"
        in once
    )
    assert "| int8: perplexity within 0.1 % | -0.1500 ± 0.0100 %, **missed** |  |" in once
    assert "| int8: KL divergence at most 0.001 | 0.000500 ± 0.000000 nats, met |  |" in once
    assert "| int8: top 1 aiming at 99 % | 98.10 ± 0.01 %, **missed** |  |" in once
    assert "| int4: top 1 aiming at 95 % | 95.10 ± 0.01 %, met |  |" in once
    assert "| twin, int8, one scale a matrix | +1250.00 % | 3.1 | 25.0 % |" in once
    assert cli.main([str(directory), "--page", str(page)]) == 0
    assert page.read_text() == once


def test_each_report_leaves_the_blocks_of_the_other(directory: Path) -> None:
    page = directory / "page.txt"
    page.write_text(blocks("overview", "quality"))
    assert cli.main([str(directory), "--page", str(page)]) == 0
    assert "old overview" in page.read_text() and "old quality" not in page.read_text()
    (directory / "model-x.json").write_text(json.dumps([]))
    quality = page.read_text()[page.read_text().index("<!-- begin: quality") :]
    assert performance.main([str(directory), "--page", str(page)]) == 0
    assert "old overview" not in page.read_text() and page.read_text().endswith(quality)


def test_what_cannot_be_read(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = directory / "page.txt"
    page.write_text(blocks("targtes"))
    assert cli.main([str(directory), "--page", str(page)]) == 1
    assert "found targtes" in capsys.readouterr().err
    (directory / "novella.json").write_text('{"models": [{}]}')
    assert cli.main([str(directory)]) == 1
    assert 'novella.json: expected "models" with a "label" each' in capsys.readouterr().err
    (directory / "novella.json").write_text('{"models": [{"label": "f16"}]}')
    assert cli.main([str(directory)]) == 1
    assert "found none of 'perplexity'" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["docs/quality.md", "README.md"])
def test_the_blocks_of_the_pages_are_known(page: str, tmp_path: Path) -> None:
    copy = tmp_path / "page.txt"
    copy.write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")
    assert cli.main([str(ROOT / "docs" / "quality"), "--page", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == (ROOT / page).read_text(encoding="utf-8")


def test_the_twin_is_the_same_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "twin.safetensors"
    monkeypatch.setattr("sys.argv", ["make_outlier_twin.py", str(MODEL), "-o", str(file)])
    assert make_outlier_twin.main() == 0
    assert make_outlier_twin.main() == 1  # it is there already
    model_, twin = (measure_quantization.Model(checkpoint.check(packed.read(path))) for path in (MODEL, file))
    tokens = np.arange(0, 4000, 400)
    assert np.abs(model_.logits(tokens) - twin.logits(tokens)).max() < 1e-9
    for layer in range(model_.config.n_layer):
        for norm in ("ln_1", "ln_2"):
            ratio = twin.weights[f"h.{layer}.{norm}.weight"] / model_.weights[f"h.{layer}.{norm}.weight"]
            assert sorted(set(ratio)) == [1, 64] and (ratio == 64).sum() == 4
