"""A scripted HTTP server, a file for what it sends, and nginx."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xxhash

from nebfs.fetcher.messages import FetchRequest
from nebfs.model import Filled, Locator, Revision
from tests.faults.web import Origin, Script, ScriptedServer, answer
from tests.nginx import Nginx

SLOT = 4096
SEED = 2**64 - 2  # so that the addition of the slot's number wraps


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
