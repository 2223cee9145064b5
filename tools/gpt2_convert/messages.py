# SPDX-License-Identifier: MIT
"""What a file holds, as messages show it: short, on one line, without control characters."""

from __future__ import annotations

from typing import Any

_MAX_SHOWN = 120


def quoted(text: str) -> str:
    """Text of a file between quotes. What a terminal could take for commands is escaped."""
    shown = text[:_MAX_SHOWN]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    return f'"{escaped}"' + ("..." if len(text) > _MAX_SHOWN else "")


def shown(value: Any) -> str:
    """A value of a file. Never descends into containers, which may be huge, or contain themselves."""
    if isinstance(value, str):
        return quoted(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)[:_MAX_SHOWN]
    return {"dict": "an object", "list": "an array"}.get(type(value).__name__, type(value).__name__)
