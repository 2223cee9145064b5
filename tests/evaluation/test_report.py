# SPDX-License-Identifier: MIT
"""gpt2-eval report: its quality is that of compare, and its three outputs say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gpt2_convert import cli
from support import HELDOUT, MODEL, fails, found, needs_program, run

pytestmark = needs_program

SVG = "{http://www.w3.org/2000/svg}"
ON_TEXT = ("--text", HELDOUT, "--limit", 64)
SHORT = ("--rounds", 2, "--seconds", 0.01)
FORMATS = ["float32", "float16", "bfloat16", "int8", "int4/int8", "int4/int4"]


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small <&>.safetensors"
    assert cli.main([str(MODEL), "-o", str(path), "--dtype", "int8", "--quiet"]) == 0
    return path


def table_of(markdown: str) -> list[dict[str, str]]:
    heading, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    assert all(set(cell) <= set("-:") for cell in rule)
    assert {len(row) for row in rows} == {len(heading)}
    return [dict(zip(heading, row)) for row in rows]


def report(directory: Path, *arguments: object) -> tuple[str, dict[str, Any]]:
    file = directory / "report.json"
    markdown = run("report", *arguments, *ON_TEXT, "--json", file)
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return markdown, result


def test_all_formats_of_one_model(tmp_path: Path) -> None:
    drawing = tmp_path / "plot.svg"
    markdown, result = report(tmp_path, MODEL, *SHORT, "--svg", drawing)
    models = result["models"]
    assert [model["label"] for model in models] == FORMATS
    assert [model["model"] for model in models] == [f"{MODEL}:{name}" for name in FORMATS]
    assert (result["reference"], result["tokens"], result["rounds"]) == ("float32", 64, 2)
    compared = found("compare", *(f"{MODEL}:{name}" for name in FORMATS), *ON_TEXT)["candidates"]
    for model, candidate in zip(models[1:], compared):
        del candidate["missed"]
        assert {name: model[name] for name in candidate} == candidate
    assert models[0]["perplexity"] == compared[0]["reference_perplexity"]
    for model in models:
        assert model["file_bytes"] is None and model["weight_bytes"] > 3e6
        for name in ("memory", "prefill", "decode"):
            assert len(model[name]["rounds"]) == 2 and min(model[name]["rounds"]) == model[name]["min"]
            assert 0 < model[name]["min"] <= model[name]["median"] <= model[name]["max"]
        assert model["memory"]["min"] > model["weight_bytes"]
    sizes = [model["weight_bytes"] for model in models]
    assert sizes[0] == 2 * sizes[1] == 2 * sizes[2] and sizes[2] > sizes[3] > sizes[4] > sizes[5]
    check_table(markdown, result)
    check_drawing(drawing.read_text(encoding="utf-8"), result)


def check_table(markdown: str, result: dict[str, Any]) -> None:
    rows = table_of(markdown)
    assert [row[""] for row in rows] == [model["label"] for model in result["models"]]
    for row, model in zip(rows, result["models"]):
        value, error = map(float, row["perplexity"].split(" ± "))
        assert value == pytest.approx(model["perplexity"]["value"], abs=6e-4)
        assert error == pytest.approx(model["perplexity"]["standard_error"], abs=6e-4)
        assert float(row["weights, MB"]) == pytest.approx(model["weight_bytes"] * 1e-6, rel=6e-3)
        if "prefill" in model:
            assert float(row["memory, MB"]) == pytest.approx(model["memory"]["median"] * 1e-6, rel=6e-3)
            for name in ("prefill", "decode"):
                assert float(row[f"{name}, tokens/s"].split()[0]) == pytest.approx(
                    model[name]["median"], rel=6e-3
                )
        if "kl" in model:
            assert float(row["KL, nats"].split()[0]) == pytest.approx(model["kl"]["value"], rel=6e-3)
            share = 100 * model["top1_agreement"]["value"]
            assert float(row["top 1, %"].split()[0]) == pytest.approx(share, abs=6e-3)
            change = 100 * (model["perplexity_ratio"]["value"] - 1)
            assert float(row["change, %"].split()[0]) == pytest.approx(change, abs=6e-5)


def check_drawing(text: str, result: dict[str, Any]) -> None:
    root = ElementTree.fromstring(text)
    assert root.tag == SVG + "svg" and "prefers-color-scheme:dark" in text
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    for node in root.iter():
        for name, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
            assert 0 <= float(node.get(name, "0")) <= most, (node.attrib, node.text)
    drawn = [model for model in result["models"] if "kl" in model and model["kl"]["value"] > 0]
    dots = list(root.iter(SVG + "circle"))
    words = [node.text for node in root.iter(SVG + "text")]
    assert len(dots) == len(drawn) >= 1
    for dot, model in zip(dots, drawn):
        tip = dot.findtext(SVG + "title") or ""
        assert tip.startswith(model["label"] + ": ") and f'{model["kl"]["value"]:.3g} nats' in tip
        assert words.count(model["label"]) == 1
    assert f'{result["reference"]}, divergence 0' in words
    by_speed = sorted(zip(dots, drawn), key=lambda pair: float(pair[1]["decode"]["median"]))
    xs = [float(dot.get("cx", "")) for dot, _ in by_speed]
    assert xs == sorted(xs)
    by_quality = sorted(zip(dots, drawn), key=lambda pair: float(pair[1]["kl"]["value"]))
    ys = [float(dot.get("cy", "")) for dot, _ in by_quality]
    assert ys == sorted(ys, reverse=True)


def test_files_and_formats_together(int8: Path, tmp_path: Path) -> None:
    drawing = tmp_path / "plot.svg"
    arguments = (f"{MODEL}:f32", MODEL, int8, "--rounds", 1, "--seconds", 0.01)
    markdown, result = report(tmp_path, *arguments, "--svg", drawing, "--title", "A <title> & more")
    labels = ["novella-f16:float32", "novella-f16", "small <&>"]
    assert [model["label"] for model in result["models"]] == labels
    sizes = [None, MODEL.stat().st_size, int8.stat().st_size]
    assert [model["file_bytes"] for model in result["models"]] == sizes
    check_table(markdown, result)
    check_drawing(drawing.read_text(encoding="utf-8"), result)
    assert "Quality against speed, A <title> & more" in ElementTree.fromstring(drawing.read_text()).itertext()
    _, result = report(tmp_path, MODEL, int8, "--all-formats", "--rounds", 0)
    assert [model["label"] for model in result["models"]] == [f"novella-f16:{x}" for x in FORMATS] + labels[
        2:
    ]


def test_without_rounds_there_is_no_speed_and_threads_change_nothing(tmp_path: Path) -> None:
    results = []
    for threads in (1, 2):
        markdown, result = report(tmp_path, MODEL, "--rounds", 0, "--threads", threads)
        assert result.pop("threads") == threads
        assert "decode" not in result["models"][0] and "memory" not in markdown
        check_table(markdown, result)
        results.append(result)
    assert results[0] == results[1]


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    assert "--text is required" in fails(2, "report", MODEL)
    assert "at least one more model, found" in fails(2, "report", f"{MODEL}:int8", *ON_TEXT)
    assert "--rounds is -1, expected 0 or more" in fails(2, "report", MODEL, *ON_TEXT, "--rounds", -1)
    assert "--seconds is 0, expected more" in fails(2, "report", MODEL, *ON_TEXT, "--seconds", 0)
    assert "--seconds is nan, expected more" in fails(2, "report", MODEL, *ON_TEXT, "--seconds", "nan")
    drawing = tmp_path / "plot.svg"
    assert "found --rounds 0" in fails(2, "report", MODEL, *ON_TEXT, "--svg", drawing, "--rounds", 0)
    assert "--all-formats: expected a first MODEL without formats" in fails(
        2, "report", f"{MODEL}:int8", "--all-formats", *ON_TEXT
    )
    assert "missing.txt" in fails(1, "report", MODEL, "--text", tmp_path / "missing.txt")
    assert "missing" in fails(1, "report", MODEL, tmp_path / "missing", *ON_TEXT)
    assert not list(tmp_path.iterdir())


def test_a_model_beside_itself_cannot_be_drawn(tmp_path: Path) -> None:
    drawing = tmp_path / "plot.svg"
    short = ("--rounds", 1, "--seconds", 0.01)
    message = fails(2, "report", MODEL, MODEL, *ON_TEXT, *short, "--svg", drawing)
    assert "--svg: expected a candidate that differs from the reference, found none" in message
    same = f"{MODEL}:f32"
    _, result = report(tmp_path, same, same, f"{MODEL}:int4", *short, "--svg", drawing)
    text = drawing.read_text(encoding="utf-8")
    check_drawing(text, result)
    assert text.count("<circle") == 1 and text.count(", divergence 0<") == 2
