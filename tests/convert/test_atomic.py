# SPDX-License-Identifier: MIT
"""Outputs appear complete or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gpt2_convert import atomic
from gpt2_convert.atomic import atomic_directory, atomic_file, create_file
from gpt2_convert.errors import ConvertError

TOOLS = Path(__file__).parents[2] / "tools"


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_a_file_appears_at_the_end(tmp_path):
    out = tmp_path / "out.bin"
    with atomic_file(out) as file:
        file.write(b"part")
        assert not out.exists()
        assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".out.bin.")
    assert out.read_bytes() == b"part"
    assert names(tmp_path) == ["out.bin"]


def test_a_file_has_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "out.bin"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out.bin").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_leaves_what_was_there(tmp_path, error, old):
    out = tmp_path / "out.bin"
    if old is not None:
        out.write_bytes(old)
    with pytest.raises(error):
        with atomic_file(out, overwrite=True) as file:
            file.write(b"x" * 5_000_000)
            raise error
    assert names(tmp_path) == ([] if old is None else ["out.bin"])
    assert old is None or out.read_bytes() == old


def test_an_existing_file_is_replaced_only_when_told(tmp_path):
    out = tmp_path / "out.bin"
    out.write_bytes(b"old")
    with pytest.raises(ConvertError, match="exists already"):
        with atomic_file(out):
            pytest.fail("must be refused before anything is written")
    assert out.read_bytes() == b"old"
    with atomic_file(out, overwrite=True) as file:
        file.write(b"new")
        assert out.read_bytes() == b"old"
    assert out.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    out = tmp_path / "out.bin"
    with pytest.raises(ConvertError, match="exists already"):
        with atomic_file(out) as file:
            file.write(b"mine")
            out.write_bytes(b"theirs")
    assert out.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out.bin"]


def test_a_link_is_replaced_and_not_what_it_points_to(tmp_path):
    target, out = tmp_path / "target", tmp_path / "out.bin"
    target.write_bytes(b"precious")
    out.symlink_to(target)
    with atomic_file(out, overwrite=True) as file:
        file.write(b"new")
    assert target.read_bytes() == b"precious"
    assert out.read_bytes() == b"new" and not out.is_symlink()


def test_places_that_cannot_be_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    for out, reason in [
        (tmp_path, "found a directory"),
        (tmp_path / "missing" / "out", "does not exist"),
        (tmp_path / "file" / "out", "does not exist"),
        (tmp_path / "pipe", "regular file"),
        (Path(""), "found"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ]:
        with pytest.raises(ConvertError, match=reason):
            with atomic_file(out, overwrite=True):
                pytest.fail("must be refused before anything is written")
    assert names(tmp_path) == ["file", "pipe"]


def in_child(code: str, *arguments: object, directory: Path | None = None) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
    )


def test_a_directory_without_permission(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    if os.access(locked, os.W_OK):  # root may write anywhere
        code = """
            import os
            from gpt2_convert.atomic import atomic_file
            from gpt2_convert.errors import ConvertError
            from pathlib import Path
            os.setuid(65534)  # who may not be able to read the modules
            try:
                with atomic_file(Path("out.bin")):
                    print("written")
            except ConvertError as error:
                print(error)
        """
        os.chdir(locked)
        output, errors = in_child(code, directory=locked).communicate(timeout=60)
        assert "cannot be written: Permission denied" in output, errors
    else:
        with pytest.raises(ConvertError, match="Permission denied"):
            with atomic_file(locked / "out.bin"):
                pass
    assert names(locked) == []


def test_too_little_space_is_seen_before_anything_is_written(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ConvertError, match=f"the disk is full: expected {free * 2} bytes free"):
        with atomic_file(tmp_path / "out.bin", expected_size=free * 2):
            pytest.fail("must be refused before anything is written")
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk):
    out = small_disk / "out.bin"
    out.write_bytes(b"old")
    with pytest.raises(ConvertError, match="the disk is full: No space left on device"):
        with atomic_file(out, overwrite=True) as file:
            file.write(bytes(2_000_000))
    assert names(small_disk) == ["out.bin"] and out.read_bytes() == b"old"


def test_a_disk_that_is_full_when_the_buffer_is_written(small_disk):
    with pytest.raises(ConvertError, match="the disk is full"):
        with atomic_file(small_disk / "out.bin") as file:
            file.write(bytes(400_000))  # less than the buffer: nothing fails before the end
    assert names(small_disk) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failure_that_only_fsync_reports(tmp_path, monkeypatch, code):
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(ConvertError, match="cannot be written" if code == errno.EIO else "disk is full"):
        with atomic_file(tmp_path / "out.bin") as file:
            file.write(b"x")
    assert names(tmp_path) == []


def test_errors_of_other_files_are_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic_file(tmp_path / "out.bin"):
            open(tmp_path / "input.bin", "rb")
    assert names(tmp_path) == []


WRITE_HALF = """
    import sys
    from pathlib import Path
    import numpy as np
    from gpt2_convert.atomic import atomic_directory, atomic_file, create_file
    from gpt2_convert.safetensors_writer import SafetensorsWriter

    def half(file):
        writer = SafetensorsWriter(file, [("a", "F32", (4,)), ("b", "F32", (4,))], {"format": "pt"})
        writer.write("a", np.zeros(4, np.float32))
        file.flush()
        print("half", flush=True)
        sys.stdin.readline() or __import__("time").sleep(60)

    out = Path(sys.argv[2])
    if sys.argv[1] == "file":
        with atomic_file(out) as file:
            half(file)
    else:
        with atomic_directory(out) as directory, create_file(directory / "w", out / "w") as file:
            half(file)
