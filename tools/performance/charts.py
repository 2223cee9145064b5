# SPDX-License-Identifier: MIT
"""Two kinds of chart: lines over an axis, and bars in panels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Optional, Sequence

from .svg import Drawing, apart, decades, number, series_class, ticks


@dataclass
class Point:
    x: float
    y: float
    low: float
    high: float
    limit: Optional[float] = None


@dataclass
class Series:
    name: str
    colour: int
    points: list[Point] = field(default_factory=list)


@dataclass
class Axis:
    label: str
    # Where there are marks, and what they say; lines between them.
    marks: list[tuple[float, str]] = field(default_factory=list)


def _vertical(series: Sequence[Series], logarithmic: bool) -> list[float]:
    values = [y for s in series for p in s.points for y in (p.y, p.high, p.limit or p.y)]
    if not logarithmic:
        return ticks(max(values))
    return decades(min(p.low for s in series for p in s.points), max(values))


def line_chart(
    title: str,
    subtitle: str,
    horizontal: Axis,
    label: str,
    series: Sequence[Series],
    logarithmic: bool = False,
) -> str:
    """Lines of dots, with their ranges, named at their right ends; the limits are dashed."""
    width, height, left, right, top, bottom = 720.0, 400.0, 62.0, 118.0, 84.0, 48.0
    drawing = Drawing(width, height, title, subtitle)
    xs = [x for x, _ in horizontal.marks]
    levels = _vertical(series, logarithmic)

    def to_x(x: float) -> float:
        span = max(xs) - min(xs) or 1.0
        return left + (x - min(xs)) / span * (width - left - right)

    def to_y(y: float) -> float:
        low, high = levels[0], levels[-1]
        if logarithmic:
            low, high, y = math.log(low), math.log(high), math.log(y)
        return height - bottom - (y - low) / (high - low) * (height - top - bottom)

    drawing.text(left - 46, top - 14, label, "muted")
    for level in levels:
        drawing.line(left, to_y(level), width - right, to_y(level), "axis" if level == levels[0] else "grid")
        drawing.text(left - 8, to_y(level) + 4, f"{level:,.10g}", "muted", "end")
    for x, text in horizontal.marks:
        drawing.text(to_x(x), height - bottom + 18, text, "muted", "middle")
    drawing.text((left + width - right) / 2, height - 10, horizontal.label, "muted", "middle")

    for each in series:
        points = sorted(each.points, key=lambda p: p.x)
        limits = [(to_x(p.x), to_y(p.limit)) for p in points if p.limit]
        if len(limits) > 1:
            drawing.path(limits, "limit " + series_class("s", each.colour))
        drawing.path([(to_x(p.x), to_y(p.y)) for p in points], "line " + series_class("s", each.colour))
        for p in points:
            drawing.line(
                to_x(p.x), to_y(p.low), to_x(p.x), to_y(p.high), "range " + series_class("s", each.colour)
            )
            tip = f"{each.name}, {p.x:g}: {number(p.y)} ({number(p.low)} to {number(p.high)})"
            drawing.dot(to_x(p.x), to_y(p.y), series_class("f", each.colour), tip)
    ends = [max(s.points, key=lambda p: p.x) for s in series]
    for each, end, y in zip(series, ends, apart([to_y(p.y) for p in ends], 15)):
        text = f"{each.name} {number(end.y)}"
        drawing.text(to_x(end.x) + 9, y + 4, text, "strong " + series_class("f", each.colour))
    return str(drawing)


@dataclass
class Bar:
    name: str
    value: float
    text: str  # what is written at its end
    colour: Optional[int] = None  # none: grey
    low: Optional[float] = None
    high: Optional[float] = None


@dataclass
class Panel:
    title: str
    bars: list[Bar]
    mark: Optional[float] = None  # a line across, such as 100 %


def bar_chart(
    title: str, subtitle: str, panels: Sequence[Panel], names: float = 60.0, columns: int = 3
) -> str:
    """Horizontal bars from 0, with their values at their ends; each panel has a scale of its own.
    @p names is the width of the bars' names."""
    columns = min(columns, len(panels))
    width, row, gap, top = 720.0, 22.0, 20.0, 66.0
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [28 + row * max(len(p.bars) for p in line) + 14 for line in rows]
    drawing = Drawing(width, top + sum(heights), title, subtitle)
    panel_width = (width - 32 - gap * (columns - 1)) / columns
    y = top
    for line, height in zip(rows, heights):
        for i, panel in enumerate(line):
            _draw_panel(drawing, panel, 16 + i * (panel_width + gap), y, panel_width, names, row)
        y += height
    return str(drawing)


def _draw_panel(
    drawing: Drawing, panel: Panel, x: float, y: float, width: float, names: float, row: float
) -> None:
    texts = 7.2 * max(len(bar.text) for bar in panel.bars) + 8
    largest = max([bar.high or bar.value for bar in panel.bars] + [panel.mark or 0.0])
    scale = (width - names - texts) / largest if largest > 0 else 0.0
    begin = x + names
    drawing.text(x, y + 12, panel.title, "strong")
    bottom = y + 24 + row * len(panel.bars)
    for i, bar in enumerate(panel.bars):
        middle = y + 24 + row * (i + 0.5)
        style = "plain" if bar.colour is None else series_class("f", bar.colour)
        drawing.text(begin - 7, middle + 4, bar.name, "strong" if bar.colour is not None else "", "end")
        drawing.rectangle(
            begin, middle - 7, bar.value * scale, 14, style, f"{panel.title}, {bar.name}: {bar.text}"
        )
        if bar.low is not None and bar.high is not None:
            drawing.line(begin + bar.low * scale, middle, begin + bar.high * scale, middle, "axis")
        end = begin + max(bar.value, bar.high or 0.0) * scale
        if panel.mark is not None and end < begin + panel.mark * scale < end + texts:
            end = begin + panel.mark * scale  # the text would cross the line
        drawing.text(end + 5, middle + 4, bar.text)
    drawing.line(begin, y + 22, begin, bottom + 2, "axis")
    if panel.mark is not None:
        drawing.line(begin + panel.mark * scale, y + 22, begin + panel.mark * scale, bottom + 2, "axis")
