"""Connections to hosts that range requests go over: kept, and for far places opened early."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable

import aiohappyeyeballs
from cachetools import LRUCache
from yarl import URL

from nebfs.errors import BadAnswer, NebfsError
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_connections import KEEP_ALIVE, Target, connect_failure
from nebfs.fetcher.transports.http_private import EVERYWHERE, Private
from nebfs.fetcher.transports.http_ranges import Accept, Head, HungUp, RangeConnection

FADING = 1.05
"""By how much the best time to a first byte grows with each answer that is not as good: a place
that has become slower is known for it after some dozens of answers."""

FAR = 0.002
"""Seconds until the first byte of an answer from which on a place is far away: connections are then
opened before they are needed, and what somebody waits for is asked for by itself, too, instead of
waiting for all that comes before it."""

TURNS_TO_CLOSE = 5

MOMENT = 0.2
"""Seconds that connections which are being made are waited for before all are closed."""

SPARE = 5
"""Idle connections that a place far away has beside those in use: what one reader waits for may be
asked for in three parts at once, beside its slot and what is around that."""

NEXT_ADDRESS = 0.25
"""Seconds after which a host's next address is tried, too (RFC 8305 section 8)."""

_UNSENDABLE = re.compile(r"[\r\n\0]")


class _Host:
    """One host: its connections, and who waits for one."""

    def __init__(self, target: Target, tls: ssl.SSLContext | None, most: int) -> None:
        """At most `most` requests at once, and connections."""
        self.target = target
        self.tls = tls
        self.most = most
        self.turns = asyncio.Semaphore(most)
        self.idle: list[RangeConnection] = []
        """The one used last is the last, and used first: its congestion window is the widest."""
        self.standing: set[RangeConnection] = set()
        self.preparing: set[asyncio.Task[None]] = set()
        self.opening = 0
        """Connections that are opened for requests, beside those that are prepared."""
        self.first_byte = 0.0
        """Seconds until the first byte of an answer usually comes; 0: not known."""

    def answered(self, first_byte: float) -> None:
        """Take note of how soon an answer began."""
        usual = self.first_byte or first_byte
        self.first_byte = min(first_byte, FADING * usual)

    @property
    def room(self) -> int:
        """How many more connections there may be."""
        return self.most - len(self.standing) - len(self.preparing) - self.opening

    def kept(self) -> RangeConnection | None:
        """Return a connection that stands, or None."""
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                return connection
        return None

    def gone(self, connection: RangeConnection) -> None:
        """Forget a connection that was closed."""
        self.standing.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)


