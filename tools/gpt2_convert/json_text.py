# SPDX-License-Identifier: MIT
"""Strict JSON (RFC 8259): what two readers could understand differently is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from .errors import ConvertError
from .file_access import read_all
from .messages import quoted, shown

#: No JSON file of a model comes near; it bounds the memory that a hostile one can take.
MAX_FILE_SIZE = 100_000_000
_MAX_DIGITS = 40  # of whole numbers: converting many takes quadratic time


def parse(text: bytes, name: str) -> Any:
    """A JSON document in UTF-8. Names that occur twice in an object and numbers that are none are refused.

    :param name: stands for the text in messages
    """

    def fail(found: str) -> NoReturn:
        raise ConvertError(f'"{name}": expected valid JSON, found {found}')

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                fail(f"the key {quoted(key)} twice in one object")
            result[key] = value
        return result

    def whole(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            fail(f"a number of {len(digits)} digits")
        return int(digits)

    def real(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            fail(f"the number {digits[:_MAX_DIGITS]}, which is too large")
        return value

    try:
        decoded = text.decode("utf-8")
        value = json.loads(
            decoded, object_pairs_hook=unique, parse_int=whole, parse_float=real, parse_constant=fail
        )
        if "\\u" in decoded:  # halves of surrogate pairs, which are no text
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        fail(f"line {error.lineno}: {error.msg[0].lower()}{error.msg[1:]}" if text else "an empty file")
    except UnicodeError as error:
        fail(f"text that is not UTF-8: {error.reason if hasattr(error, 'reason') else error}")
    except RecursionError:
        fail("arrays or objects nested too deeply")
    return value


def parse_file(path: Path) -> Any:
    return parse(read_all(path, MAX_FILE_SIZE), str(path))


def parse_object(path: Path) -> dict[str, Any]:
    """A file that must hold one object."""
    value = parse_file(path)
    if not isinstance(value, dict):
        raise ConvertError(f'"{path}": expected a JSON object, found {shown(value)}')
    return value
