# SPDX-License-Identifier: MIT
"""The blocks of a page that are made from results, between `<!-- begin: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Callable, Optional, Sequence

from .results import FORMATS, OURS, SIZES, Result, ResultError, in_order, read_results
from .svg import number

_BLOCK = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
NOT_MEASURED = "*Not measured yet: `scripts/measure-performance` fills this in.*\n"

# Blocks of a page that both reports fill in: README.md. Each leaves those of the other as they are.
MADE_HERE = ("overview", "sizes", "founding", "flags")
MADE_BY_QUALITY = ("quality",)

# The report that this project grew out of: engine, seconds, new tokens.
FOUNDING_REPORT = [
    ("report: TensorFlow, float32", 3.4, 100),
    ("report: PyTorch, float32", 1.7, 87),
    ("report: PyTorch, float16", 1.5, 87),
]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row holds the headings, the first column names."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" + "|---:" * (len(rows[0]) - 1) + "|")
    return "\n".join(lines) + "\n"


def _cell(found: Sequence[Result], with_unit: bool = False) -> str:
    if not found:
        return ""
    first = found[0]
    unit = f" {first.unit}" if with_unit else ""
    share = "" if first.share is None else f" ({first.share * 100:.0f} %)"
    return number(first.median) + unit + share


def _formats(results: Sequence[Result]) -> list[str]:
    return in_order((r.format for r in results), FORMATS)


def overview(results: Sequence[Result], size: str) -> Optional[str]:
    """The cases that matter most, for each format of one size."""
    results = [r for r in results if r.size == size]
    wanted: list[tuple[str, Callable[[Result], bool]]] = [
        ("decode, tokens/s", lambda r: r.case == "decode/0"),
        ("decode after 900 tokens, tokens/s", lambda r: r.case == "decode/900"),
        ("decode, 16 sequences, tokens/s in all", lambda r: r.case == "batch/16"),
        ("prefill of 512 tokens, tokens/s", lambda r: r.case == "prefill/512"),
        ("start of the process to first token, ms", lambda r: r.case == "cold-start"),
        ("memory after 13 + 87 tokens, MB", lambda r: r.case == "memory/13+87"),
    ]
    names = _formats(results)
    rows = [[size, *names]]
    for title, test in wanted:
        cells = [_cell([r for r in results if r.format == name and test(r)]) for name in names]
        if any(cells):
            rows.append([title, *cells])
    return table(rows) if len(rows) > 1 else None


def by_size(results: Sequence[Result]) -> Optional[str]:
    """Decoding without context, for each size and format."""
    chosen = [r for r in results if r.case == "decode/0"]
    sizes = in_order((r.size for r in chosen), SIZES)
    names = _formats(chosen)
    if len(sizes) < 2:
        return None
    rows = [["decode, tokens/s", *names]]
    for size in sizes:
        rows.append([size] + [_cell([r for r in chosen if r.size == size and r.format == n]) for n in names])
    return table(rows)


def founding(results: Sequence[Result], compared: Sequence[Result]) -> Optional[str]:
    """The case that the project began with, beside the figures it began with."""
    rows = [["", "seconds", "new tokens", "ms per new token"]]
    for name, seconds, tokens in FOUNDING_REPORT:
        rows.append([name, number(seconds), str(tokens), number(seconds / tokens * 1e3)])
    ours = [r for r in results if r.size == "124M" and r.case == "generate/13+87"]
    others = [r for r in compared if r.kind == "generate" and r.unit == "s" and r.engine != OURS]
    for r in others + ours:
        name = "this library" if r in ours else r.engine
        rows.append([f"{name}, {r.format}", number(r.median), "87", number(r.median / 87 * 1e3)])
    return table(rows) if ours else None


def flags(directory: Path) -> Optional[str]:
    """What -march=native would bring: medians of the runs with it and without, which took turns."""
    runs = {
        name: [r for path in sorted(directory.glob(f"flags-{name}-*.json")) for r in read_results(path)]
        for name in ("none", "native")
    }
    rows = [["", "no flags", "-march=native", "no flags : native"]]
    for case in dict.fromkeys(r.case for r in runs["none"]):
        for name in _formats(runs["none"]):
            plain, native = (
                [r.median for r in runs[which] if r.case == case and r.format == name]
                for which in ("none", "native")
            )
            if plain and native:
                a, b = median(plain), median(native)
                rows.append([f"{case}, {name}, tokens/s", number(a), number(b), f"{a / b * 100:.0f} %"])
    return table(rows) if len(rows) > 1 else None


def blocks(directory: Path, own: Sequence[Result], compared: Sequence[Result]) -> dict[str, Optional[str]]:
    """The text of every block: those made here, and each Markdown file of the directory by its name."""
    found: dict[str, Optional[str]] = {
        "overview": overview(own, "124M"),
        "sizes": by_size(own),
        "founding": founding(own, compared),
        "flags": flags(directory),
    }
    for path in sorted(directory.glob("*.md")):
        found[path.name] = path.read_text(encoding="utf-8")
    return found


def fill_in(
    text: str,
    found: dict[str, Optional[str]],
    where: str,
    others: Sequence[str] = MADE_BY_QUALITY,
    not_measured: str = NOT_MEASURED,
) -> str:
    """@p others are blocks to leave as they are. @raises ResultError for a block that nobody knows"""

    def replace(match: re.Match[str]) -> str:
        name = match.group(2)
        if name.rpartition("/")[2] in others:
            return match.group(0)
        if name not in found and not name.endswith(".md"):
            raise ResultError(f"{where}: expected a block out of {', '.join(sorted(found))}; found {name}")
        body = found.get(name) or not_measured
        return match.group(1) + "\n" + body.rstrip("\n") + "\n\n" + match.group(3)

    return _BLOCK.sub(replace, text)
