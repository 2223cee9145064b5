# SPDX-License-Identifier: MIT
"""Files and directories that appear complete or not at all.

What is written goes to a hidden neighbour (".NAME.XXXXXXXX.partial"), which takes the name of the output once
it is on the disk. It is removed when anything goes wrong; only a process that is killed outright leaves it.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import signal
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Collection, Iterator, cast

from .errors import ConvertError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_file(
    path: Path, *, overwrite: bool = False, expected_size: int | None = None
) -> Iterator[BinaryIO]:
    """A new file, open for writing; it has its name when the block is left without an exception.

    An existing file is refused, or with overwrite replaced. expected_size is what the disk must have free.
    """
    path = Path(path)
    _check_parent(path, expected_size)
    _check_output_file(path, overwrite)
    temporary = _neighbour(path)
    with _termination_as_exception():
        try:
            with create_file(temporary, path) as file:
                yield file
            _check_output_file(path, overwrite)  # somebody else may have been quicker
            with _errors_name(path):
                os.replace(temporary, path)
                _sync_directory(path.parent)
        finally:
            with suppress(OSError):  # it is gone already when all went well
                temporary.unlink()


@contextmanager
def atomic_directory(
    path: Path,
    *,
    overwrite: bool = False,
    replaces: Collection[str] = (),
    expected_size: int | None = None,
) -> Iterator[Path]:
    """A new directory to fill; it has its name when the block is left without an exception.

    An existing directory is refused unless it is empty. With overwrite it may hold files of the names in
    replaces, which are lost; one that holds anything else is refused.
    """
    path = Path(path)
    _check_parent(path, expected_size)
    _check_output_directory(path, overwrite, replaces)
    temporary = _neighbour(path)
    with _termination_as_exception():
        try:
            with _errors_name(path):
                temporary.mkdir()
            yield temporary
            _check_output_directory(path, overwrite, replaces)
            with _errors_name(path):
                _sync_directory(temporary)
                _replace_directory(temporary, path)
                _sync_directory(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def create_file(path: Path, shown: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that is on the disk when the block ends. Messages call it shown."""
    with _errors_name(shown):
        raw = _OutputFile(path, shown)
    file = io.BufferedWriter(raw, 1 << 20)
    try:
        yield cast(BinaryIO, file)
        file.flush()
        with _errors_name(shown):
            os.fsync(raw.fileno())
    except BaseException:
        # Closing writes what is buffered once more; the first error is the one that tells.
        with suppress(Exception):
            file.close()
        raise
    with _errors_name(shown):  # network file systems report a full disk here
        file.close()


class _OutputFile(io.FileIO):
    """A new file that reports failures to write as ConvertError.

    Done here because the block around it reads other files too, whose errors are not this file's.
    """

    def __init__(self, path: Path, shown: Path) -> None:
        super().__init__(str(path), "x")
        self._shown = shown

    def write(self, data: Any, /) -> int:
        with _errors_name(self._shown):
            return super().write(data)


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ConvertError(
                f'"{path}": the disk is full: {error.strerror} (nothing was written)'
            ) from error
        raise ConvertError(f'"{path}": cannot be written: {error.strerror or error}') from error


def _neighbour(path: Path) -> Path:
    return path.parent / f".{path.name[:200]}.{secrets.token_hex(4)}.partial"


def _exists(path: Path) -> bool:
    with _errors_name(path):
        try:
            os.lstat(path)
            return True
        except FileNotFoundError:
            return False


def _check_output_file(path: Path, overwrite: bool) -> None:
    if os.path.isdir(path):
        raise ConvertError(f'"{path}": expected the name of a file to write, found a directory')
    if _exists(path):
        if not os.path.isfile(path) and not os.path.islink(path):
            raise ConvertError(f'"{path}": expected a regular file to replace, found something else')
        if not overwrite:
            raise ConvertError(f'"{path}": exists already (--overwrite replaces it)')


def _check_output_directory(path: Path, overwrite: bool, replaces: Collection[str]) -> None:
    if not _exists(path):
        return
    if os.path.islink(path) or not os.path.isdir(path):
        raise ConvertError(f'"{path}": expected the name of a directory to write, found a file')
    with _errors_name(path):
        present = sorted(os.listdir(path))
    if present and not overwrite:
        raise ConvertError(f'"{path}": exists already and is not empty (--overwrite replaces its files)')
    for name in present:
        if name not in replaces or os.path.isdir(path / name):
            raise ConvertError(f'"{path}": expected only files that are replaced, found "{name}"')


def _check_parent(path: Path, expected_size: int | None) -> None:
    if not path.name:
        raise ConvertError(f'"{path}": expected the name of an output, found none')
    parent = path.parent
    if not os.path.isdir(parent):
        raise ConvertError(f'"{path}": the directory "{parent}" does not exist')
    if expected_size is None:
        return
    with _errors_name(path):
        free = shutil.disk_usage(parent).free
    if free < expected_size:
        raise ConvertError(
            f'"{path}": the disk is full: expected {expected_size} bytes free in "{parent}", found {free}'
        )


def _replace_directory(temporary: Path, path: Path) -> None:
    """Renames a directory. Only an empty one can be replaced at once, so old files step aside first."""
    if not os.path.isdir(path) or not os.listdir(path):
        os.replace(temporary, path)
        return
    aside = _neighbour(path)
    os.replace(path, aside)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    """Makes names last through a loss of power. Only POSIX systems can open a directory for that."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot, and need not
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _termination_as_exception() -> Iterator[None]:
    """SIGTERM and SIGHUP end a process at once; here they raise SystemExit, so that files are removed."""

    def raise_exit(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    changed: list[int] = []
    if threading.current_thread() is threading.main_thread():  # nowhere else can handlers be set
        for number in (getattr(signal, name) for name in names):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, raise_exit)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
