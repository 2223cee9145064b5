# SPDX-License-Identifier: MIT
"""Downloads from a server that does everything wrong, and progress."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from gpt2_convert import download
from gpt2_convert.download import Downloader, DownloadError, Unreachable
from gpt2_convert.errors import ConvertError
from gpt2_convert.progress import Progress
from gpt2_convert.sources import openai_download
from scripted_server import (
    ScriptedServer,
    answer,
    drop_after,
    etag_of,
    good,
    hang_up,
    redirect,
    without_ranges,
)

CONTENT = bytes(range(256)) * 800  # 204800 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
QUIET = functools.partial(Progress, quiet=True)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with contextlib.closing(ScriptedServer()) as result:
        result.files["/file"] = CONTENT
        yield result


@pytest.fixture
def sleeps() -> list[float]:
    return []


class Fetcher:
    """Fetches /file of a server into a directory."""

    def __init__(self, server: ScriptedServer, directory: Path, sleeps: list[float]) -> None:
        self.url = server.url + "/file"
        self.path = directory / "folder" / "file"
        self.incomplete = self.path.with_name("file.incomplete")
        self.sleeps = sleeps
        self.options: dict[str, Any] = {"progress": QUIET, "retries": 3, "sleep": sleeps.append}

    def __call__(self, **arguments: Any) -> None:
        given = {"size": len(CONTENT), "sha256": SHA256, **arguments}
        Downloader(**self.options).fetch(self.url, self.path, **given)

    def refused(self, match: str, **arguments: Any) -> DownloadError:
        with pytest.raises(ConvertError, match=match) as caught:
            self(**arguments)
        assert not self.path.exists()
        return caught.value  # type: ignore[return-value]

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir())


@pytest.fixture
def fetch(server: ScriptedServer, tmp_path: Path, sleeps: list[float]) -> Fetcher:
    return Fetcher(server, tmp_path, sleeps)


def last_range(server: ScriptedServer) -> str | None:
    return server.requests[-1][1].get("Range")


# What works


@pytest.mark.parametrize(
    "arguments",
    [{}, {"sha256": None, "git_sha1": GIT_SHA1}, {"sha256": None}, {"sha256": None, "size": None}],
)
def test_complete_file(fetch: Fetcher, server: ScriptedServer, arguments: dict[str, Any]) -> None:
    fetch(**arguments)
    assert fetch.path.read_bytes() == CONTENT
    assert fetch.names() == ["file"]
    assert server.bytes_served == len(CONTENT)
    assert fetch.sleeps == []


def test_replaces_what_is_there(fetch: Fetcher) -> None:
    fetch.path.parent.mkdir()
    fetch.path.write_bytes(b"old")
    fetch()
    assert fetch.path.read_bytes() == CONTENT


def test_empty_file(fetch: Fetcher, server: ScriptedServer) -> None:
    server.files["/file"] = b""
    fetch(size=None, sha256=None)
    assert fetch.path.read_bytes() == b"" and fetch.names() == ["file"]
    fetch(size=0, sha256=hashlib.sha256(b"").hexdigest())
    assert fetch.path.read_bytes() == b"" and fetch.names() == ["file"]


def test_chunked(fetch: Fetcher, server: ScriptedServer) -> None:
    def chunked(server: ScriptedServer, handler: Any) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for i in range(0, len(CONTENT), 1000):
            chunk = CONTENT[i : i + 1000]
            server.send(handler, b"%x\r\n%s\r\n" % (len(chunk), chunk))
        server.send(handler, b"0\r\n\r\n")

    server.scripts["/file"] = [chunked]
    fetch()
    assert fetch.path.read_bytes() == CONTENT
    server.scripts["/file"] = [chunked]
    fetch.path.unlink()
    fetch.refused("does not say how long", size=None)


# Connections that break


@pytest.mark.parametrize("reset", [False, True])
def test_resumes_after_drops(fetch: Fetcher, server: ScriptedServer, reset: bool) -> None:
    server.scripts["/file"] = [drop_after(1000, reset=reset), drop_after(100_000, reset=reset)]
    fetch()
    assert fetch.path.read_bytes() == CONTENT
    assert fetch.sleeps == [1, 2]
    if not reset:  # which may take what was sent with it
        assert server.bytes_served == len(CONTENT)
        assert [headers.get("Range") for _, headers in server.requests] == [
            None,
            "bytes=1000-",
            "bytes=101000-",
        ]
        assert server.requests[-1][1]["If-Range"] == etag_of(CONTENT)


def test_resumes_in_another_run(fetch: Fetcher, server: ScriptedServer) -> None:
    fetch.options["retries"] = 0
    server.scripts["/file"] = [drop_after(150_000)]
    error = fetch.refused("ended after 150000 of 204800 bytes")
    assert isinstance(error, Unreachable)
    assert fetch.names() == ["file.incomplete", "file.incomplete.json"]
    fetch()
    assert last_range(server) == "bytes=150000-"
    assert server.bytes_served == len(CONTENT)
    assert fetch.path.read_bytes() == CONTENT and fetch.names() == ["file"]


def test_interrupt_leaves_the_part(fetch: Fetcher, server: ScriptedServer) -> None:
    class Interrupted(Progress):
        def update(self, done: int) -> None:
            if done >= 50_000:
                raise KeyboardInterrupt

    server.scripts["/file"] = [drop_after(60_000)]
    fetch.options["progress"] = functools.partial(Interrupted, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    there = fetch.incomplete.read_bytes()
    assert len(there) >= 50_000 and CONTENT.startswith(there)
    fetch.options["progress"] = QUIET
    fetch()
    assert last_range(server) == f"bytes={len(there)}-"
    assert fetch.path.read_bytes() == CONTENT


def test_killed_before_the_rename(fetch: Fetcher, server: ScriptedServer) -> None:
    """A part that is complete needs no request."""
    fetch.path.parent.mkdir()
    fetch.incomplete.write_bytes(CONTENT)
    fetch()
    assert server.requests == [] and fetch.path.read_bytes() == CONTENT


def test_part_without_etag_or_checksum_is_not_used(fetch: Fetcher, server: ScriptedServer) -> None:
    fetch.path.parent.mkdir()
    fetch.incomplete.write_bytes(b"x" * 1000)
    fetch(sha256=None)
    assert last_range(server) is None and fetch.path.read_bytes() == CONTENT


def test_part_that_is_too_long(fetch: Fetcher, server: ScriptedServer) -> None:
    fetch.path.parent.mkdir()
    fetch.incomplete.write_bytes(CONTENT + b"x")
    fetch()
    assert last_range(server) is None and fetch.path.read_bytes() == CONTENT


@pytest.mark.parametrize("note", [b"", b"[]", b"{" * 100_000, b'{"etag": "x", "md5": "", "total": "12"}'])
def test_unreadable_note(fetch: Fetcher, note: bytes) -> None:
    fetch.path.parent.mkdir()
    fetch.incomplete.write_bytes(CONTENT[:1000])
    fetch.incomplete.with_name("file.incomplete.json").write_bytes(note)
    fetch(sha256=None, size=None)
    assert fetch.path.read_bytes() == CONTENT


def test_server_without_ranges(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [drop_after(1000), without_ranges]
    fetch()
    assert last_range(server) == "bytes=1000-"
    assert fetch.path.read_bytes() == CONTENT


@pytest.mark.parametrize("honest", [True, False])
def test_file_changes_between_attempts(fetch: Fetcher, server: ScriptedServer, honest: bool) -> None:
    """A server that does not know If-Range sends the rest of the new file: its ETag shows it."""
    new = CONTENT[::-1]

    def change(server: ScriptedServer, handler: Any) -> None:
        server.files["/file"] = new
        if not honest:
            del handler.headers["If-Range"]
        good(server, handler)

    server.scripts["/file"] = [drop_after(1000), change]
    fetch(sha256=None)
    assert fetch.path.read_bytes() == new


@pytest.mark.parametrize(
    "content_range",
    ["bytes 0-204799/204800", "bytes 1000-204798/204800", "bytes 1001-204799/204800", "no", ""],
)
def test_wrong_content_range(fetch: Fetcher, server: ScriptedServer, content_range: str) -> None:
    wrong = answer(206, CONTENT[1000:], Content_Range=content_range)
    server.scripts["/file"] = [drop_after(1000), wrong]
    fetch()
    assert last_range(server) is None  # begun anew
    assert fetch.path.read_bytes() == CONTENT


def test_total_in_content_range_differs(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [drop_after(1000), answer(206, b"", Content_Range="bytes 1000-1001/1002")]
    fetch.refused("expected 204800 bytes, found 1002 bytes")


def test_total_in_content_range_changes(fetch: Fetcher, server: ScriptedServer) -> None:
    longer = answer(206, b"x", Content_Range="bytes 204799-204800/204801")
    server.scripts["/file"] = [drop_after(204_799), longer]
    fetch(size=None, sha256=None)
    assert last_range(server) is None and fetch.path.read_bytes() == CONTENT


def test_416(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [drop_after(1000), answer(416)]
    fetch()
    assert fetch.path.read_bytes() == CONTENT
    fetch.path.unlink()
    server.scripts["/file"] = [answer(416)]
    assert fetch.refused("the server answered 416").status == 416


def test_gives_up(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [hang_up] * 10
    assert isinstance(fetch.refused(r"tried 4 times"), Unreachable)
    assert fetch.sleeps == [1, 2, 4]
    assert fetch.names() == []


def test_progress_makes_patience(fetch: Fetcher, server: ScriptedServer, monkeypatch: Any) -> None:
    """More drops than retries are nothing as long as it goes on; going on means more than ever before."""
    monkeypatch.setattr(download, "ENOUGH_PROGRESS", 10_000)
    server.scripts["/file"] = [drop_after(20_000)] * 10
    fetch()
    assert server.bytes_served == len(CONTENT)
    fetch.path.unlink()
    server.scripts["/file"] = [drop_after(20_000, without_ranges)] * 20
    fetch.refused("ended after 20000 of 204800 bytes")


def test_refused_connection(fetch: Fetcher, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        fetch.url = f"http://127.0.0.1:{free.getsockname()[1]}/file"
        assert isinstance(fetch.refused("Connection refused"), Unreachable)


def test_answer_that_is_not_http(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [lambda server, handler: handler.wfile.write(b"\x00\x01\x02 nonsense\n")]
    fetch()
    assert fetch.path.read_bytes() == CONTENT


def test_no_answer_in_time(fetch: Fetcher) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        fetch.url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        fetch.options.update(timeout=0.05, retries=1)
        fetch.refused("(no answer in time|timed out)")


# Statuses


def test_server_errors_pass(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [answer(500), answer(503), answer(408)]
    fetch()
    assert fetch.path.read_bytes() == CONTENT
    assert fetch.sleeps == [1, 2, 4]


def test_server_error_stays(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [answer(502)] * 4
    error = fetch.refused("the server answered 502 Bad Gateway .tried 4 times")
    assert isinstance(error, Unreachable) and error.status == 502


@pytest.mark.parametrize(
    "given, waits",
    [
        ("7", 7),
        ("0", 0),
        ("100000", download.LONGEST_WAIT),
        ("9" * 18, download.LONGEST_WAIT),
        ("Fri, 31 Dec 2999 23:59:59 GMT", download.LONGEST_WAIT),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("-5", 1),
        ("soon", 1),
        ("Fri, 99 Dec 2999 23:59:59 GMT", 1),
    ],
)
def test_retry_after(fetch: Fetcher, server: ScriptedServer, given: str, waits: float) -> None:
    server.scripts["/file"] = [answer(429, Retry_After=given)]
    fetch()
    assert fetch.sleeps == [waits]


def test_429_stays(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [answer(429, Retry_After="1")] * 4
    error = fetch.refused("answered 429")
    assert error.status == 429 and not isinstance(error, Unreachable)


@pytest.mark.parametrize("status", [204, 206, 300, 304, 400, 401, 403, 404, 410, 451])
def test_other_status_is_final(fetch: Fetcher, server: ScriptedServer, status: int) -> None:
    server.scripts["/file"] = [answer(status)]
    error = fetch.refused(f'"{fetch.url}": the server answered {status}')
    assert error.status == status and fetch.sleeps == [] and fetch.names() == []


def test_message_of_the_server_is_made_harmless(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [answer(400, X_Error_Message="\x1b[2Jhello" + "x" * 1000)]
    error = str(fetch.refused("hello"))
    assert "\x1b" not in error and len(error) < 400


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(fetch: Fetcher, server: ScriptedServer, status: int) -> None:
    server.scripts["/file"] = [redirect("/other place", status)]
    server.files["/other%20place"] = CONTENT
    fetch.options["token"] = "secret"
    fetch()
    assert fetch.path.read_bytes() == CONTENT
    assert [headers["Authorization"] for _, headers in server.requests] == ["Bearer secret"] * 2


def test_redirect_to_another_host(fetch: Fetcher, server: ScriptedServer) -> None:
    """The token stays behind, also when the other host sends the request back."""
    with contextlib.closing(ScriptedServer()) as other:
        server.scripts["/file"] = [redirect(other.url + "/far?signature=1")]
        other.scripts["/far"] = [redirect(server.url + "/back")]
        server.files["/back"] = CONTENT
        fetch.options["token"] = "secret"
        fetch()
        assert server.requests[0][1]["Authorization"] == "Bearer secret"
        assert other.requests[0][1]["Authorization"] is None
        assert server.requests[1][1]["Authorization"] is None
    assert fetch.path.read_bytes() == CONTENT


def test_resumes_from_the_first_address(fetch: Fetcher, server: ScriptedServer) -> None:
    """What it redirects to may have been valid for minutes only."""
    server.scripts["/file"] = [redirect("/a"), redirect("/b")]
    server.files["/a"] = server.files["/b"] = CONTENT
    server.scripts["/a"] = [drop_after(1000)]
    fetch()
    assert server.paths() == ["/file", "/a", "/file", "/b"]
    assert server.bytes_served == len(CONTENT)


def test_redirect_loop(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [redirect("/file")] * 100
    fetch.refused("redirected more than 10 times")
    assert len(server.requests) == 11 and fetch.sleeps == []


@pytest.mark.parametrize(
    "location, match",
    [
        ("", "not to anywhere"),
        ("ftp://127.0.0.1/file", "begins with https"),
        ("file:///etc/passwd", "begins with https"),
        ("http://example.invalid/file?key=1", r"example.invalid/file\"\): expected an address .* https"),
        ("http://[", "not a valid address"),
        ("http://127.0.0.1:x/", "not a valid address"),
    ],
)
def test_redirect_to_what_is_refused(
    fetch: Fetcher, server: ScriptedServer, location: str, match: str
) -> None:
    server.scripts["/file"] = [redirect(location)]
    fetch.refused(match)
    assert fetch.sleeps == []


def test_no_redirect_from_https_to_http(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        status = 302
        headers = {"Location": "http://127.0.0.1/file"}

        def close(self) -> None:
            pass

    monkeypatch.setattr(Downloader, "_request", lambda *arguments: Answer())
    fetch.url = "https://127.0.0.1/file"
    fetch.refused('redirected from https to "http://127.0.0.1/file"')


@pytest.mark.parametrize(
    "url",
    ["http://example.invalid/file", "ftp://example.invalid/", "/etc/passwd", "https://[", "https://h:x/"],
)
def test_address_that_is_refused(fetch: Fetcher, url: str) -> None:
    fetch.url = url
    fetch.refused("(expected an address that begins with https://|not a valid address)")
    assert fetch.sleeps == []


def test_http_host_that_was_asked_for(fetch: Fetcher, server: ScriptedServer, monkeypatch: Any) -> None:
    """Such a host is no reason to send it the token in the clear."""
    monkeypatch.setattr(download, "LOCAL_HOSTS", frozenset[str]())
    fetch.refused("begins with https")
    fetch.options.update(http_hosts=frozenset({"127.0.0.1"}), token="secret")
    fetch()
    assert server.requests[0][1]["Authorization"] is None


@pytest.mark.parametrize("token", ["a b", "a\r\nHost: x", "", "\u20ac"])
def test_token_that_is_none(fetch: Fetcher, token: str) -> None:
    fetch.options["token"] = token
    fetch.refused("access token")


# Lies


def test_size_differs(fetch: Fetcher, server: ScriptedServer) -> None:
    fetch.refused("expected 204801 bytes, found 204800 bytes announced", size=len(CONTENT) + 1)
    assert server.bytes_served <= len(CONTENT) and fetch.sleeps == []
    assert fetch.names() == []


def test_content_length_too_large(fetch: Fetcher, server: ScriptedServer) -> None:
    server.scripts["/file"] = [answer(200, CONTENT, Content_Length="300000", ETag='"x"')] * 10
    fetch.refused("ended after 204800 of 300000 bytes", size=None, sha256=None)


@pytest.mark.parametrize("length", ["100", "abc", "-1", "1" * 30])
def test_content_length_wrong(fetch: Fetcher, server: ScriptedServer, length: str) -> None:
    md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    server.scripts["/file"] = [answer(200, CONTENT, Content_Length=length, Content_MD5=md5)] * 10
    fetch.refused("(md5: expected|Content-Length: expected)", size=None, sha256=None)
    server.scripts["/file"] = [answer(200, CONTENT, Content_Length=length)] * 10
    fetch.refused("(expected 204800 bytes, found 100|Content-Length: expected)")


def test_more_than_announced(fetch: Fetcher, server: ScriptedServer) -> None:
    def endless(server: ScriptedServer, handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        server.send(handler, CONTENT + b"x")

    server.scripts["/file"] = [endless]
    fetch.refused("expected 204800 bytes, found more")
    assert fetch.names() == []


@pytest.mark.parametrize("kind", ["sha256", "git_sha1"])
def test_wrong_checksum(fetch: Fetcher, kind: str) -> None:
    digest = "0" * (64 if kind == "sha256" else 40)
    fetch.refused(f"{kind.replace('_', ' ')}: expected {digest}, found ", **{"sha256": None, kind: digest})
    assert fetch.names() == []


def test_wrong_md5(fetch: Fetcher, server: ScriptedServer) -> None:
    server.headers["Content-MD5"] = base64.b64encode(b"\0" * 16).decode()
    fetch.refused("md5: expected 0{32}, found", size=None, sha256=None)
    assert fetch.names() == []


def test_md5_over_a_resumed_file(fetch: Fetcher, server: ScriptedServer) -> None:
    """The one of a part is not the one of the whole."""
    server.headers["Content-MD5"] = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    rest = CONTENT[1000:]
    part = answer(
        206,
        rest,
        Content_Range=f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}",
        Content_MD5=base64.b64encode(hashlib.md5(rest).digest()).decode(),
    )
    server.scripts["/file"] = [drop_after(1000), part]
    fetch(size=None, sha256=None)
    assert fetch.path.read_bytes() == CONTENT
    wrong = answer(206, rest[::-1], Content_Range=f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}")
    server.scripts["/file"] = [drop_after(1000), wrong]
    fetch.path.unlink()
    fetch.refused("md5: expected", size=None, sha256=None)


def test_md5_that_only_a_part_tells(fetch: Fetcher, server: ScriptedServer) -> None:
    part = answer(
        206,
        CONTENT[1000:],
        Content_Range=f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}",
        x_ms_blob_content_md5=base64.b64encode(b"\0" * 16).decode(),
    )
    server.scripts["/file"] = [drop_after(1000), part]
    fetch.refused("md5: expected 0{32}, found", size=None, sha256=None)


def test_encoded_answer(fetch: Fetcher, server: ScriptedServer) -> None:
    server.headers["Content-Encoding"] = "gzip"
    fetch.refused("found it encoded as gzip")


def test_part_with_wrong_bytes(fetch: Fetcher) -> None:
    fetch.path.parent.mkdir()
    fetch.incomplete.write_bytes(b"x" * 1000)
    fetch.refused("sha256: expected")
    assert fetch.names() == []
    fetch()
    assert fetch.path.read_bytes() == CONTENT


# The disk


def test_disk_is_too_small(fetch: Fetcher, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(fetch.path.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    fetch.refused("the disk is full: 204800 bytes are to come, 100000 are free")
    server.scripts["/file"] = [drop_after(150_000)]
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "*")
    fetch.options["retries"] = 0
    fetch.refused("ended after")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    fetch()  # the rest has room


def test_disk_becomes_full(fetch: Fetcher) -> None:
    """A limit on the size of files stands in for the disk: the error comes from a real write."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from gpt2_convert.download import Downloader\n"
        "from gpt2_convert.errors import ConvertError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    Downloader().fetch(sys.argv[1], Path(sys.argv[2]), size=None, sha256=None)\n"
        "except ConvertError as error:\n"
        "    sys.exit(str(error))\n"
    )
    tools = str(Path(__file__).parents[2] / "tools")
    done = subprocess.run(
        [sys.executable, "-c", script, fetch.url, str(fetch.path)],
        env={**os.environ, "PYTHONPATH": tools},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert 'file.incomplete": cannot be written: File too large' in done.stderr
    assert "Traceback" not in done.stderr and not fetch.path.exists()
    fetch(sha256=None)
    assert fetch.path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "number, match",
    [(errno.ENOSPC, "the disk is full; make room"), (errno.EROFS, "no permission"), (5, "error")],
)
def test_errors_of_the_disk(number: int, match: str) -> None:
    with pytest.raises(ConvertError, match=f'"x": cannot be written: .*{match}'):
        with download.writing(Path("x")):
            raise OSError(number, os.strerror(number))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(fetch: Fetcher) -> None:
    fetch.path.parent.mkdir(mode=0o500)
    fetch.refused("no permission to write there")


