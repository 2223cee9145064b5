# SPDX-License-Identifier: MIT
"""The tables that are made of more than one result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

from performance.page import table
from performance.results import ResultError
from performance.svg import number

# The models of scripts/measure-quality that the targets are about, by the names of their files.
FLOAT16, INT8, INT4 = "f16", "int8-calibrated", "int4-calibrated"
OF_README = ("f32", "f16", "bf16", "int8", "int8-calibrated", "int4", "int4-calibrated")


@dataclass(frozen=True)
class Estimate:
    value: float
    error: float = 0.0


@dataclass(frozen=True)
class Target:
    """What a number of a model should be, at most or at least."""

    model: str
    title: str
    number: Callable[[dict[str, Any]], Estimate]
    text: Callable[[Estimate], str]
    bound: float
    is_least: bool = False

    def cell(self, result: Optional[dict[str, Any]]) -> str:
        if result is None:
            return ""
        found = self.number(result)
        met = found.value >= self.bound if self.is_least else abs(found.value) <= self.bound
        return self.text(found) + (", met" if met else ", **missed**")


def _estimate(entry: dict[str, Any], name: str, factor: float = 1.0) -> Estimate:
    return Estimate(entry[name]["value"] * factor, entry[name]["standard_error"] * factor)


def change(entry: dict[str, Any]) -> Estimate:
    """Of the perplexity, in percent."""
    ratio = _estimate(entry, "perplexity_ratio")
    return Estimate(100 * (ratio.value - 1), 100 * ratio.error)


def change_text(found: Estimate) -> str:
    return f"{found.value:+.4f} ± {found.error:.4f} %"


def kl_text(found: Estimate) -> str:
    return f"{found.value:.6f} ± {found.error:.6f} nats"


def share_text(found: Estimate) -> str:
    return f"{found.value:.2f} ± {found.error:.2f} %"


def _top1(entry: dict[str, Any]) -> Estimate:
    return _estimate(entry, "top1_agreement", 100)


TARGETS = [
    Target(FLOAT16, "float16: perplexity within 0.01 %", change, change_text, 0.01),
    Target(INT8, "int8: perplexity within 0.1 %", change, change_text, 0.1),
    Target(INT8, "int8: KL divergence at most 0.001", lambda e: _estimate(e, "kl"), kl_text, 0.001),
    Target(INT8, "int8: top 1 aiming at 99 %", _top1, share_text, 99, is_least=True),
    Target(INT4, "int4: perplexity within 1.5 %", change, change_text, 1.5),
    Target(INT4, "int4: top 1 aiming at 95 %", _top1, share_text, 95, is_least=True),
]


def read_report(path: Path) -> Optional[dict[str, dict[str, Any]]]:
    """What gpt2-eval report --json wrote: models by their labels; none if there is no such file."""
    if not path.exists():
        return None
    data = _read_json(path)
    models = data.get("models") if isinstance(data, dict) else None
    if not isinstance(models, list) or not all(isinstance(m, dict) and "label" in m for m in models):
        raise ResultError(
            f'{path}: expected "models" with a "label" each, written by gpt2-eval report --json'
        )
    return {str(model["label"]): model for model in models}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: {error}") from error


def targets(novella: dict[str, Any], twin: Optional[dict[str, Any]]) -> str:
    rows = [["target, against float32", "novella", "its outlier twin"]]
    for target in TARGETS:
        rows.append(
            [
                target.title,
                target.cell(novella.get(target.model)),
                target.cell((twin or {}).get(target.model)),
            ]
        )
    return table(rows)


def overview(novella: dict[str, Any]) -> str:
    """The small table of README.md."""
    rows = [["novella", "file, MB", "decode, tokens/s", "perplexity", "KL, nats", "top 1"]]
    for label in OF_README:
        model = novella.get(label)
        if model is None:
            continue
        row = [
            label,
            number(model["file_bytes"] * 1e-6) if model.get("file_bytes") else "",
            number(model["decode"]["median"]) if "decode" in model else "",
        ]
        if "kl" in model:
            top1 = _top1(model)
            row += [
                f"{change(model).value:+.3f} %",
                f"{model['kl']['value']:.2g}",
                f"{top1.value:.2f} ± {top1.error:.2f} %",
            ]
        else:
            row += [f"{model['perplexity']['value']:.2f}", "", ""]
        rows.append(row)
    return table(rows)


def one_scale(entries: Sequence[dict[str, Any]]) -> str:
    """What measure_quantization.py one-scale --json wrote."""
    rows = [["", "perplexity", "KL, nats", "top 1"]]
    for entry in entries:
        rows.append(
            [
                str(entry["name"]),
                f"{100 * entry['perplexity_change']:+.2f} %",
                f"{entry['kl']:.2g}",
                f"{100 * entry['top1_agreement']:.1f} %",
            ]
        )
    return table(rows)


def blocks(directory: Path) -> dict[str, Optional[str]]:
    """The text of every block: those made here, and each Markdown file of the directory by its name."""
    novella = read_report(directory / "novella.json")
    twin = read_report(directory / "twin.json")
    rounding = directory / "one-scale.json"
    found: dict[str, Optional[str]] = {"novella": None, "twin": None, "llama.cpp": None}
    try:
        found["quality"] = overview(novella) if novella else None
        found["targets"] = targets(novella, twin) if novella else None
        found["one-scale"] = one_scale(_read_json(rounding)) if rounding.exists() else None
    except (KeyError, TypeError) as error:
        raise ResultError(f"{directory}: expected other results, found none of {error}") from error
    for path in sorted(directory.glob("*.md")):
        found[path.stem] = path.read_text(encoding="utf-8")
    return found
