# SPDX-License-Identifier: MIT
"""The layout of matrices: panels of 32 outputs (docs/model-format.md)."""

from __future__ import annotations

PANEL_WIDTH = 32  #: outputs in a panel

#: Where 16-bit numbers are widened by a shift and a mask, outputs j and j + 16 of a panel stand side by side.
PAIRED_ORDER = [lane for j in range(PANEL_WIDTH // 2) for lane in (j, j + PANEL_WIDTH // 2)]


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def panels(outputs: int) -> int:
    """How many panels hold so many outputs."""
    return -(-outputs // PANEL_WIDTH)