def test_destination_is_a_directory(fetch: Fetcher) -> None:
    fetch.path.mkdir(parents=True)
    with pytest.raises(ConvertError, match="cannot be written: Is a directory"):
        fetch()
    shutil.rmtree(fetch.path.parent)
    fetch.path.parent.write_bytes(b"")
    with pytest.raises(ConvertError, match='folder.*": cannot be written'):
        fetch()


def test_two_at_once(fetch: Fetcher, server: ScriptedServer) -> None:
    """The second is refused, and disturbs nothing."""

    def meanwhile(server: ScriptedServer, handler: Any) -> None:
        fetch.refused("another program is downloading this file")
        good(server, handler)

    server.scripts["/file"] = [meanwhile]
    fetch()
    assert fetch.path.read_bytes() == CONTENT


# Short answers


def test_get(server: ScriptedServer, sleeps: list[float]) -> None:
    server.scripts["/file"] = [answer(500), drop_after(10), hang_up]
    downloader = Downloader(QUIET, sleep=sleeps.append)
    assert downloader.get(server.url + "/file", limit=len(CONTENT)) == CONTENT
    assert sleeps == [1, 2, 4]
    with pytest.raises(DownloadError, match="at most 204799 bytes"):
        downloader.get(server.url + "/file", limit=len(CONTENT) - 1)
    server.scripts["/file"] = [hang_up]
    with pytest.raises(Unreachable, match="tried once"):
        downloader.get(server.url + "/file", limit=10, retries=0)


# Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_progress(stream: io.StringIO, step: float, **options: Any) -> str:
    clock = Clock()
    progress = Progress("name", 200_000_000, stream=stream, clock=clock, **options)
    for done in range(0, 200_000_001, 10_000_000):
        progress.update(done)
        clock.now += step
    progress.finish()
    return stream.getvalue()


def test_progress_in_a_file() -> None:
    lines = run_progress(io.StringIO(), 1.0).splitlines()
    assert lines[0] == "name:  10 %  20.0/200.0 MB  10.0 MB/s"
    assert lines[-1] == "name: 100 %  200.0/200.0 MB  9.5 MB/s"
    assert len(lines) == 11
    assert len(run_progress(io.StringIO(), 0.001).splitlines()) == 1
    assert len(run_progress(io.StringIO(), 60.0).splitlines()) == 21  # so long without a word


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = run_progress(Terminal(), 1.0)
    assert text.count("\n") == 1 and text.endswith("\n")
    assert text.count("\r") == 22
    assert text.split("\r")[1] == "name:   0 %  0.0/200.0 MB"
    monkeypatch.setenv("COLUMNS", "20")
    assert max(map(len, run_progress(Terminal(), 1.0).rstrip("\n").split("\r"))) == 19
    assert run_progress(Terminal(), 0.001).count("\r") == 2