"""


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_killed_program_leaves_nothing_that_looks_complete(tmp_path, kind, number):
    with in_child(WRITE_HALF, kind, tmp_path / "out") as child:
        assert child.stdout is not None and child.stdout.readline() == "half\n"
        child.send_signal(number)
        child.wait(60)
    assert child.returncode != 0
    left = names(tmp_path)
    if number != signal.SIGKILL:
        assert left == []
        return
    # Nothing can be done about this signal. What is left is hidden, and its header is zeros.
    assert len(left) == 1 and left[0].startswith(".out.") and left[0].endswith(".partial")
    file = tmp_path / left[0] if kind == "file" else tmp_path / left[0] / "w"
    assert file.read_bytes().strip(b"\0") == b""
    with pytest.raises(Exception):
        from gpt2_convert import safetensors_file

        safetensors_file.read(file)


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_signals_are_as_before_afterwards(tmp_path, before):
    original = signal.signal(signal.SIGTERM, before)
    try:
        with atomic_file(tmp_path / "out.bin"):
            assert (signal.getsignal(signal.SIGTERM) == before) == (before == signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, original)


def test_a_directory_appears_at_the_end(tmp_path):
    out = tmp_path / "out"
    with atomic_directory(out) as directory:
        with create_file(directory / "a", out / "a") as file:
            file.write(b"1")
        assert not out.exists()
    assert names(out) == ["a"] and names(tmp_path) == ["out"]


def test_an_exception_leaves_no_directory(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with atomic_directory(tmp_path / "out") as directory:
            (directory / "a").write_bytes(b"1")
            raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_an_empty_directory_is_filled(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with atomic_directory(out) as directory:
        (directory / "a").write_bytes(b"1")
    assert names(out) == ["a"]


def test_a_directory_is_replaced_only_where_nothing_else_is_lost(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_bytes(b"old")
    with pytest.raises(ConvertError, match="is not empty"):
        with atomic_directory(out, replaces=("a",)):
            pytest.fail("must be refused before anything is written")
    with atomic_directory(out, overwrite=True, replaces=("a", "b")) as directory:
        (directory / "b").write_bytes(b"new")
    assert names(out) == ["b"] and names(tmp_path) == ["out"]
    (out / "thesis.tex").write_bytes(b"precious")
    with pytest.raises(ConvertError, match='found "thesis.tex"'):
        with atomic_directory(out, overwrite=True, replaces=("a", "b")):
            pytest.fail("must be refused before anything is written")
    assert names(out) == ["b", "thesis.tex"]


def test_places_where_no_directory_can_be(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    for out, reason in [
        (tmp_path / "file", "found a file"),
        (tmp_path / "link", "found a file"),
        (tmp_path / "missing" / "out", "does not exist"),
    ]:
        with pytest.raises(ConvertError, match=reason):
            with atomic_directory(out, overwrite=True):
                pass
    assert names(tmp_path) == ["file", "link"]


def test_a_full_disk_leaves_no_directory(small_disk):
    with pytest.raises(ConvertError, match='out/a": the disk is full'):
        with atomic_directory(small_disk / "out") as directory:
            with create_file(directory / "a", small_disk / "out" / "a") as file:
                file.write(bytes(2_000_000))
    assert names(small_disk) == []
