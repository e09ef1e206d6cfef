"""A scripted HTTP server on raw sockets, which can answer as wrongly as a test wants, and nginx."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import xxhash

from nebfs.fetcher.messages import FetchRequest
from nebfs.model import Filled, Locator, Revision
from tests.nginx import Nginx

SLOT = 4096
SEED = 2**64 - 2  # so that the addition of the slot's number wraps


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


class Target:
    """A sparse file, what was reported about it, and the judgement over both."""

    def __init__(self, path: Path, content: bytes, slot_size: int = SLOT) -> None:
        self.path = path
        self.content = content
        self.slot_size = slot_size
        self.reports: list[list[Filled]] = []
        self.found: list[Revision] = []
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.truncate(self.fd, len(content))

    @property
    def filled(self) -> list[Filled]:
        return [filled for report in self.reports for filled in report]

    @property
    def slots(self) -> set[int]:
        return {filled.slot for filled in self.filled}

    def progress(self, slots) -> None:
        self.reports.append(list(slots))

    def request(
        self, address: str, *ranges: tuple[int, int], expected: Revision | None, **options: str
    ) -> FetchRequest:
        """Ask for `ranges` of slots (first, beyond the last)."""
        size = len(self.content)
        spans = tuple((a * self.slot_size, min(b * self.slot_size, size)) for a, b in ranges)
        locator = Locator("http", address, tuple(options.items()))
        return FetchRequest(locator, spans, expected, self.slot_size, SEED)

    def listener(self) -> Listener:
        """Return somebody for a transport to talk to, who tells this."""
        return Listener(self)

    def check(self) -> None:
        """Reported slots hold the content and its checksums; everything else is untouched."""
        assert len(self.filled) == len(self.slots), "a slot was reported twice"
        expected = bytearray(len(self.content))
        for filled in self.filled:
            start = filled.slot * self.slot_size
            data = self.content[start : start + self.slot_size]
            assert filled.length == len(data)
            assert filled.zero == (data.count(0) == len(data))
            assert filled.checksum == xxhash.xxh3_64_intdigest(data, (SEED + filled.slot) % 2**64)
            expected[start : start + len(data)] = data
        assert self.path.read_bytes() == bytes(expected)

    def check_untouched(self) -> None:
        assert self.reports == []
        assert os.fstat(self.fd).st_blocks == 0
        assert os.fstat(self.fd).st_size == len(self.content)


class Listener:
    """Tells a Target what a transport says, and keeps what came early."""

    def __init__(self, target: Target) -> None:
        self.found = target.found.append
        self.filled = target.progress
        self.glimpses: list[tuple[int, bytes]] = []

    def early(self, offset: int, data: bytes) -> None:
        self.glimpses.append((offset, data))


def make_content(slots: int = 9, short: int = 100, zeros: tuple[int, ...] = (2, 3, 6)) -> bytes:
    source = random.Random(7)
    parts = [bytes(SLOT) if n in zeros else source.randbytes(SLOT) for n in range(slots)]
    return b"".join(parts) + source.randbytes(short)


@pytest.fixture
def content() -> bytes:
    """Nine slots, of which 2, 3 and 6 are zeros, and a short tenth."""
    return make_content()


@pytest.fixture
def origin(content) -> Origin:
    return Origin(content)


@pytest.fixture
def target(tmp_path, content) -> Iterator[Target]:
    made = Target(tmp_path / "target", content)
    yield made
    os.close(made.fd)


@pytest.fixture
def make_target(tmp_path) -> Iterator[Callable[..., Target]]:
    made: list[Target] = []

    def make(content: bytes, slot_size: int = SLOT) -> Target:
        made.append(Target(tmp_path / f"target{len(made)}", content, slot_size))
        return made[-1]

    yield make
    for one in made:
        os.close(one.fd)


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Start a scripted server; it is stopped after the test."""
    servers: list[ScriptedServer] = []

    def start(script: Script, tls: ssl.SSLContext | None = None) -> ScriptedServer:
        servers.append(ScriptedServer(script, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(name="answer")
def answer_fixture() -> Callable[..., bytes]:
    return answer


@pytest.fixture
def nginx(tmp_path) -> Iterator[tuple[str, Path]]:
    """A real nginx: its URL and the directory that it serves."""
    with Nginx(tmp_path) as server:
        yield server.url, server.root
