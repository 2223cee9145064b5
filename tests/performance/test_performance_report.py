# SPDX-License-Identifier: MIT
"""Plots and pages made from results of benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from performance import cli, plots, results, svg

SVG = "{http://www.w3.org/2000/svg}"
FORMATS = ["f32", "f16", "int4"]


def entry(size: str, name: str, case: str, **more: Any) -> dict[str, Any]:
    median = 10.0 + len(case) + 7 * FORMATS.index(name)
    base = {"engine": "gpt2", "size": size, "format": name, "case": case, "unit": "tok/s"}
    return {**base, "median": median, "min": median - 1, "max": median + 1, **more}


def limited(size: str, name: str, case: str, kind: str, **more: Any) -> dict[str, Any]:
    share = {"median": 0.9, "min": 0.8, "max": 0.95}
    return entry(size, name, case, kind=kind, limit=40.0, share=share, **more)


def model_entries(size: str) -> list[dict[str, Any]]:
    found = []
    for name in FORMATS:
        for depth in (0, 256, 900):
            found.append(limited(size, name, f"decode/{depth}", "decode", depth=depth, sequences=1))
        for n in (2, 16):
            found.append(limited(size, name, f"batch/{n}", "decode", depth=0, sequences=n))
        found.append(limited(size, name, "prefill/512", "prefill", tokens=512))
        found.append(entry(size, name, "busy/1", kind="busy", depth=0, sequences=1))
        found.append(entry(size, name, "generate/13+87", kind="generate", unit="s"))
    return found


def compare_entries() -> list[dict[str, Any]]:
    return [
        {"engine": engine, "format": name, "case": case, "median": m, "min": m, "max": m, "unit": "tok/s"}
        for engine, name, m in (("gpt2", "f16", 100.0), ("llama.cpp <&>", "F16", 80.0))
        for case in ("decode", "prefill/512")
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for size in ("124M", "355M"):
        text = json.dumps({"program": "bench-model", "results": model_entries(size)})
        (tmp_path / f"model-{size}.json").write_text(text)
    (tmp_path / "compare.json").write_text(json.dumps(compare_entries()))
    (tmp_path / "model-124M.md").write_text("a table of bench-model\n")
    return tmp_path


def tips(text: str, tag: str) -> list[str]:
    """What the marks of that kind say when pointed at."""
    root = ElementTree.fromstring(text)
    return [node.findtext(f"{SVG}title") or "" for node in root.iter(SVG + tag) if len(node)]


def test_everything_is_drawn(directory: Path) -> None:
    assert cli.main([str(directory)]) == 0
    names = {path.name for path in directory.glob("*.svg")}
    expected = ["decode-by-batch", "decode-by-depth", "decode-by-size", "engines", "share-of-limit"]
    assert names == {f"{name}.svg" for name in expected}
    for path in directory.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == SVG + "svg"
        width, height = float(root.get("width", "0")), float(root.get("height", "0"))
        for node in root.iter():
            for name, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                assert 0 <= float(node.get(name, "0")) <= most, (path.name, node.attrib, node.text)


def test_all_points_are_there(directory: Path) -> None:
    assert cli.main([str(directory)]) == 0
    dots = {
        name: tips((directory / f"decode-by-{name}.svg").read_text(), "circle")
        for name in ("depth", "batch", "size")
    }
    assert len(dots["depth"]) == len(FORMATS) * 3
    assert len(dots["batch"]) == len(FORMATS) * 3  # one sequence is decode/0
    assert len(dots["size"]) == len(FORMATS) * 2
    assert "f16, 900: 27.0 (26.0 to 28.0)" in dots["depth"]
    bars = tips((directory / "share-of-limit.svg").read_text(), "rect")
    assert len(bars) == len(FORMATS) * 3
    assert "decode at depth 900, int4: 90 %" in bars


def test_engines_come_from_the_comparison(directory: Path) -> None:
    assert cli.main([str(directory)]) == 0
    bars = tips((directory / "engines.svg").read_text(), "rect")
    assert bars == [
        "decode, tok/s, gpt2 f16: 100",
        "decode, tok/s, llama.cpp <&> F16: 80.0",
        "prefill/512, tok/s, gpt2 f16: 100",
        "prefill/512, tok/s, llama.cpp <&> F16: 80.0",
    ]


def test_results_by_engine(directory: Path) -> None:
    def cases(factor: float) -> dict[str, Any]:
        times = {"title": "13 + 87 tokens, top_k 40", "unit": "s", "median": factor, "samples": [factor]}
        speed = {"title": "decode at depth 900", "unit": "tok/s", "median": 9 * factor, "samples": [8, 10]}
        return {"cases": {"deep": speed, "founding": times}}

    by_name = {"llama.cpp Q8_0": cases(2.0), "gpt2 int8": cases(3.0)}
    (directory / "compare.json").write_text(json.dumps({"engines": by_name}))
    found = results.read_results(directory / "compare.json")
    assert [(r.engine, r.format, r.kind, r.depth) for r in found[:2]] == [
        ("llama.cpp", "Q8_0", "decode", 900),
        ("llama.cpp", "Q8_0", "generate", 0),
    ]
    assert (found[0].min, found[0].max) == (8, 10)
    page = directory / "page.txt"
    page.write_text("<!-- begin: founding -->\n<!-- end -->\n")
    assert cli.main([str(directory), "--page", str(page)]) == 0
    assert "| llama.cpp, Q8_0 | 2.00 | 87 | 23.0 |" in page.read_text()
    bars = tips((directory / "engines.svg").read_text(), "rect")
    assert "decode at depth 900, tok/s, gpt2 int8: 27.0" in bars


def test_pages_are_filled_in(directory: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n<!-- begin: model-124M.md -->\nold\n<!-- end -->\nbetween\n<!-- begin: founding -->\n"
        "<!-- end -->\n<!-- begin: compare.md -->\n<!-- end -->\n<!-- begin: overview -->\n<!-- end -->\n"
        "<!-- begin: sizes -->\n<!-- end -->\n"
    )
    assert cli.main([str(directory), "--page", str(page)]) == 0
    once = page.read_text()
    assert "old" not in once and "a table of bench-model" in once and "between" in once
    assert "| report: TensorFlow, float32 | 3.40 | 100 | 34.0 |" in once
    assert "| this library, f32 | 24.0 | 87 | 276 |" in once
    assert "| decode after 900 tokens, tokens/s | 20.0 (90 %) | 27.0 (90 %) | 34.0 (90 %) |" in once
    assert "| 355M | 18.0 (90 %) |" in once
    assert "Not measured yet" in once  # compare.md
    assert cli.main([str(directory), "--page", str(page)]) == 0
    assert page.read_text() == once


def test_other_machines_have_folders(directory: Path, tmp_path: Path) -> None:
    folder = directory / "avx512"
    folder.mkdir()
    entries = [limited("124M", "f16", "decode/0", "decode", depth=0, sequences=1)]
    entries[0]["median"] = 777.0
    (folder / "model-124M.json").write_text(json.dumps({"results": entries}))
    (folder / "model-124M.md").write_text("its own table\n")
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- begin: avx512/overview -->\n<!-- end -->\n<!-- begin: avx512/model-124M.md -->\n<!-- end -->\n"
        "<!-- begin: overview -->\n<!-- end -->\n"
    )
    assert cli.main([str(directory), "--page", str(page)]) == 0
    assert (folder / "share-of-limit.svg").exists()
    other, own = page.read_text().split("<!-- begin: overview -->")
    assert "777 (90 %)" in other and "its own table" in other
    assert "777" not in own and "| 124M | f32 |" in own


def test_flags_are_compared_by_the_medians_of_their_runs(directory: Path) -> None:
    for name, medians in (("none", (95.0, 98.0, 10.0)), ("native", (100.0, 99.0, 101.0))):
        for i, value in enumerate(medians):
            found = [{"case": "decode/0", "format": "f16", "median": value}]
            (directory / f"flags-{name}-{i}.json").write_text(json.dumps(found))
    page = directory / "page.txt"
    page.write_text("<!-- begin: flags -->\n<!-- end -->\n")
    assert cli.main([str(directory), "--page", str(page)]) == 0
    assert "| decode/0, f16, tokens/s | 95.0 | 100 | 95 % |" in page.read_text()


def test_a_block_that_nobody_knows(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = directory / "page.txt"
    page.write_text("<!-- begin: overveiw -->\n<!-- end -->\n")
    assert cli.main([str(directory), "--page", str(page)]) == 1
    assert "found overveiw" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "model-x.json: Expecting"),
        ('{"a": 1}', 'expected a list of results, or an object with one as "results"'),
        ('[{"case": "decode/0"}]', 'expected "case" and "median"'),
    ],
)
def test_files_that_are_not_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "model-x.json").write_text(text)
    assert cli.main([str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(tmp_path)]) == 1
    assert "expected model-*.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, kind, tokens, depth, sequences",
    [
        ("prefill/512", "prefill", 512, 0, 1),
        ("decode/900", "decode", 0, 900, 1),
        ("decode", "decode", 0, 0, 1),
        ("decode at depth 900", "decode", 0, 900, 1),
        ("batch/16", "decode", 0, 0, 16),
        ("16 sequences", "decode", 0, 0, 16),
        ("generate/13+87", "generate", 0, 0, 1),
        ("founding", "generate", 0, 0, 1),
        ("cold-start", "cold-start", 0, 0, 1),
    ],
)
def test_names_of_cases(name: str, kind: str, tokens: int, depth: int, sequences: int) -> None:
    what = {"kind": kind, "tokens": tokens, "depth": depth, "sequences": sequences}
    assert results.kind_of_case(name) == what


def test_plots_without_results_are_left_out() -> None:
    assert plots.all_plots([], [], "124M") == {}


@pytest.mark.parametrize("largest", [0.003, 0.9, 1.0, 7.3, 99.0, 100.0, 1234.0])
def test_ticks_reach_and_are_round(largest: float) -> None:
    found = svg.ticks(largest)
    assert found[0] == 0 and found[-1] >= largest * 0.999 and found[-2] < largest
    assert 3 <= len(found) <= 8


def test_labels_are_moved_apart() -> None:
    moved = svg.apart([50.0, 50.0, 52.0, 200.0], 15.0)
    assert moved[3] == 200.0
    assert sum(moved[:3]) == pytest.approx(152.0)  # no more in one direction than in the other
    assert all(b - a > 14.9 for a, b in zip(sorted(moved), sorted(moved)[1:]))
