# SPDX-License-Identifier: MIT
"""What bench-model and bench/compare write."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Optional

OURS = "gpt2"  # the engine that this library is
FORMATS = ["f32", "f16", "bf16", "int8", "int4", "int4-head4"]
SIZES = ["novella", "124M", "355M", "774M", "1558M"]


@dataclass(frozen=True)
class Result:
    """One case of one engine with one model: medians and ranges over rounds."""

    engine: str
    size: str
    format: str
    case: str
    kind: str  # prefill, decode, generate, ...
    tokens: int  # of a prompt
    depth: int  # tokens before the first that is decoded
    sequences: int  # in one pass
    unit: str
    median: float
    min: float
    max: float
    limit: Optional[float] = None  # tokens/s that the machine allows
    share: Optional[float] = None  # of it; the median over rounds
    share_min: Optional[float] = None
    share_max: Optional[float] = None
    weight_bytes: Optional[float] = None  # that a pass reads


class ResultError(Exception):
    """A file is not what it should be; the message names it."""


def kind_of_case(name: str) -> dict[str, Any]:
    """What a case's name says: "prefill/512", "decode/900", "batch/16", "decode, 16 sequences", ..."""
    text = name.lower()
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    found = {"kind": re.split(r"[^a-z-]", text)[0], "tokens": 0, "depth": 0, "sequences": 1}
    if re.search(r"generate|founding", text):
        found["kind"] = "generate"
    elif re.search(r"prefill|prompt|\bpp", text):
        found.update(kind="prefill", tokens=numbers[0] if numbers else 0)
    elif re.search(r"batch|sequences|\bseq", text):
        found.update(kind="decode", sequences=numbers[0] if numbers else 1)
    elif re.search(r"decode|\btg", text):
        found.update(kind="decode", depth=numbers[-1] if numbers else 0)
    return found


def _number(entry: dict[str, Any], name: str) -> Optional[float]:
    value = entry.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _result(entry: dict[str, Any], where: str) -> Result:
    median = _number(entry, "median")
    case = entry.get("case")
    if median is None or not isinstance(case, str):
        raise ResultError(f'{where}: expected "case" and "median", found {sorted(entry)}')
    what = kind_of_case(case)
    for name, value in what.items():
        if isinstance(entry.get(name), type(value)):
            what[name] = entry[name]
    share = entry.get("share")
    share = share if isinstance(share, dict) else {}
    low, high = _number(entry, "min"), _number(entry, "max")
    return Result(
        engine=str(entry.get("engine", "gpt2")),
        size=str(entry.get("size", entry.get("model", "124M"))),
        format=str(entry.get("format", "")),
        case=case,
        unit=str(entry.get("unit", "tok/s")),
        median=median,
        min=median if low is None else low,
        max=median if high is None else high,
        limit=_number(entry, "limit"),
        share=_number(share, "median"),
        share_min=_number(share, "min"),
        share_max=_number(share, "max"),
        weight_bytes=_number(entry, "weight_bytes"),
        **what,
    )


def _by_engine(found: dict[str, Any], where: str) -> list[Result]:
    """bench/compare's form: {"gpt2 f16": {"cases": {"deep": {"title": ..., "median": ...}}}}."""
    results = []
    for name, engine in found.items():
        library, _, format_name = name.rpartition(" ")
        cases = engine.get("cases") if isinstance(engine, dict) else None
        if not isinstance(cases, dict):
            raise ResultError(f'{where}: {name}: expected "cases"')
        for key, case in cases.items():
            entry: dict[str, Any] = {
                **case,
                "engine": library or name,
                "format": format_name if library else "",
            }
            entry["case"] = str(case.get("title", key))
            if key == "founding":
                entry["kind"] = "generate"
            samples = [float(x) for x in case.get("samples", [])]
            if samples:
                entry.update(min=min(samples), max=max(samples))
            results.append(_result(entry, where))
    return results


def read_results(path: Path) -> list[Result]:
    """The results in a file: a list of them, or an object with such a list as "results", or one with
    "engines" by name."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path}: {error}") from error
    if isinstance(data, dict) and isinstance(data.get("engines"), dict):
        return _by_engine(data["engines"], str(path))
    entries = data.get("results") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ResultError(f'{path}: expected a list of results, or an object with one as "results"')
    return [_result(entry, str(path)) for entry in entries]


def in_order(names: Iterable[str], known: list[str]) -> list[str]:
    """Each name once: those that are known in their order, then the others as they came."""
    unique = list(dict.fromkeys(names))
    return [name for name in known if name in unique] + [name for name in unique if name not in known]