def test_progress_quiet() -> None:
    assert run_progress(io.StringIO(), 1.0, quiet=True) == ""


def test_progress_of_other_things() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("converting", 148, "tensors", stream, clock=clock)
    progress.update(50)  # what was there before is not counted as speed
    clock.now += 2
    progress.update(148)
    progress.message("done with it")
    assert stream.getvalue().splitlines() == [
        "converting: 100 %  148/148 tensors  49.0 tensors/s",
        "converting: done with it",
    ]


def test_download_tells_its_progress(fetch: Fetcher, server: ScriptedServer) -> None:
    said: list[object] = []

    class Told(Progress):
        def update(self, done: int) -> None:
            said.append(done)

        def message(self, text: str) -> None:
            said.append(text)

        def finish(self) -> None:
            said.append("finished")

    def make(label: str, total: int) -> Progress:
        said.append((label, total))
        return Told(label, total, quiet=True)

    fetch.options["progress"] = make
    server.scripts["/file"] = [drop_after(1000)]
    fetch(label="the file")
    assert said[:5] == [
        ("the file", len(CONTENT)),
        0,
        1000,
        "the connection ended after 1000 of 204800 bytes; trying again in 1 s",
        1000,
    ]
    assert said[-2:] == [len(CONTENT), "finished"]


