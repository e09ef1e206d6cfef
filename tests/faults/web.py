"""A web server that a test scripts: on raw sockets, so that it can answer as wrongly as is wanted.

What it says is a function from a request to bytes, or to pieces of bytes. `Origin` is one that
answers as it should; `Site` has one of them for each path. How they lie is in lies.py.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nebfs.model import Revision


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int = 0

    @property
    def range(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) + 1) if match else None


Script = Callable[[Request], "bytes | Iterator[bytes]"]


class ScriptedServer:
    """Calls `script` for each request and sends what it returns; an empty piece closes."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.script = script
        self.requests: list[Request] = []
        self.hung_up = threading.Event()
        self.stopping = threading.Event()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=600)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._accepting.join(5)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        if self._tls is not None:
            self._connections.discard(connection)
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
            self._connections.add(connection)
        with connection, connection.makefile("rb") as lines:
            try:
                while (request := self._read(lines)) is not None:
                    request.connection = threading.get_ident()
                    self.requests.append(request)
                    answer = self.script(request)
                    for piece in [answer] if isinstance(answer, bytes) else answer:
                        if not piece:
                            return
                        connection.sendall(piece)
            except (OSError, ValueError):
                pass  # the client hung up, or spoke TLS
            finally:
                self.hung_up.set()
                self._connections.discard(connection)

    @staticmethod
    def _read(lines) -> Request | None:
        first = lines.readline()
        if not first:
            return None
        method, target, _ = first.decode("latin-1").split(" ", 2)
        headers = {}
        while (line := lines.readline().strip()) != b"":
            name, _, text = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = text.strip()
        body = lines.read(int(headers.get("content-length", 0)))
        return Request(method, target, headers, body)


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Write a whole answer; ``content_range="x"`` is Content-Range, an empty value leaves out."""
    fields = {"content_length": str(len(body)), **headers}
    lines = [f"HTTP/1.1 {status} X"]
    lines += [f"{n.replace('_', '-').title()}: {v}" for n, v in fields.items() if v]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Origin:
    """A script that answers as it should, with knobs for what may differ."""

    data: bytes
    etag: str = '"v1"'
    modified: str = "Sun, 01 Nov 2026 10:00:00 GMT"
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def revision(self) -> Revision:
        return Revision(len(self.data), etag=self.etag, modified=self.modified)

    def __call__(self, request: Request) -> bytes:
        asked = request.range
        if asked is None:
            return self.whole()
        start, stop = asked[0], min(asked[1], len(self.data))
        if start >= stop:
            return answer(
                416, b"no such range", content_range=f"bytes */{len(self.data)}", **self.extra
            )
        return self.part(start, stop)

    def part(self, start: int, stop: int, **changes: str) -> bytes:
        headers = {
            "content_range": f"bytes {start}-{stop - 1}/{len(self.data)}",
            "etag": self.etag,
            "last_modified": self.modified,
            **self.extra,
            **changes,
        }
        return answer(206, self.data[start:stop], **headers)

    def whole(self, **changes: str) -> bytes:
        headers = {"etag": self.etag, "last_modified": self.modified, **self.extra, **changes}
        return answer(200, self.data, **headers)


class Site:
    """A script with one of its own for each path; of a path that nobody knows it is a 404."""

    def __init__(self) -> None:
        self.paths: dict[str, Script] = {}

    def __call__(self, request: Request) -> bytes | Iterator[bytes]:
        script = self.paths.get(request.target)
        return answer(404) if script is None else script(request)
