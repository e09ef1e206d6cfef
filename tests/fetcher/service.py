"""An HTTPS service of a test's own, by aiohttp in a thread, with a certificate of an own authority.

What it answers is a plain function: tests that need no network call that themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from nebfs.fetcher.messages import CallAnswer, CallRequest


@dataclass(frozen=True)
class Asked:
    """A request. `query` holds the last value of each name, headers have small letters."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def of(cls, method: str, target: str, headers: dict[str, str], body: bytes) -> Self:
        parts = urlsplit(target)
        query = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        small = {name.lower(): text for name, text in headers.items()}
        return cls(method, parts.path, query, small, body)


@dataclass(frozen=True)
class Told:
    """An answer. Of a HEAD's, the body is what its length is told of."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Respond = Callable[[Asked], Told]


def as_call(respond: Respond, **asserted: str) -> Callable[[CallRequest], Any]:
    """Return `respond` as the drivers' `call`, without a network between."""

    async def call(request: CallRequest) -> CallAnswer:
        assert request.url.startswith("https://")
        for name, value in asserted.items():
            assert getattr(request, name) == value
        asked = Asked.of(request.method, request.url, dict(request.headers), request.body)
        told = respond(asked)
        headers = {"Content-Length": str(len(told.body)), **told.headers}
        body = b"" if request.method == "HEAD" else told.body
        return CallAnswer(told.status, tuple(headers.items()), body)

    return call


def make_certificates(home: Path) -> None:
    """Make an authority (ca.pem), and a certificate of it for localhost (place.pem, key.pem)."""
    script = """
    ec="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl req -x509 $ec -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
    openssl req $ec -subj /CN=place -keyout key.pem -out place.csr
    echo subjectAltName=DNS:localhost > place.ext
    openssl x509 -req -in place.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
      -extfile place.ext -out place.pem
    """
    subprocess.run(["sh", "-e", "-c", script], cwd=home, check=True, capture_output=True)


async def sockets_closed() -> None:
    """Wait until nothing of this loop is open: TLS goes on for a while after close()."""
    sockets = asyncio.get_running_loop()._selector.get_map()
    async with asyncio.timeout(20):
        while len(sockets) > 1:  # noqa: ASYNC110 - one wakes the loop up; nothing tells
            await asyncio.sleep(0.001)
    for _ in range(10):  # asyncio closes a socket some turns after it has left it
        await asyncio.sleep(0)


class Service:
    """Answers by `respond`, one request at a time; `home` has the certificates."""

    def __init__(self, home: Path, respond: Respond) -> None:
        self.respond = respond
        self._home = home
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.host}"

    async def _start(self) -> None:
        self._server = web.Server(self._handle)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=1)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._home / "place.pem", self._home / "key.pem")
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        transports = [one.transport for one in self._server.connections]
        await self._runner.cleanup()
        # TLS would wait for a goodbye.
        for transport in transports:
            if transport is not None:
                with contextlib.suppress(AttributeError):  # asyncio 3.11, of one that has gone
                    transport.abort()
        await sockets_closed()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        asked = Asked.of(
            request.method, request.path_qs, dict(request.headers), await request.read()
        )
        told = self.respond(asked)
        headers = dict(told.headers)
        if request.method == "HEAD":
            headers.setdefault("Content-Length", str(len(told.body)))
            return web.Response(status=told.status, headers=headers)
        return web.Response(status=told.status, headers=headers, body=told.body)
