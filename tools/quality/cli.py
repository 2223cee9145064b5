# SPDX-License-Identifier: MIT
"""The command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Optional, Sequence

from performance.page import MADE_HERE as MADE_BY_PERFORMANCE
from performance.page import fill_in
from performance.results import ResultError

from .tables import blocks

NOT_MEASURED = "*Not measured yet: `scripts/measure-quality` fills this in.*\n"
DESCRIPTION = """\
Fills in the tables of docs/quality.md.

DIRECTORY holds what gpt2-eval report wrote of the default model and of its outlier twin (novella.json,
novella.md, twin.json, twin.md), and what measure_quantization.py one-scale wrote (one-scale.json). In
each page, what stands between <!-- begin: NAME --> and <!-- end --> is replaced: NAME is quality, targets,
one-scale, or that of a Markdown file in DIRECTORY without its ending."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quality_report.py",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path)
    parser.add_argument(
        "--page", metavar="FILE", type=Path, action="append", default=[], help="a page to fill in; repeatable"
    )
    return parser


def main(arguments: Optional[Sequence[str]] = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        found = blocks(options.directory)
        for page in options.page:
            text = page.read_text(encoding="utf-8")
            filled = fill_in(text, found, str(page), MADE_BY_PERFORMANCE, NOT_MEASURED)
            page.write_text(filled, encoding="utf-8")
            print(page)
    except (ResultError, OSError) as error:
        print(f"quality_report.py: error: {error}", file=sys.stderr)
        return 1
    return 0