def test_failures_before_the_first_byte_are_told(
    fetch: Fetcher, server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.scripts["/file"] = [answer(503), good, answer(503)]
    fetch.options["progress"] = Progress
    fetch()
    assert capsys.readouterr().err.startswith("file: the server answered 503 Service Unavailable; trying")
    Downloader(sleep=fetch.sleeps.append).get(fetch.url, limit=len(CONTENT))
    assert capsys.readouterr().err.startswith(f"{fetch.url}: the server answered 503")


# OpenAI's checkpoints


@pytest.fixture
def openai(server: ScriptedServer) -> ScriptedServer:
    for name in openai_download.FILES:
        server.files[f"/models/124M/{name}"] = name.encode() * 100
    return server


def openai_environment(server: ScriptedServer, directory: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(directory), "GPT2_DOWNLOAD_URL": server.url + "/models/"}


def test_openai(openai: ScriptedServer, tmp_path: Path) -> None:
    environment = openai_environment(openai, tmp_path)
    directory = openai_download.fetch("124M", environment=environment, progress=QUIET)
    assert directory == tmp_path / "gpt2-models" / "124M"
    assert sorted(path.name for path in directory.iterdir()) == sorted(openai_download.FILES)
    assert (directory / "vocab.bpe").read_bytes() == b"vocab.bpe" * 100
    count = len(openai.requests)
    openai_download.fetch("124M", environment=environment, progress=QUIET)
    assert len(openai.requests) == count  # nothing is fetched twice
    (directory / "checkpoint").unlink()
    openai_download.fetch("124M", base_url=openai.url + "/models", environment=environment, progress=QUIET)
    assert openai.paths()[count:] == ["/models/124M/checkpoint"]


@pytest.mark.parametrize("size", ["345M", "", "../124M", "124m"])
def test_openai_unknown_size(size: str) -> None:
    with pytest.raises(ConvertError, match="expected one of 124M, 355M, 774M, 1558M, found"):
        openai_download.fetch(size)


def test_openai_offline(openai: ScriptedServer, tmp_path: Path, sleeps: list[float]) -> None:
    openai.scripts["/models/124M/hparams.json"] = [hang_up] * 10
    environment = openai_environment(openai, tmp_path)
    with pytest.raises(Unreachable) as caught:
        openai_download.fetch("124M", environment=environment, progress=QUIET, sleep=sleeps.append)
    message = str(caught.value)
    assert f"{openai.url}/models/124M/model.ckpt.data-00000-of-00001\n" in message
    assert message.endswith("tools/convert_weights.py ./124M -o 124M.safetensors")


def test_openai_gone(openai: ScriptedServer, tmp_path: Path) -> None:
    del openai.files["/models/124M/vocab.bpe"]
    environment = openai_environment(openai, tmp_path)
    with pytest.raises(DownloadError, match=r"(?s)vocab.bpe.*answered 404.*GPT2_DOWNLOAD_URL"):
        openai_download.fetch("124M", environment=environment, progress=QUIET)


@pytest.mark.parametrize("base", ["ftp://x", "x", "http://[", "https://["])
def test_openai_wrong_address(base: str, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="(begins with https|not a valid address)"):
        openai_download.fetch("124M", base_url=base, environment={"XDG_CACHE_HOME": str(tmp_path)})