class RangePool:
    """Kept connections by scheme, host and port."""

    def __init__(
        self,
        settings: FetcherSettings,
        tls: Callable[[URL], ssl.SSLContext],
        private: Private = EVERYWHERE,
    ) -> None:
        """`tls` makes the context of https connections, or raises what keeps it from being made."""
        self._settings = settings
        self._tls = tls
        self._private = private
        self._hosts: dict[tuple[str, str, int, ssl.SSLContext | None], _Host] = {}
        self._requests: LRUCache[Target, bytes] = LRUCache(1024)
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        hosts = list(self._hosts.values())
        preparing = [task for host in hosts for task in host.preparing]
        if preparing:
            # What is nearly connected is closed by whoever made it: when it is cancelled, asyncio
            # (3.11, a host with a name) may lose the socket.
            await asyncio.wait(preparing, timeout=MOMENT)
        for task in preparing:
            task.cancel()
        await asyncio.gather(*preparing, return_exceptions=True)
        for host in hosts:
            for connection in host.standing:
                connection.close()
        # asyncio closes a socket a turn of its loop later, some with TLS, and there may be no more.
        for _ in range(TURNS_TO_CLOSE):
            await asyncio.sleep(0)

    def _host(self, target: Target) -> _Host:
        url = target.url
        # Who shows another certificate is not to use the others' connections.
        tls = self._tls(url) if url.scheme == "https" else None
        key = (url.scheme, url.host or "", url.port or 0, tls)
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = _Host(target, tls, self._settings.connections_per_host)
        return host

    def first_byte(self, target: Target) -> float:
        """Return in how many seconds the first byte of an answer usually comes; 0: not known."""
        return self._host(target).first_byte

    async def ask(self, target: Target, asked: tuple[int, int], accept: Accept) -> Head:
        """Ask `target` for the bytes [start, stop) of `asked`; see RangeConnection.ask.

        A kept connection that the server has just closed is replaced by a fresh one.
        """
        request = self._beginning(target) + b"%d-%d\r\n\r\n" % (asked[0], asked[1] - 1)
        host = self._host(target)
        async with host.turns:
            while True:
                connection = host.kept()
                if connection is None:
                    if host.preparing and host.room <= 0:  # one of those stands sooner than another
                        await asyncio.wait(host.preparing, return_when=asyncio.FIRST_COMPLETED)
                        continue
                    connection = await self._open(host)
                self._prepare(host)
                fresh = connection.fresh
                try:
                    head = await connection.ask(request, accept)
                except NebfsError as exc:
                    if isinstance(exc, HungUp) and not fresh:
                        continue
                    exc.facts.setdefault("url", target.shown)
                    raise
                host.answered(connection.first_byte)
                if connection.usable:
                    self._keep(host, connection, spare=False)
                self._prepare(host)
                return head

    def _beginning(self, target: Target) -> bytes:
        """Return a request to `target` up to the numbers of its range. Raises BadAnswer."""
        known = self._requests.get(target)
        if known is not None:
            return known
        fields = {
            "Host": target.url.host_port_subcomponent or "",
            "User-Agent": self._settings.user_agent,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **dict(target.headers),
        }
        if any(_UNSENDABLE.search(name + text) for name, text in fields.items()):
            raise BadAnswer("the request cannot be written as HTTP", url=target.shown)
        lines = [f"GET {target.url.raw_path_qs} HTTP/1.1"]
        lines += (f"{name}: {text}" for name, text in fields.items())
        made = "\r\n".join([*lines, "Range: bytes="]).encode("utf-8", "surrogateescape")
        self._requests[target] = made
        return made

    # --- connections ------------------------------------------------------------------------

    def _prepare(self, host: _Host) -> None:
        """Have some connections to a place far away stand before they are needed: the next answer
        is then one round trip away, and a stream starts with all of them.
        """
        if host.first_byte < FAR:
            return
        spare = len(host.idle) + len(host.preparing)
        for _ in range(min(SPARE - spare, host.room)):
            task = asyncio.get_running_loop().create_task(self._open_spare(host))
            host.preparing.add(task)
            task.add_done_callback(host.preparing.discard)

    async def _open_spare(self, host: _Host) -> None:
        with contextlib.suppress(NebfsError):  # whoever needs a connection will be told
            self._keep(host, await self._connect(host), spare=True)

    async def _open(self, host: _Host) -> RangeConnection:
        host.opening += 1
        try:
            return await self._connect(host)
        finally:
            host.opening -= 1

    async def _connect(self, host: _Host) -> RangeConnection:
        url = host.target.url
        name = url.host or ""
        tls = host.tls
        made = RangeConnection(self._settings.stall_timeout, host.gone)
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                connected = await aiohappyeyeballs.start_connection(
                    await self._private.resolve(url),
                    happy_eyeballs_delay=NEXT_ADDRESS,
                    interleave=1,
                )
                await asyncio.get_running_loop().create_connection(
                    lambda: made,
                    sock=connected,
                    ssl=tls,
                    # A name that ends with a dot is the same host; its certificate is without.
                    server_hostname=name.rstrip(".") if tls else None,
                )
        except (OSError, ValueError) as exc:  # TimeoutError and SSLError are OSErrors
            raise connect_failure(exc, host.target.shown, self._settings) from exc
        host.standing.add(made)
        return made

    def _keep(self, host: _Host, connection: RangeConnection, *, spare: bool) -> None:
        """Keep an idle connection, as the next to be used or, if it is a `spare`, as the last."""
        if self._closed:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.released = loop.time()
        host.idle.insert(0 if spare else len(host.idle), connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEEP_ALIVE, self._sweep)

    def _sweep(self) -> None:
        """Close what was idle for too long; look again while anything is kept."""
        loop = asyncio.get_running_loop()
        old = loop.time() - KEEP_ALIVE
        for host in self._hosts.values():
            for connection in host.idle:
                if connection.released <= old:
                    connection.close()
        kept = any(host.idle for host in self._hosts.values())
        self._sweeper = loop.call_later(KEEP_ALIVE / 4, self._sweep) if kept else None
