"""``reach``: how far one gets on the way to a place, step by step. For diagnosis: it has no bytes.

LOOK at an http or https address goes the way that a request would go: the name, a connection to the
first of its addresses that takes one, and TLS; where a proxy is set, the proxy is gone to. The
answer is JSON: ``{"failed": "name" | "connect" | "tls" | "", "reason": text, "proxy": its address
or "", "address": text, "seconds": float, "tls": version or "", "expires": seconds since the epoch
or null}``. Nothing is sent to the place but TLS's own greeting.

LOOK at ``transport:NAME`` answers ``{}`` if that transport can be used here, or raises Unsupported,
which says what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from yarl import URL

from nebfs.errors import BadAnswer, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_connections import Connections, parse_url
from nebfs.fetcher.transports.qsd import PROGRAM, REMEDY
from nebfs.model import Revision, without_credentials

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener

_TRANSPORT = "transport:"
_FAREWELL = 1.0
"""Seconds that closing a connection may take, with TLS's own goodbye."""


@dataclass(slots=True)
class Way:
    """How far we came."""

    failed: str = ""
    reason: str = ""
    proxy: str = ""
    address: str = ""
    seconds: float = 0.0
    tls: str = ""
    expires: float | None = None


class Reach:
    """Goes the way to a place. It has no connections of its own to keep."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        self._settings = settings
        self._connections = Connections(settings)

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:  # noqa: ARG002
        """There are no bytes here. Raises Unsupported."""
        raise Unsupported("this transport has no bytes", url=request.locator.shown)

    async def call(self, request: CallRequest) -> CallAnswer:
        """Answer a LOOK. Raises BadAnswer for what is no address, or Unsupported."""
        if request.method != "LOOK":
            raise Unsupported("there is only LOOK here", method=request.method)
        if request.url.startswith(_TRANSPORT):
            await self._usable(request.url.removeprefix(_TRANSPORT))
            return CallAnswer(200, (), b"{}")
        way = await self._go(parse_url(request.url), request.timeout)
        return CallAnswer(200, (), json.dumps(asdict(way)).encode())

    async def _usable(self, name: str) -> None:
        from nebfs.fetcher.transports import make_transport  # noqa: PLC0415 - it imports us

        await make_transport(name, self._settings).aclose()
        if name == "iscsi" and shutil.which(PROGRAM) is None:
            raise Unsupported(f"{PROGRAM} is not installed; {REMEDY}")

    async def _go(self, url: URL, patience: float) -> Way:
        loop = asyncio.get_running_loop()
        way = Way()
        proxy = self._connections.proxy_of(url)
        if proxy is not None:
            way.proxy = without_credentials(str(proxy))
        goal = proxy or url
        host, port = goal.host or "", goal.port or 0
        began = loop.time()
        try:
            async with asyncio.timeout(patience):
                way.failed = "name"
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                way.failed = "connect"
                way.address = await _connected([str(one[4][0]) for one in found], port)
                way.seconds = loop.time() - began
                if goal.scheme == "https":
                    way.failed = "tls"
                    await self._greet(goal, port, way)
        except TimeoutError:
            way.reason = f"no answer within {patience:g} s"
        except ssl.SSLCertVerificationError as exc:
            way.reason = exc.verify_message or "the certificate is not trusted"
        except ssl.SSLError as exc:
            way.reason = (exc.reason or exc.strerror or "it failed").replace("_", " ").lower()
        except UnicodeError:
            way.reason = "it is no name of a host"
        except OSError as exc:  # gaierror is one
            # asyncio's own text is of less use than the number's; gaierror's are below 0.
            known = exc.errno is not None and exc.errno > 0
            text = os.strerror(exc.errno) if known and exc.errno else exc.strerror
            way.reason = text or type(exc).__name__
        else:
            way.failed = ""
        return way

    async def _greet(self, goal: URL, port: int, way: Way) -> None:
        context = self._connections.tls(goal)
        _, writer = await asyncio.open_connection(
            way.address, port, ssl=context, server_hostname=goal.host
        )
        try:
            session = writer.get_extra_info("ssl_object")
            if session is None:
                raise BadAnswer("there is no TLS")
            way.tls = session.version() or ""
            certificate = session.getpeercert() or {}
            if expires := certificate.get("notAfter"):
                way.expires = ssl.cert_time_to_seconds(str(expires))
        finally:
            await _closed(writer)


async def _connected(addresses: list[str], port: int) -> str:
    """Return the first address that takes a connection. Raises OSError of the last one."""
    failure = OSError("the name has no address")
    for address in dict.fromkeys(addresses):
        try:
            _, writer = await asyncio.open_connection(address, port)
        except OSError as exc:
            failure = exc
        else:
            await _closed(writer)
            return address
    raise failure


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_FAREWELL):
            await writer.wait_closed()
