"""Connections to hosts that range requests go over: kept, and for far places opened early."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from operator import attrgetter
from typing import Any

import aiohappyeyeballs
from cachetools import LRUCache
from yarl import URL

from nebfs.errors import BadAnswer, NebfsError
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_connections import KEEP_ALIVE, Target, connect_failure
from nebfs.fetcher.transports.http_private import EVERYWHERE, Private
from nebfs.fetcher.transports.http_ranges import (
    BURST,
    Accept,
    Head,
    HungUp,
    RangeConnection,
)

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


class _Waiter:
    """Somebody who waits for a connection, for an answer of `size` bytes."""

    __slots__ = ("connection", "opening", "size", "urgent")

    def __init__(self, size: int, urgent: bool) -> None:
        self.connection: asyncio.Future[RangeConnection]
        self.connection = asyncio.get_running_loop().create_future()
        self.size = size
        self.urgent = urgent
        self.opening = False
        """Whether one is opened on his behalf, and he is told if that fails."""


class _Host:
    """One host: its connections, and who waits for one."""

    def __init__(self, target: Target, tls: ssl.SSLContext | None, most: int) -> None:
        """At most `most` requests at once, and connections."""
        self.target = target
        self.tls = tls
        self.most = most
        self.idle: list[RangeConnection] = []
        """The one used last is the last."""
        self.standing: set[RangeConnection] = set()
        self.preparing: set[asyncio.Task[None]] = set()
        """Those that open connections."""
        self.waiting: list[_Waiter] = []
        """Who waits for a connection, in the order in which they get one."""
        self.first_byte = 0.0
        """Seconds until the first byte of an answer usually comes; 0: not known."""

    def answered(self, first_byte: float) -> None:
        """Take note of how soon an answer began."""
        usual = self.first_byte or first_byte
        self.first_byte = min(first_byte, FADING * usual)

    @property
    def room(self) -> int:
        """How many more connections there may be."""
        return self.most - len(self.standing) - len(self.preparing)

    def wait(self, size: int, *, urgent: bool) -> _Waiter:
        """Let one more wait, an `urgent` one before all that are not."""
        waiter = _Waiter(size, urgent)
        place = len(self.waiting)
        if urgent:
            place = next((at for at, other in enumerate(self.waiting) if not other.urgent), place)
        self.waiting.insert(place, waiter)
        return waiter

    def kept(self, size: int) -> RangeConnection | None:
        """Take a connection that stands, or None if there is none: of a place far away the
        narrowest that gives `size` bytes within one round trip, or else the widest.
        """
        standing = [connection for connection in reversed(self.idle) if connection.usable]
        if not standing:
            return None
        chosen = standing[0]
        if self.first_byte >= FAR:
            wide = [connection for connection in standing if connection.window >= size]
            width = attrgetter("window")
            chosen = min(wide, key=width) if wide else max(standing, key=width)
        self.idle.remove(chosen)
        return chosen

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

    async def ask(
        self, target: Target, asked: tuple[int, int], accept: Accept, *, urgent: bool = False
    ) -> Head:
        """Ask `target` for the bytes [start, stop) of `asked`; see RangeConnection.ask.

        A kept connection that the server has just closed is replaced by a fresh one. Who is
        `urgent` gets a connection before all others that wait for one.
        """
        request = self._beginning(target) + b"%d-%d\r\n\r\n" % (asked[0], asked[1] - 1)
        host = self._host(target)
        while True:
            connection = await self._connection(host, asked[1] - asked[0], urgent=urgent)
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

    def shares(self, target: Target, size: int) -> list[int]:
        """Divide `size` bytes among the connections that are idle or nearly stand: as few of them
        as give that within one round trip, or all of them. One that was used little gives less than
        several together.
        """
        host = self._host(target)
        if host.first_byte < FAR:
            return [size]
        there = [one.window for one in host.idle] + [BURST] * len(host.preparing)
        windows: list[int] = []
        for window in sorted(there, reverse=True):
            windows.append(window)
            if sum(windows) >= size:
                break
        if len(windows) <= 1:
            return [size]
        shares = [size * window // sum(windows) for window in windows]
        return [size - sum(shares[1:]), *shares[1:]]

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
            self._begin(host, self._open_spare(host))

    async def _open_spare(self, host: _Host) -> None:
        with contextlib.suppress(NebfsError):  # whoever needs a connection will be told
            self._keep(host, await self._connect(host), spare=True)

    async def _open(self, host: _Host, waiter: _Waiter) -> None:
        try:
            connection = await self._connect(host)
        except NebfsError as exc:
            if not waiter.connection.done():
                host.waiting.remove(waiter)
                waiter.connection.set_exception(exc)
        else:
            self._keep(host, connection, spare=True)
        finally:
            waiter.opening = False  # somebody before him may have it

    def _begin(self, host: _Host, opening: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(opening)
        host.preparing.add(task)

        def end(task: asyncio.Task[None]) -> None:
            host.preparing.discard(task)
            self._serve(host)  # it may have failed, and somebody have counted on it

        task.add_done_callback(end)

    async def _connection(self, host: _Host, size: int, *, urgent: bool) -> RangeConnection:
        """Take one that stands, or the first that does: one that is opened, or that another request
        has done with. Raises NebfsError if one was opened for this request, in vain.
        """
        kept = host.kept(size)
        if kept is not None:
            return kept
        waiter = host.wait(size, urgent=urgent)
        self._serve(host)
        try:
            return await waiter.connection
        except asyncio.CancelledError:
            if waiter in host.waiting:
                host.waiting.remove(waiter)
            elif not waiter.connection.cancelled() and waiter.connection.exception() is None:
                self._keep(host, waiter.connection.result(), spare=True)  # nobody has taken it
            raise

    def _serve(self, host: _Host) -> None:
        """Give those who wait what is idle; open connections for those for whom none is coming."""
        # Who was cancelled may not have taken leave yet.
        host.waiting = [waiter for waiter in host.waiting if not waiter.connection.done()]
        while host.waiting and not self._closed:
            kept = host.kept(host.waiting[0].size)
            if kept is None:
                break
            host.waiting.pop(0).connection.set_result(kept)
        for waiter in host.waiting[len(host.preparing) :]:
            if not waiter.opening and host.room > 0 and not self._closed:
                waiter.opening = True
                self._begin(host, self._open(host, waiter))

    async def _connect(self, host: _Host) -> RangeConnection:
        url = host.target.url
        name = url.host or ""
        tls = host.tls
        made = RangeConnection(self._settings.stall_timeout, partial(self._ended, host))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                addresses = await self._private.resolve(url)
                began = loop.time()
                connected = await aiohappyeyeballs.start_connection(
                    addresses,
                    happy_eyeballs_delay=NEXT_ADDRESS,
                    interleave=1,
                )
                took = loop.time() - began
                if not host.first_byte and took >= FAR:
                    # A round trip: no first byte comes sooner. The first to ask has other
                    # connections opened meanwhile. (One that is short may be to a balancer only.)
                    host.answered(took)
                await loop.create_connection(
                    lambda: made,
                    sock=connected,
                    ssl=tls,
                    # A name that ends with a dot is the same host; its certificate is without.
                    server_hostname=name.rstrip(".") if tls else None,
                )
        except (OSError, ValueError) as exc:  # TimeoutError and SSLError are OSErrors
            raise connect_failure(exc, host.target.shown, self._settings) from exc
        if not made.usable:
            raise HungUp("the server closed the connection at once", url=host.target.shown)
        host.standing.add(made)
        return made

    def _ended(self, host: _Host, connection: RangeConnection) -> None:
        host.gone(connection)
        self._serve(host)  # there is room for another one now

    def _keep(self, host: _Host, connection: RangeConnection, *, spare: bool) -> None:
        """Keep an idle connection, as the next to be used or, if it is a `spare`, as the last."""
        if self._closed:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        connection.released = loop.time()
        host.idle.insert(0 if spare else len(host.idle), connection)
        self._serve(host)
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
