# SPDX-License-Identifier: MIT
"""Downloads a file so that what is there afterwards is the file, or is not there.

HTTP semantics (redirects, ranges, If-Range, Retry-After) are those of RFC 9110. Azure sends the MD5 of a blob
as Content-MD5, and as x-ms-blob-content-md5 in answers with a part of it ("Get Blob" in its REST reference).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import email.utils
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Callable, Iterable, Iterator, Mapping, TypeVar

from .errors import ConvertError
from .progress import Progress

if sys.platform != "win32":
    import fcntl

ProgressMaker = Callable[[str, int], Progress]  #: of label and total
Sleep = Callable[[float], None]

BLOCK = 1 << 20
ENOUGH_PROGRESS = 1 << 20  #: bytes that make a failed attempt not count as one more in a row
LONGEST_WAIT = 120.0  #: seconds between two attempts, whatever the server asks for
MOST_REDIRECTS = 10
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

_T = TypeVar("_T")


class DownloadError(ConvertError):
    """A download that trying again does not mend."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  #: of HTTP, if that is what went wrong


class Unreachable(DownloadError):
    """No server answered, or none that was able to, however often it was tried."""


class _Transient(Exception):
    """An attempt that failed for a reason that may pass."""

    def __init__(self, message: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait


def printable(text: str, most: int = 200) -> str:
    """What a server said, safe to show: no control characters, not endless."""
    return "".join(c if c.isprintable() else "?" for c in text[:most]) + ("..." if len(text) > most else "")


def cache_home(environment: Mapping[str, str]) -> Path:
    """Where programs keep what they can fetch again (XDG Base Directory Specification)."""
    given = environment.get("XDG_CACHE_HOME", "")
    return Path(given) if os.path.isabs(given) else Path("~/.cache").expanduser()


def by_hand(urls: Iterable[str], directory: str, options: str = "") -> str:
    """How to do without this program's download."""
    files = "".join(f"\n  {url}" for url in urls)
    return (
        f"To do it by hand, download these files with any other program or on another machine:{files}\n"
        f'put them into a directory "{directory}" and run\n'
        f"  tools/convert_weights.py ./{directory} -o {directory}.safetensors{options}"
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; make room and run again to go on from here"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "no permission to write there"
        else:
            reason = error.strerror or str(error)
        raise ConvertError(f'"{path}": cannot be written: {reason}') from error


class Downloader:
    """Fetches over HTTPS; plain HTTP from this machine and from http_hosts only.

    The token is sent to the host of the URL that was asked for, and to no other that it redirects to.
    It is not sent in the clear, but on this machine.
    """

    def __init__(
        self,
        progress: ProgressMaker = Progress,
        retries: int = 5,
        timeout: float = 30.0,
        sleep: Sleep = time.sleep,
        token: str | None = None,
        http_hosts: frozenset[str] = frozenset(),
    ) -> None:
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise DownloadError("the access token: expected printable ASCII characters without spaces")
        self.progress = progress
        self.retries = retries
        self._timeout = timeout
        self._sleep = sleep
        self._token = token
        self._http_hosts = http_hosts | LOCAL_HOSTS
        # Without the handlers of redirects and errors: every answer is looked at here.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
        ):
            self._opener.add_handler(handler)

    def get(self, url: str, *, limit: int, retries: int | None = None) -> bytes:
        """A short answer, in memory."""

        def attempt() -> bytes:
            with contextlib.closing(self.open(url, {})) as response:
                check_status(url, response)
                content = bytearray()
                for block in blocks(response):
                    content += block
                    if len(content) > limit:
                        raise DownloadError(f'"{url}": expected at most {limit} bytes, found more')
                declared = declared_length(url, response)
                if declared is not None and len(content) != declared:
                    raise _Transient(f"the connection ended after {len(content)} of {declared} bytes")
                return bytes(content)

        retries = self.retries if retries is None else retries
        return self.persist(url, attempt, retries, message=self.progress(url, 0).message)

    def fetch(
        self,
        url: str,
        destination: Path,
        *,
        size: int | None,
        sha256: str | None,
        git_sha1: str | None = None,
        label: str | None = None,
    ) -> None:
        """Makes destination the file at url, if that has this size and these checksums.

        What has arrived is in destination.incomplete until then, and stays there when the transfer is
        interrupted: the next call goes on from there.
        """
        with writing(destination):
            destination.parent.mkdir(parents=True, exist_ok=True)
        with _Part(destination) as part:
            transfer = _Transfer(self, url, part, size, bool(sha256 or git_sha1), label or destination.name)
            try:
                self.persist(url, transfer.attempt, self.retries, lambda: part.furthest, transfer.message)
            finally:
                transfer.finish()
            part.verify(url, {"sha256": sha256, "git_sha1": git_sha1, "md5": part.version.md5})
            part.complete()

    def persist(
        self,
        url: str,
        attempt: Callable[[], _T],
        retries: int,
        furthest: Callable[[], int] = lambda: 0,
        message: Callable[[str], None] = lambda text: None,
    ) -> _T:
        """Tries until it works, or has failed too often in a row without getting further."""
        failures = tried = best = 0
        while True:
            try:
                return attempt()
            except _Transient as error:
                tried += 1
                failures = 1 if furthest() - best >= ENOUGH_PROGRESS else failures + 1
                best = max(best, furthest())
                if failures > retries:
                    raise _final(url, error, tried) from error
                wait = min(2.0 ** (failures - 1) if error.wait is None else error.wait, LONGEST_WAIT)
                message(f"{error}; trying again in {wait:.0f} s")
                self._sleep(wait)

    def open(self, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        """The answer at the end of the redirects, whatever its status."""
        asked = url
        token = self._token
        for _ in range(MOST_REDIRECTS + 1):
            self._check_scheme(asked, url)
            if _origin(url) != _origin(asked):
                token = None
            response = self._request(asked, url, headers, token)
            if response.status not in REDIRECTS:
                return response
            location = response.headers.get("Location")
            response.close()
            if not location:
                raise DownloadError(f'"{asked}": redirected ({response.status}), but not to anywhere')
            following = _absolute(url, location)
            if url.startswith("https:") and not following.startswith("https:"):
                raise DownloadError(
                    f'"{asked}": redirected from https to "{_without_query(following)}": refused'
                )
            url = following
        raise DownloadError(f'"{asked}": redirected more than {MOST_REDIRECTS} times')

    def _request(
        self, asked: str, url: str, headers: Mapping[str, str], token: str | None
    ) -> http.client.HTTPResponse:
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", **headers})
        request.add_header("User-Agent", "gpt2-convert")
        if token is not None and (url.startswith("https:") or _host(url) in LOCAL_HOSTS):
            request.add_header("Authorization", f"Bearer {token}")
        try:
            response = self._opener.open(request, timeout=self._timeout)
        except (http.client.InvalidURL, UnicodeError) as error:
            raise DownloadError(f'"{asked}": not a valid address: {printable(str(error))}') from error
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise DownloadError(
                    f'"{asked}": the certificate of the server is not trusted: {reason.verify_message} '
                    "(behind a company's proxy, set SSL_CERT_FILE to its certificate)"
                ) from error
            raise _Transient(_reason(reason)) from error
        assert isinstance(response, http.client.HTTPResponse)
        return response

    def _check_scheme(self, asked: str, url: str) -> None:
        try:
            _origin(url)
        except ValueError as error:
            raise DownloadError(f'"{asked}": not a valid address: {printable(str(error))}') from error
        secure = url.startswith("https://")
        if not secure and not (url.startswith("http://") and _host(url) in self._http_hosts):
            to = "" if url == asked else f' (redirected to "{_without_query(url)}")'
            raise DownloadError(f'"{asked}"{to}: expected an address that begins with https://')


@dataclass
class _Version:
    """What a server said about the file of which a part is there."""

    etag: str = ""
    md5: str = ""  #: hexadecimal, of the whole
    total: int | None = None


class _Part:
    """What has arrived of a file: NAME.incomplete, and NAME.incomplete.json with its version."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination.with_name(destination.name + ".incomplete")
        self._note = destination.with_name(destination.name + ".incomplete.json")
        self.size = 0
        self.furthest = 0
        self._completed = False
        self.version = _Version()

    def __enter__(self) -> _Part:
        with writing(self.path):
            self._file = self._open()
            self.size = self.furthest = self._file.seek(0, os.SEEK_END)
        self.version = self._read_note()
        return self

    def __exit__(self, *exception: object) -> None:
        # What is in the buffer may not fit on the disk: then there is an error already.
        with contextlib.suppress(OSError):
            self._file.close()
        if self.size == 0 and not self._completed:
            for path in (self.path, self._note):
                with contextlib.suppress(OSError):
                    path.unlink()

    def restart(self, version: _Version) -> None:
        """Forgets what has arrived; this version comes now."""
        with writing(self.path):
            self._file.seek(0)
            self._file.truncate()
            self.size = 0
            self._note.write_text(json.dumps(asdict(version)), encoding="utf-8")
        self.version = version

    def append(self, block: bytes) -> None:
        with writing(self.path):
            self._file.write(block)
        self.size += len(block)
        self.furthest = max(self.furthest, self.size)

    def verify(self, url: str, expected: Mapping[str, str | None]) -> None:
        for kind, digest in expected.items():
            if not digest:
                continue
            with writing(self.path):  # what is still in the buffer
                found = _digest(self._file, kind, self.size)
            if found != digest:
                self.size = 0  # so that it is removed
                raise DownloadError(
                    f'"{url}": {kind.replace("_", " ")}: expected {digest}, found {found}. '
                    "What had arrived was deleted; run again to download it anew"
                )

    def complete(self) -> None:
        """Moves it to its name, in one step."""
        with writing(self.destination):
            self._file.flush()
            os.fsync(self._file.fileno())
            with contextlib.suppress(FileNotFoundError):
                self._note.unlink()
            if sys.platform == "win32":  # which does not move an open file; elsewhere the lock is kept
                self._file.close()
            os.replace(self.path, self.destination)
            _sync_directory(self.destination.parent)
        self._completed = True

    def _open(self) -> BinaryIO:
        """Locked, so that two programs do not write one file."""
        while True:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            file = open(os.open(self.path, flags, 0o666), "r+b")
            if sys.platform == "win32":
                return file
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise DownloadError(f'"{self.path}": another program is downloading this file') from error
            except OSError:  # a file system without locks
                return file
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    return file
            file.close()  # it was completed by another program just before it was locked here

    def _read_note(self) -> _Version:
        try:
            note = json.loads(self._note.read_bytes())
            version = _Version(str(note["etag"]), str(note["md5"]), note["total"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return _Version()
        return version if version.total is None or isinstance(version.total, int) else _Version()


class _Transfer:
    """One file on its way, over as many attempts as it takes."""

    def __init__(
        self, downloader: Downloader, url: str, part: _Part, size: int | None, checksum: bool, label: str
    ) -> None:
        self._downloader = downloader
        self._url = url
        self._part = part
        self._size = size
        self._checksum = checksum
        self._label = label
        self._progress: Progress | None = None

    def attempt(self) -> None:
        part = self._part
        if part.size and not self._can_resume():
            part.restart(_Version())
        if part.size == self._total():
            return
        with contextlib.closing(self._downloader.open(self._url, self._range())) as response:
            if part.size and response.status == 206:
                self._check_continuation(response)
            else:
                self._check_beginning(response)
            self._receive(response)

    def message(self, text: str) -> None:
        (self._progress or self._downloader.progress(self._label, self._size or 0)).message(text)

    def finish(self) -> None:
        if self._progress is not None:
            self._progress.finish()

    def _total(self) -> int | None:
        return self._part.version.total if self._size is None else self._size

    def _strong_etag(self) -> bool:
        return self._part.version.etag.startswith('"')

    def _can_resume(self) -> bool:
        """Only where a mixture of two versions would be noticed."""
        total = self._total()
        return (self._strong_etag() or self._checksum) and (total is None or self._part.size <= total)

    def _range(self) -> dict[str, str]:
        if not self._part.size:
            return {}
        headers = {"Range": f"bytes={self._part.size}-"}
        if self._strong_etag():
            headers["If-Range"] = self._part.version.etag
        return headers

    def _check_continuation(self, response: http.client.HTTPResponse) -> None:
        """The answer must hold the rest of the same version."""
        part = self._part
        header = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", header)
        first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
        if match and self._size is not None and total != self._size:
            raise self._other_size(total)
        etag = response.headers.get("ETag", "")
        known = part.version.total
        if (
            first != part.size
            or last != total - 1
            or (known is not None and total != known)
            or (etag and part.version.etag and etag != part.version.etag)
        ):
            wanted = f"bytes {part.size} and on"
            part.restart(_Version())
            raise _Transient(f'asked for {wanted}, found "{printable(header)}" or another version')
        if part.version.total is None:
            part.version.total = total
        part.version.md5 = part.version.md5 or _md5_header(response, "x-ms-blob-content-md5")

    def _check_beginning(self, response: http.client.HTTPResponse) -> None:
        """The answer must hold the file from its first byte."""
        if self._part.size and response.status == 416:
            self._part.restart(_Version())
            raise _Transient("the server does not have the rest of what had arrived (416)", 416)
        check_status(self._url, response)
        total = declared_length(self._url, response)
        if total is not None and self._size is not None and total != self._size:
            raise self._other_size(total)
        if total is None and self._size is None:
            raise DownloadError(f'"{self._url}": the server does not say how long the file is')
        etag = response.headers.get("ETag", "")
        md5 = _md5_header(response, "Content-MD5")
        self._part.restart(_Version(etag, md5, self._size if total is None else total))

    def _receive(self, response: http.client.HTTPResponse) -> None:
        part = self._part
        total = self._total()
        assert total is not None
        self._check_space(total - part.size)
        if self._progress is None:
            self._progress = self._downloader.progress(self._label, total)
        self._progress.update(part.size)
        for block in blocks(response):
            if part.size + len(block) > total:
                part.restart(_Version())
                raise DownloadError(f'"{self._url}": expected {total} bytes, found more')
            part.append(block)
            self._progress.update(part.size)
        if part.size < total:
            raise _Transient(f"the connection ended after {part.size} of {total} bytes")

    def _check_space(self, need: int) -> None:
        try:
            free = shutil.disk_usage(self._part.path.parent).free
        except OSError:
            return
        if need > free:
            raise ConvertError(
                f'"{self._part.path}": cannot be written: the disk is full: {need} bytes are to come, '
                f"{free} are free"
            )

    def _other_size(self, found: int) -> DownloadError:
        return DownloadError(
            f'"{self._url}": expected {self._size} bytes, found {found} bytes announced by the server'
        )


def check_status(url: str, response: http.client.HTTPResponse) -> None:
    """Passes 200 with the file as it is."""
    status = response.status
    said = response.headers.get("X-Error-Message") or response.reason
    if status in TRANSIENT:
        raise _Transient(f"the server answered {status} {printable(said)}", status, _retry_after(response))
    if status != 200:
        raise DownloadError(f'"{url}": the server answered {status} {printable(said)}', status)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise DownloadError(f'"{url}": expected the file as it is, found it encoded as {printable(encoding)}')


def declared_length(url: str, response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length")
    if text is None or response.headers.get("Transfer-Encoding", "").lower() == "chunked":
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise DownloadError(f'"{url}": Content-Length: expected a number, found "{printable(text)}"')
    return int(text)


def blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body, as it arrives."""
    while True:
        try:
            block = response.read1(BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Transient(f"the connection broke: {_reason(error)}") from error
        if not block:
            return
        yield block


def _final(url: str, error: _Transient, tried: int) -> DownloadError:
    text = f'"{url}": {error} (tried {"once" if tried == 1 else f"{tried} times"})'
    if error.status is not None and error.status < 500:
        return DownloadError(text, error.status)
    return Unreachable(text, error.status)


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):  # also socket.timeout, which is another class before Python 3.10
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    return printable(str(error)) or type(error).__name__


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,18}", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _md5_header(response: http.client.HTTPResponse, name: str) -> str:
    """In hexadecimal; empty if there is none that can be understood."""
    try:
        digest = base64.b64decode(response.headers.get(name, ""), validate=True)
    except (binascii.Error, ValueError):
        return ""
    return digest.hex() if len(digest) == 16 else ""


def _digest(file: BinaryIO, kind: str, size: int) -> str:
    """Of what the disk has. kind git_sha1 is git's name of a blob with this content."""
    if kind == "git_sha1":
        hasher = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    elif kind == "md5":
        hasher = hashlib.md5(usedforsecurity=False)
    else:
        hasher = hashlib.new(kind)
    file.seek(0)
    while True:
        block = file.read(BLOCK)
        if not block:
            return hasher.hexdigest()
        hasher.update(block)


def _sync_directory(path: Path) -> None:
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _absolute(base: str, location: str) -> str:
    """Where a redirect leads; characters that a header may hold and an address may not are escaped."""
    try:
        joined = urllib.parse.urljoin(base, location)
        urllib.parse.urlsplit(joined).port  # raises if it is not a number
    except ValueError as error:
        raise DownloadError(
            f'"{base}": redirected to "{printable(location)}": not a valid address'
        ) from error
    return urllib.parse.quote(urllib.parse.urldefrag(joined).url, safe="%/:=&?~+!$,;'@()*[]")


def _without_query(url: str) -> str:
    """For messages: signed addresses carry their key in the query."""
    return printable(url.split("?")[0])


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port
