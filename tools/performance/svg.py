# SPDX-License-Identifier: MIT
"""Drawing: just enough of SVG for plots that read well on light and on dark pages."""

from __future__ import annotations

import math
from typing import Sequence
from xml.etree import ElementTree

# Series differ in lightness too, for those who see colours differently; each theme has its own.
_LIGHT = ["#0b62a4", "#00805f", "#a86400", "#b0427f", "#c8401a", "#5b4ab0"]
_DARK = ["#6cb4ee", "#45c9a0", "#e5a83b", "#ec8bbd", "#ff8a62", "#a99cf0"]


def _theme(paper: str, ink: str, muted: str, grid: str, plain: str, series: Sequence[str]) -> str:
    rules = [
        f".paper{{fill:{paper}}}",
        f"text{{fill:{ink}}}",
        f".muted{{fill:{muted}}}",
        f".grid{{stroke:{grid}}}",
        f".axis{{stroke:{muted}}}",
        f".plain{{fill:{plain}}}",
    ]
    for i, colour in enumerate(series):
        rules.append(f".f{i}{{fill:{colour}}}.s{i}{{stroke:{colour}}}")
    return "".join(rules)


STYLE = (
    'text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px}'
    ".title{font-size:15px;font-weight:600}.strong{font-weight:600}"
    ".grid,.axis{stroke-width:1}.line{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".limit{fill:none;stroke-width:1.2;stroke-dasharray:3 4}.range{stroke-width:1.5;opacity:.55}"
    + _theme("#ffffff", "#1f2328", "#59636e", "#e4e8ec", "#b4bcc5", _LIGHT)
    + "@media(prefers-color-scheme:dark){"
    + _theme("#0d1117", "#e6edf3", "#9198a1", "#272d36", "#59636e", _DARK)
    + "}"
)


def series_class(prefix: str, i: int) -> str:
    """f0, f1, ... to fill, s0, s1, ... to stroke."""
    return f"{prefix}{i % len(_LIGHT)}"


def _text(x: float) -> str:
    return f"{x:.1f}".rstrip("0").rstrip(".")


class Drawing:
    """An SVG under way. Lengths are pixels; y grows downwards."""

    def __init__(self, width: float, height: float, title: str, subtitle: str = "") -> None:
        self.width, self.height = width, height
        self._root = ElementTree.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "width": _text(width),
                "height": _text(height),
                "viewBox": f"0 0 {_text(width)} {_text(height)}",
                "role": "img",
            },
        )
        ElementTree.SubElement(self._root, "title").text = title
        ElementTree.SubElement(self._root, "style").text = STYLE
        self.rectangle(0, 0, width, height, "paper")
        self.text(16, 26, title, "title")
        if subtitle:
            self.text(16, 44, subtitle, "muted")

    def rectangle(self, x: float, y: float, width: float, height: float, style: str, tip: str = "") -> None:
        self._add(
            "rect", style, tip, x=_text(x), y=_text(y), width=_text(max(width, 0)), height=_text(height)
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self._add("line", style, "", x1=_text(x1), y1=_text(y1), x2=_text(x2), y2=_text(y2))

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        text = " ".join(f"{_text(x)},{_text(y)}" for x, y in points)
        self._add("polyline", style, "", points=text)

    def dot(self, x: float, y: float, style: str, tip: str) -> None:
        self._add("circle", style, tip, cx=_text(x), cy=_text(y), r="3.5")

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        node = self._add("text", style, "", x=_text(x), y=_text(y))
        if anchor != "start":
            node.set("text-anchor", anchor)
        node.text = text

    def _add(self, name: str, style: str, tip: str, **attributes: str) -> ElementTree.Element:
        node = ElementTree.SubElement(self._root, name, attributes)
        if style:
            node.set("class", style)
        if tip:
            ElementTree.SubElement(node, "title").text = tip
        return node

    def __str__(self) -> str:
        ElementTree.indent(self._root, " ")
        return ElementTree.tostring(self._root, encoding="unicode") + "\n"


def ticks(largest: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to at least @p largest."""
    if not largest > 0:
        return [0.0, 1.0]
    rough = largest / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    return [i * step for i in range(math.ceil(largest / step - 1e-9) + 1)]


def decades(smallest: float, largest: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from at most @p smallest to at least @p largest."""
    low = math.floor(math.log10(smallest))
    high = math.ceil(math.log10(largest))
    numbers = [m * 10.0**e for e in range(low, high + 1) for m in (1, 2, 5)]
    first = max((n for n in numbers if n <= smallest), default=numbers[0])
    last = min((n for n in numbers if n >= largest), default=numbers[-1])
    return [n for n in numbers if first <= n <= last]


def apart(places: Sequence[float], distance: float) -> list[float]:
    """The places moved as little as it takes to be @p distance apart, in their order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [float(p) for p in places]
    for _ in range(100):
        for a, b in zip(order, order[1:]):
            missing = distance - (moved[b] - moved[a])
            if missing > 0.01:
                moved[a] -= missing / 2
                moved[b] += missing / 2
    return moved


def number(x: float) -> str:
    """Three significant digits, but all digits of whole numbers."""
    magnitude = abs(x)
    decimals = 0 if magnitude >= 99.95 or magnitude == 0 else 1 if magnitude >= 9.995 else 2
    return f"{x:.{decimals if magnitude >= 0.9995 or magnitude == 0 else 3}f}"
