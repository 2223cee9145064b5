# SPDX-License-Identifier: MIT
"""Folders, programs that are run, and what was made from what."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Mapping, Sequence

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
WORK = REPOSITORY / "build" / "compare"


class CompareError(Exception):
    """Something that was expected is not so; the message says what."""


def say(message: str) -> None:
    print(f"compare: {message}", file=sys.stderr, flush=True)


def find_program(name: str, hint: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise CompareError(f"expected the program {name}, found none ({hint})")
    return path


def execute(
    command: Sequence[str | Path],
    log: str,
    folder: Path = REPOSITORY,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs a program, its output in WORK/<log>.log, which is shown if it fails."""
    path = WORK / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        status = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            check=False,
        ).returncode
    if status != 0:
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-20:])
        raise CompareError(f"{Path(command[0]).name} failed; the end of {path}:\n{tail}")


def hash_of(*paths: Path) -> str:
    """Of the bytes of files, and of the Python files in folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def make(target: Path, recipe: str, body: Callable[[], None]) -> Path:
    """Calls body, which makes the target, unless it is there and was made by the same recipe (any text that
    changes when the target must be made anew)."""
    stamp = target.with_name(target.name + ".recipe")
    if target.exists() and stamp.exists() and stamp.read_text() == recipe:
        return target
    stamp.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    body()
    stamp.write_text(recipe)
    return target
