# SPDX-License-Identifier: MIT
"""Says how far a long step has come."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Callable, TextIO

REDRAW_SECONDS = 0.1  #: least time between two states of the line on a terminal
LINE_SECONDS = 2.0  #: least time between two lines elsewhere, and
LINE_PERCENT = 10.0  #: least advance,
SILENCE_SECONDS = 30.0  #: unless nothing has been said for so long
RATE_SECONDS = 0.1  #: least time that a speed can be told from

BYTE_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def size_text(n: int) -> str:
    """A number of bytes in the unit that suits it."""
    scale, unit = next(pair for pair in BYTE_UNITS if n >= pair[0] or pair[0] == 1.0)
    return f"{n} B" if scale == 1.0 else f"{n / scale:.1f} {unit}"


class Progress:
    """One line that is rewritten on a terminal, a few lines elsewhere.

    update() may be called as often as is convenient. finish() says the last state, complete or not.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str = "B",
        stream: TextIO | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._clock = clock
        self._terminal = not quiet and self._stream.isatty()
        self._scale, self._name = 1.0, unit
        if unit == "B":
            self._scale, self._name = next(pair for pair in BYTE_UNITS if total >= pair[0] or pair[0] == 1.0)
        self._first: tuple[float, int] | None = None  # time and amount at the first update: a resumed
        self._said = (clock(), 0)  # download must not count what it found as its own speed
        self._done = 0
        self._drawn = 0  # characters of the line on the terminal

    def update(self, done: int) -> None:
        """done of the total, not the difference to the last call."""
        self._done = done
        now = self._clock()
        if self._first is None:
            self._first = (now, done)
            self._said = (now, done)
            if self._terminal:
                self._draw(now)
        elif self._due(now):
            self._say(now)

    def finish(self) -> None:
        if self._quiet:
            return
        self._say(self._clock())
        self._end_line()

    def message(self, text: str) -> None:
        """A remark on a line of its own."""
        if self._quiet:
            return
        self._end_line()
        self._write(f"{self._label}: {text}\n")

    def _due(self, now: float) -> bool:
        passed = now - self._said[0]
        if self._terminal:
            return passed >= REDRAW_SECONDS
        advance = 100.0 * (self._done - self._said[1]) / max(self._total, 1)
        return passed >= SILENCE_SECONDS or (passed >= LINE_SECONDS and advance >= LINE_PERCENT)

    def _say(self, now: float) -> None:
        self._said = (now, self._done)
        if self._terminal:
            self._draw(now)
        else:
            self._write(self._line(now) + "\n")

    def _draw(self, now: float) -> None:
        line = self._line(now)[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + line.ljust(self._drawn))
        self._drawn = len(line)

    def _end_line(self) -> None:
        if self._drawn:
            self._write("\n")
            self._drawn = 0

    def _line(self, now: float) -> str:
        percent = 100 * self._done // self._total if self._total else 100
        amounts = f"{self._amount(self._done)}/{self._amount(self._total)} {self._name}"
        line = f"{self._label}: {percent:3d} %  {amounts}"
        if self._first is not None and now - self._first[0] >= RATE_SECONDS:
            rate = (self._done - self._first[1]) / (now - self._first[0]) / self._scale
            line += f"  {rate:.1f} {self._name}/s"
        return line

    def _amount(self, count: int) -> str:
        return str(count) if self._scale == 1.0 else f"{count / self._scale:.1f}"

    def _write(self, text: str) -> None:
        if not self._quiet:
            self._stream.write(text)
            self._stream.flush()
