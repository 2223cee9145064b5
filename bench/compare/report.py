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
    return f"{number(median)} ± {100 * spread(samples) / median:.0f} %"


def heading(case: Case) -> str:
    return f"{case.title} ({case.unit})"


def figures(engines: Sequence[Engine], results: Results) -> Table:
    head = ["engine", "file (MB)", *map(heading, results.cases), "logits' error", "same choice"]
    rows = [head]
    for engine in engines:
        name = engine.name
        row = [name, number(engine.file_size * 1e-6)]
        row += [shown(results.samples.get((case.key, name))) for case in results.cases]
        error = results.errors.get(name)
        row += ["-" if error is None else f"{error:.1e}", results.same_choices.get(name, "-")]
        rows.append(row)
    return rows


def ratios(ours: Engine, peer: Engine, results: Results) -> list[list[float]]:
    """By case and round; more than 1 is in our favour. The two measurements of a round lie close together,
    so that what slows the machine down for a while falls out."""
    out = []
    for case in results.cases:
        mine = results.samples.get((case.key, ours.name), [])
        other = results.samples.get((case.key, peer.name), [])
        out.append([a / b if case.more_is_better else b / a for a, b in zip(mine, other)])
    return out


def ratio_table(engines: Sequence[Engine], results: Results) -> Table:
    rows = [["ours / peer", *(case.title for case in results.cases)]]
    for ours in engines:
        for peer in engines:
            if ours.is_ours and not peer.is_ours and ours.bits == peer.bits:
                cells = []
                for samples in ratios(ours, peer, results):
                    cells.append(f"{statistics.median(samples):.2f}" if samples else "-")
                rows.append([f"{ours.name} / {peer.name}", *cells])
    return rows


def plain(table: Table) -> str:
    """With the engines as columns, as terminals are high rather than wide."""
    turned = [list(column) for column in zip(*table)]
    widths = [max(len(row[i]) for row in turned) for i in range(len(turned[0]))]
    lines = []
    for row in turned:
        lines.append("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]))
    return "\n".join(lines)


def markdown(table: Table) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|---" + "|---:" * (len(table[0]) - 1) + "|")
    return "\n".join(lines)


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
        for peer in engines:
            if engine.is_ours and not peer.is_ours and engine.bits == peer.bits:
                document["ratios"][f"{engine.name} / {peer.name}"] = {
                    case.key: statistics.median(samples)
                    for case, samples in zip(results.cases, ratios(engine, peer, results))
                    if samples
                }
    return json.dumps(document, indent=2) + "\n"


def as_markdown(facts: dict[str, Any], engines: Sequence[Engine], results: Results) -> str:
    parts = [
        f"{description(facts)}.",
        "Medians, with half the distance of the quartiles.",
        markdown(figures(engines, results)),
        "More than 1 is in this library's favour:",
        markdown(ratio_table(engines, results)),
        "\n".join(f"- {name}: {text}" for name, text in results.descriptions.items()),
        *(f"**Failed:** {failure}" for failure in results.failures),
    ]
    return "\n\n".join(parts) + "\n"


def as_text(facts: dict[str, Any], engines: Sequence[Engine], results: Results) -> str:
    parts = [
        description(facts),
        "median, and half the distance of the quartiles:\n" + plain(figures(engines, results)),
    ]
    table = ratio_table(engines, results)
    if len(table) > 1:
        parts.append("ratios, of which more than 1 are in our favour:\n" + plain(table))
    parts.append("\n".join(f"{name}: {text}" for name, text in results.descriptions.items()))
    parts += [f"FAILED: {failure}" for failure in results.failures]
    return "\n\n".join(parts) + "\n"
