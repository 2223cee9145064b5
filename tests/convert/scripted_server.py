# SPDX-License-Identifier: MIT
"""An HTTP server on 127.0.0.1 that serves files well, and on request badly."""

from __future__ import annotations

import hashlib
import http.server
import socket
import struct
import sys
import threading
from email.message import Message
from typing import Callable

Handler = http.server.BaseHTTPRequestHandler
Behaviour = Callable[["ScriptedServer", Handler], None]


class ScriptedServer:
    """Serves files; for a path with a script, each request is answered by the next behaviour in it.

    requests has the path and the headers of every request, bytes_served what has been sent of bodies.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}  #: that go with every file
        self.etags = True
        self.scripts: dict[str, list[Behaviour]] = {}
        self.requests: list[tuple[str, Message]] = []
        self.bytes_served = 0
        self.limits: dict[Handler, int] = {}  #: bytes after which the connection is closed
        self.errors: list[BaseException] = []
        server = self

        class ThisHandler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.path, self.headers))
                script = server.scripts.get(self.path.split("?")[0], [])
                self.close_connection = True
                if script:
                    script.pop(0)(server, self)
                else:
                    server.serve(self)

            def log_message(self, *arguments: object) -> None:
                pass

        class ThisServer(http.server.ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                error = sys.exc_info()[1]
                if error is not None and not isinstance(error, ConnectionError):  # the client may leave
                    server.errors.append(error)

        self._server = ThisServer(("127.0.0.1", 0), ThisHandler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        assert self.errors == []

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def serve(self, handler: Handler, ranges: bool = True) -> None:
        """As a good server does, with Range and If-Range."""
        content = self.files.get(handler.path.split("?")[0])
        if content is None:
            answer(404, b"nothing here")(self, handler)
            return
        etag = etag_of(content)
        start, given = 0, handler.headers.get("Range")
        if ranges and given and handler.headers.get("If-Range", etag) == etag:
            start = int(given[len("bytes=") :].rstrip("-"))
            if start >= len(content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(content)}")
                handler.end_headers()
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        if self.etags:
            handler.send_header("ETag", etag)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        self.send(handler, content[start:])

    def send(self, handler: Handler, body: bytes) -> None:
        body = body[: self.limits.get(handler)]
        self.bytes_served += len(body)
        handler.wfile.write(body)


def etag_of(content: bytes) -> str:
    return '"' + hashlib.sha1(content).hexdigest() + '"'


def good(server: ScriptedServer, handler: Handler) -> None:
    server.serve(handler)


def without_ranges(server: ScriptedServer, handler: Handler) -> None:
    server.serve(handler, ranges=False)


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Any answer; underscores in the names of headers are hyphens, and Content-Length may lie."""

    def behave(server: ScriptedServer, handler: Handler) -> None:
        handler.send_response(status)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), **given}.items():
            handler.send_header(name, value)
        handler.end_headers()
        server.send(handler, body)

    return behave


def redirect(location: str, status: int = 302) -> Behaviour:
    return answer(status, Location=location)


def drop_after(count: int, behaviour: Behaviour = good, reset: bool = False) -> Behaviour:
    """Behaves, but closes the connection after so many bytes of the body."""

    def behave(server: ScriptedServer, handler: Handler) -> None:
        server.limits[handler] = count
        behaviour(server, handler)
        if reset:  # a closed socket that does not linger sends RST
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return behave


def hang_up(server: ScriptedServer, handler: Handler) -> None:
    """Closes the connection without an answer."""
