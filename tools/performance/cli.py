# SPDX-License-Identifier: MIT
"""The command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from .page import blocks, fill_in
from .plots import all_plots
from .results import ResultError, read_results

DESCRIPTION = """\
Draws the plots of docs/performance.md and fills in its tables.

DIRECTORY holds what bench-model wrote by --json and --markdown (model-*.json, model-*.md) and, if
peers were measured, what bench/compare wrote (compare*.json, compare*.md). The plots (*.svg) go
there too. In each page, what stands between <!-- begin: NAME --> and <!-- end --> is replaced: NAME
is a Markdown file in DIRECTORY, or overview, sizes, founding or flags (out of flags-*.json).
A folder in DIRECTORY with model-*.json is another machine: it gets plots of its own, and its
blocks are named with the folder before them, avx512/overview."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="performance_report.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    parser.add_argument(
        "--page", metavar="FILE", type=Path, action="append", default=[], help="a page to fill in; repeatable"
    )
    parser.add_argument(
        "--size", metavar="NAME", default="124M", help="the model of the plots by format (default: 124M)"
    )
    return parser


def _models(directory: Path) -> list[Path]:
    return sorted(directory.glob("model-*.json"))


def _report_machine(directory: Path, size: str) -> tuple[list[Path], dict[str, Optional[str]]]:
    """@returns the plots that were written, and the blocks for pages"""
    own = [result for path in _models(directory) for result in read_results(path)]
    compared = [r for path in sorted(directory.glob("compare*.json")) for r in read_results(path)]
    written = []
    for name, svg in all_plots(own, compared, size).items():
        (directory / name).write_text(svg, encoding="utf-8")
        written.append(directory / name)
    return written, blocks(directory, own, compared)


def report(directory: Path, pages: Sequence[Path], size: str) -> list[Path]:
    """@returns the files that were written"""
    if not _models(directory):
        raise ResultError(f"{directory}: expected model-*.json, written by bench-model --json; found none")
    written, found = _report_machine(directory, size)
    for other in sorted({path.parent for path in directory.glob("*/model-*.json")}):
        plots, its_blocks = _report_machine(other, size)
        written += plots
        found.update({f"{other.name}/{name}": text for name, text in its_blocks.items()})
    for page in pages:
        text = page.read_text(encoding="utf-8")
        page.write_text(fill_in(text, found, str(page)), encoding="utf-8")
        written.append(page)
    return written


def main(arguments: Optional[Sequence[str]] = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        for path in report(options.directory, options.page, options.size):
            print(path)
    except (ResultError, OSError) as error:
        print(f"performance_report.py: error: {error}", file=sys.stderr)
        return 1
    return 0
