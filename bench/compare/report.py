# SPDX-License-Identifier: MIT
"""The tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, Sequence

from engines import Engine
from measure import Case, Results
from workplace import REPOSITORY

Table = list[list[str]]


def spread(samples: Sequence[float]) -> float:
    """Half the distance of the quartiles."""
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / 2


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def shown(samples: Sequence[float] | None) -> str:
    if not samples:
        return "-"
    median = statistics.median(samples)
    if len(samples) == 1:
        return number(median)
    return f"{number(median)} ±{100 * spread(samples) / median:.0f}%"


def ratios(ours: Engine, peer: Engine, case: Case, results: Results) -> list[float]:
    """By round; more than 1 is in our favour. The two measurements of a round lie close together, so that
    what slows the machine down for a while falls out."""
    mine = results.samples.get((case.key, ours.name), [])
    other = results.samples.get((case.key, peer.name), [])
    return [a / b if case.more_is_better else b / a for a, b in zip(mine, other)]


def pairs(engines: Sequence[Engine]) -> list[tuple[Engine, Engine]]:
    """Ours beside a peer's format with as many bits."""
    ours, peers = [e for e in engines if e.is_ours], [e for e in engines if not e.is_ours]
    return [(mine, peer) for mine in ours for peer in peers if mine.bits == peer.bits]


def table(engines: Sequence[Engine], results: Results) -> Table:
    """Cases down, engines and ratios across."""
    rows = [["", *(engine.name for engine in engines)]]
    rows[0] += [f"{ours.format} / {peer.name}" for ours, peer in pairs(engines)]
    for case in results.cases:
        row = [f"{case.title} ({case.unit})"]
        row += [shown(results.samples.get((case.key, engine.name))) for engine in engines]
        row += [shown(ratios(ours, peer, case, results)) for ours, peer in pairs(engines)]
        rows.append(row)
    no_ratios = [""] * len(pairs(engines))
    rows.append(["file (MB)", *(number(engine.file_size * 1e-6) for engine in engines), *no_ratios])
    errors = [results.errors.get(engine.name) for engine in engines]
    rows.append(["error of logits", *("-" if e is None else f"{e:.1e}" for e in errors), *no_ratios])
    choices = [results.same_choices.get(engine.name, "-") for engine in engines]
    rows.append(["same greedy choice", *choices, *no_ratios])
    return rows


def tables(engines: Sequence[Engine], results: Results) -> list[Table]:
    """One for each number of bits."""
    groups = [[e for e in engines if e.bits == bits] for bits in (32, 16, 8, 4)]
    return [table(group, results) for group in groups if group]


def plain(rows: Table) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(rows: Table) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines)


def versions(engines: Sequence[Engine], results: Results) -> list[str]:
    """What the engines say of themselves, by library."""
    found = {engine.library: results.descriptions.get(engine.name, "") for engine in engines}
    return [text for text in found.values() if text]


def machine() -> dict[str, Any]:
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "load_at_start": os.getloadavg()[0],
    }


def revision() -> str:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def description(facts: dict[str, Any]) -> str:
    host = facts["machine"]
    return (
        f"{facts['model']}; {facts['threads']} threads, rounds: {facts['rounds']}; {host['processor']}, "
        f"{host['cores']} cores, Linux {host['kernel']}; {facts['time']}, revision {facts['revision']}"
    )


def facts_of(model: str, threads: int, rounds: int) -> dict[str, Any]:
    return {
        "model": model,
        "threads": threads,
        "rounds": rounds,
        "time": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "revision": revision(),
        "machine": machine(),
    }


def as_json(facts: dict[str, Any], engines: Sequence[Engine], results: Results) -> str:
    document: dict[str, Any] = {**facts, "failures": results.failures, "engines": {}, "ratios": {}}
    for engine in engines:
        cases = {}
        for case in results.cases:
            samples = results.samples.get((case.key, engine.name))
            if samples:
                cases[case.key] = {
                    "title": case.title,
                    "unit": case.unit,
                    "median": statistics.median(samples),
                    "half_interquartile_range": spread(samples),
                    "samples": samples,
                }
        document["engines"][engine.name] = {
            "description": results.descriptions.get(engine.name),
            "file_bytes": engine.file_size,
            "bits": engine.bits,
            "logits_error": results.errors.get(engine.name),
            "same_choice": results.same_choices.get(engine.name),
            "anonymous_memory_mb": results.anonymous.get(engine.name),
            "cases": cases,
        }
    for ours, peer in pairs(engines):
        document["ratios"][f"{ours.name} / {peer.name}"] = {
            case.key: statistics.median(samples)
            for case in results.cases
            if (samples := ratios(ours, peer, case, results))
        }
    return json.dumps(document, indent=2) + "\n"


LEGEND = (
    "Medians, with half the distance of the quartiles; a ratio is the median of the rounds' own, and more "
    "than 1 is in this library's favour."
)


def as_markdown(facts: dict[str, Any], engines: Sequence[Engine], results: Results) -> str:
    parts = [f"{description(facts)}. {LEGEND}"]
    parts += [markdown(rows) for rows in tables(engines, results)]
    parts += ["\n".join(f"- {text}" for text in versions(engines, results))]
    parts += [f"**Failed:** {failure}" for failure in results.failures]
    return "\n\n".join(parts) + "\n"


def as_text(facts: dict[str, Any], engines: Sequence[Engine], results: Results) -> str:
    parts = [f"{description(facts)}\n{LEGEND}"]
    parts += [plain(rows) for rows in tables(engines, results)]
    parts += ["\n".join(versions(engines, results))]
    parts += [f"FAILED: {failure}" for failure in results.failures]
    return "\n\n".join(parts) + "\n"
