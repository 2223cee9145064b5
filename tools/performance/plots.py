# SPDX-License-Identifier: MIT
"""Which results go into which plot."""

from __future__ import annotations

import math
from typing import Callable, Iterable, Optional

from .charts import Axis, Bar, Panel, Point, Series, bar_chart, line_chart
from .results import FORMATS, OURS, SIZES, Result, in_order
from .svg import number

DASHED = "Dashed: what the machine allows, measured in the same rounds. Upright: range over the rounds."


def _colour(format_name: str) -> int:
    return FORMATS.index(format_name) if format_name in FORMATS else len(FORMATS)


def _series(results: Iterable[Result], x: Callable[[Result], float]) -> list[Series]:
    """A line for each format."""
    results = list(results)
    lines = []
    for name in in_order((r.format for r in results), FORMATS):
        points = [Point(x(r), r.median, r.min, r.max, r.limit) for r in results if r.format == name]
        lines.append(Series(name, _colour(name), points))
    return lines


def _plain_decode(results: Iterable[Result], size: Optional[str] = None) -> list[Result]:
    """Single sequences of our own, with nobody beside them."""
    return [
        r
        for r in results
        if r.engine == OURS and r.kind == "decode" and r.sequences == 1 and (size is None or r.size == size)
    ]


def by_depth(results: list[Result], size: str) -> Optional[str]:
    """Decoding speed by the depth of context."""
    chosen = _plain_decode(results, size)
    depths = sorted({r.depth for r in chosen})
    if len(depths) < 2:
        return None
    axis = Axis("tokens of context before", [(float(d), str(d)) for d in depths])
    title = f"Decoding by depth of context, {size}"
    return line_chart(title, DASHED, axis, "tokens/s", _series(chosen, lambda r: r.depth))


def by_batch(results: list[Result], size: str) -> Optional[str]:
    """Decoding speed of all sequences together, by their number."""
    chosen = [
        r for r in results if r.engine == OURS and r.size == size and r.kind == "decode" and r.depth == 0
    ]
    counts = sorted({r.sequences for r in chosen})
    if len(counts) < 2:
        return None
    axis = Axis("sequences decoded in one pass", [(math.log2(n), str(n)) for n in counts])
    title = f"Decoding many sequences at once, {size}"
    return line_chart(
        title, DASHED, axis, "tokens/s of all sequences", _series(chosen, lambda r: math.log2(r.sequences))
    )


def by_size(results: list[Result]) -> Optional[str]:
    """Decoding speed by the size of the model."""
    chosen = [r for r in _plain_decode(results) if r.depth == 0 and r.size in SIZES]
    sizes = in_order((r.size for r in chosen), SIZES)
    if len(sizes) < 2:
        return None
    axis = Axis("model", [(float(i), name) for i, name in enumerate(sizes)])
    return line_chart(
        "Decoding by size of the model",
        DASHED,
        axis,
        "tokens/s, logarithmic",
        _series(chosen, lambda r: sizes.index(r.size)),
        logarithmic=True,
    )


def share_of_limit(results: list[Result], size: str) -> Optional[str]:
    """How much of what the machine allows is reached, by format."""
    wanted: list[tuple[str, Callable[[Result], bool]]] = [
        ("decode, no context", lambda r: r.kind == "decode" and r.depth == 0 and r.sequences == 1),
        ("decode at depth 900", lambda r: r.kind == "decode" and r.depth == 900),
        ("prefill of 512 tokens", lambda r: r.kind == "prefill" and r.tokens == 512),
    ]
    panels = []
    for title, test in wanted:
        chosen = [
            r for r in results if r.engine == OURS and r.size == size and test(r) and r.share is not None
        ]
        bars = [
            Bar(name, r.share, f"{r.share:.0%}".replace("%", " %"), _colour(name), r.share_min, r.share_max)
            for name in in_order((r.format for r in chosen), FORMATS)
            for r in chosen
            if r.format == name and r.share is not None
        ]
        if bars:
            panels.append(Panel(title, bars, 1.0))
    if not panels:
        return None
    subtitle = (
        "Decode: of the bandwidth over the bytes a token needs. Prefill: of the float32 multiply-adds. "
        "Line: 100 %."
    )
    return bar_chart(f"Share of what the machine allows, {size}", subtitle, panels)


def engines(results: list[Result], size: str) -> Optional[str]:
    """Engines side by side, a panel for each case that more than one of them has."""
    chosen = [r for r in results if r.size == size]  # of bench/compare alone: one run, one set of weights
    panels = []
    for case in dict.fromkeys(r.case for r in chosen):
        of_case = [r for r in chosen if r.case == case]
        if len({r.engine for r in of_case}) < 2:
            continue
        fastest_first = of_case[0].unit == "tok/s"
        of_case.sort(key=lambda r: r.median, reverse=fastest_first)
        bars = [
            Bar(
                f"{r.engine} {r.format}".strip(),
                r.median,
                number(r.median),
                0 if r.engine == OURS else None,
            )
            for r in of_case
        ]
        panels.append(Panel(f"{case}, {of_case[0].unit}", bars))
    if not panels:
        return None
    names = 7.0 * max(len(bar.name) for panel in panels for bar in panel.bars) + 8
    subtitle = "The same weights, machine and threads; medians of alternating runs."
    return bar_chart(f"Engines side by side, {size}", subtitle, panels, names, columns=2)


def all_plots(results: list[Result], compared: list[Result], size: str) -> dict[str, str]:
    """SVG texts by file name; those that there are no results for are missing.
    @p results are bench-model's, @p compared those of bench/compare."""
    found = {
        "share-of-limit.svg": share_of_limit(results, size),
        "decode-by-depth.svg": by_depth(results, size),
        "decode-by-batch.svg": by_batch(results, size),
        "decode-by-size.svg": by_size(results),
        "engines.svg": engines(compared, size),
    }
    return {name: text for name, text in found.items() if text is not None}
