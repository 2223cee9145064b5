# SPDX-License-Identifier: MIT
"""Ascending whole numbers as a short text: 0-255,300,302-305."""

from __future__ import annotations

import re
from typing import Sequence

_RUN = re.compile("([0-9]{1,7})(?:-([0-9]{1,7}))?")


def ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def of_ranges(text: str) -> list[int] | None:
    """The numbers; None for a text that ranges() does not write."""
    numbers: list[int] = []
    for run in text.split(","):
        match = _RUN.fullmatch(run)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if numbers and first <= numbers[-1]:
            return None
        numbers += range(first, last + 1)
    return numbers if ranges(numbers) == text else None
