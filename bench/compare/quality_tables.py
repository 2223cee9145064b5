# SPDX-License-Identifier: MIT
"""The tables of bench/compare/quality."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

from report import Table, markdown, plain, revision

#: Ours beside those of llama.cpp with as many bits or more, in the layers and in the head.
EQUAL_BITS = {
    "int8": ["Q8_0"],
    "int8, calibrated": ["Q8_0"],
    "int4": ["Q4_0 pure, head Q8_0", "Q4_K pure, head Q8_0", "IQ4_NL pure, head Q8_0"],
    "int4, calibrated": [
        *("Q4_0 pure, head Q8_0", "Q4_0 pure, head Q8_0, imatrix"),
        *("Q4_K pure, head Q8_0", "Q4_K pure, head Q8_0, imatrix"),
        *("IQ4_NL pure, head Q8_0", "IQ4_NL pure, head Q8_0, imatrix"),
        *("Q4_K_M", "Q4_K_M, imatrix"),
    ],
    "int4, head int4, calibrated": [
        *("Q4_0 pure", "Q4_K pure", "Q4_K pure, imatrix", "IQ4_NL pure, imatrix"),
        *("Q4_0", "Q4_0, imatrix", "IQ4_NL", "IQ4_NL, imatrix"),
    ],
}


@dataclass(frozen=True)
class Bits:
    """What the matrices of a file take, their scales included."""

    @dataclass
    class Sum:
        size: int = 0  #: bytes
        count: int = 0  #: numbers
        types: Counter[str] = field(default_factory=Counter)  #: matrices of each

        def add(self, size: int, count: int, kind: str) -> None:
            self.size += size
            self.count += count
            self.types[kind] += 1

        @property
        def each(self) -> float:
            return 8 * self.size / self.count

    layers: Sum
    head: Sum  #: output head and token embeddings, one matrix in most models


@dataclass(frozen=True)
class Row:
    """A format of a library, and what was measured of it on the model and on its twin."""

    library: str
    format: str
    bits: Bits
    file_size: int  #: bytes
    results: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.library} {self.format}"

    def estimate(self, source: str, key: str) -> tuple[float, float]:
        found = self.results[source][key]
        return found["value"], found["standard_error"]


def facts_of(model: str, text: Path, versions: Mapping[str, str]) -> dict[str, Any]:
    return {"model": model, "text": text.name, "versions": dict(versions), "revision": revision()}


def percent(value: float, error: float) -> str:
    return f"{100 * value:.2f} ± {100 * error:.2f} %"


def change(value: float, error: float) -> str:
    """Of a ratio from 1."""
    digits = 2 if error > 5e-5 else 4
    return f"{100 * (value - 1):+.{digits}f} ± {100 * error:.{digits}f} %"


def divergence(value: float, error: float) -> str:
    return f"{value:.5f} ± {error:.5f}" if value >= 1e-4 else f"{value:.1e} ± {error:.0e}"


def format_table(rows: Sequence[Row]) -> Table:
    headings = ["", "bits, layers", "bits, head", "file, MB", "perplexity", "perplexity, change", "KL, nats"]
    table = [[*headings, "same first", "twin: perplexity, change", "twin: KL, nats", "twin: same first"]]
    for row in rows:
        cells = [row.name, f"{row.bits.layers.each:.2f}", f"{row.bits.head.each:.2f}"]
        cells += [f"{row.file_size * 1e-6:.2f}", f"{row.estimate('model', 'perplexity')[0]:.3f}"]
        for source in ("model", "twin"):
            cells.append(change(*row.estimate(source, "perplexity_ratio")))
            cells.append(divergence(*row.estimate(source, "kl")))
            cells.append(percent(*row.estimate(source, "top1_agreement")))
        table.append(cells)
    return table


def ratio(ours: tuple[float, float], peer: tuple[float, float]) -> str:
    """Their errors counted as independent, which is too careful: both are of the same tokens."""
    value = ours[0] / peer[0]
    return f"{value:.2f} ± {value * math.hypot(ours[1] / ours[0], peer[1] / peer[0]):.2f}"


def equal_bits_table(rows: Sequence[Row]) -> Table:
    """Divergences of ours, divided by those of llama.cpp."""
    by_format = {row.format: row for row in rows}
    table = [["ours", "beside", "bits, layers", "bits, head", "KL, ours / theirs", "on the twin"]]
    for name, peers in EQUAL_BITS.items():
        for peer_name in peers:
            if name in by_format and peer_name in by_format:
                ours, peer = by_format[name], by_format[peer_name]
                cells = [name, peer_name]
                for mine, other in ((ours.bits.layers, peer.bits.layers), (ours.bits.head, peer.bits.head)):
                    cells.append(f"{mine.each:.2f} : {other.each:.2f}")
                for source in ("model", "twin"):
                    cells.append(ratio(ours.estimate(source, "kl"), peer.estimate(source, "kl")))
                table.append(cells)
    return table


def mixtures(rows: Sequence[Row]) -> list[str]:
    """The types of the layers' matrices in files that have several."""
    return [
        f"{row.format}: "
        + ", ".join(f"{count} {kind}" for kind, count in sorted(row.bits.layers.types.items()))
        for row in rows
        if len(row.bits.layers.types) > 1
    ]


def description(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    tokens = rows[0].results["model"]["tokens"]
    versions = ", ".join(facts["versions"].values())
    return f"{facts['model']}, {tokens} tokens of {facts['text']}; {versions}, revision {facts['revision']}."


LEGEND = (
    "Against gpt2 f32; ± is the standard error. Bits are those of a weight, scales included. The twin is the "
    "same function with outlier channels."
)
EQUAL_BITS_LEGEND = (
    "At equal bits, or more on llama.cpp's side: our divergence divided by llama.cpp's; less than 1 is in "
    "this library's favour."
)


def as_markdown(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    parts = [f"{description(facts, rows)} {LEGEND}", markdown(format_table(rows))]
    if mixed := mixtures(rows):
        parts.append("Matrices of the layers in files that mix types: " + "; ".join(mixed) + ".")
    if len(pairs := equal_bits_table(rows)) > 1:
        parts += [EQUAL_BITS_LEGEND, markdown(pairs)]
    return "\n\n".join(parts) + "\n"


def as_text(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    parts = [f"{description(facts, rows)}\n{LEGEND}", plain(format_table(rows)), *mixtures(rows)]
    if len(pairs := equal_bits_table(rows)) > 1:
        parts += [EQUAL_BITS_LEGEND, plain(pairs)]
    return "\n\n".join(parts) + "\n"


def as_json(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    formats = {}
    for row in rows:
        layers, head = row.bits.layers, row.bits.head
        formats[row.name] = {
            "bits_layers": layers.each,
            "bits_head": head.each,
            "types_layers": dict(layers.types),
            "types_head": dict(head.types),
            "file_bytes": row.file_size,
            **row.results,
        }
    return json.dumps({**facts, "formats": formats}, indent=2) + "\n"
