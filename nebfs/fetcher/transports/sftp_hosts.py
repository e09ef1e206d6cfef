"""The hosts of one place (an OpenNebula datastore's bridges), and the sessions with them.

Any of the hosts gives the same files. The first that lives is asked; one that was found dead is
asked last until it is known to live again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import structlog

from nebfs.errors import BadAnswer, Missing, NebfsError, Refused, Unreachable
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.sftp_connecting import Host, connect
from nebfs.fetcher.transports.sftp_sessions import Session

T = TypeVar("T")

DEAD_FOR = 30.0
"""Seconds after which it is tried again whether a host lives that could not be reached."""

log = structlog.get_logger()


def hosts_of(options: Mapping[str, str], netloc: str) -> tuple[Host, ...]:
    """Return the hosts that a locator's options name (``bridges``), or its address.

    Raises BadAnswer when one of them makes no sense.
    """
    names = options.get("bridges", "").split() or [netloc]
    identity, known = options.get("identity", ""), options.get("known-hosts", "")
    return tuple(_host(name, identity, known) for name in names)


def _host(text: str, identity: str, known_hosts: str) -> Host:
    # Not urlsplit(), which makes names small: those in ~/.ssh/config may be large.
    user, _, rest = text.rpartition("@")
    name, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        name, port = rest, ""
    shown, name = rest, name.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdecimal() else 0
    if not name or name.startswith("-") or (port and not 0 < number < 65536):
        raise BadAnswer("a host's name is not understood")
    return Host(name, number, user, identity, known_hosts, shown)


class Hosts:
    """The sessions of the transport: one for each host, made when first asked for."""

    def __init__(self, settings: FetcherSettings) -> None:
        self._settings = settings
        self._sessions: dict[Host, Session] = {}
        self._connecting: dict[Host, asyncio.Task[Session]] = {}
        self._dead: dict[Host, float] = {}
        self._loop = asyncio.get_running_loop()

    async def aclose(self) -> None:
        """End every session."""
        making = list(self._connecting.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        await asyncio.gather(*(session.aclose() for session in self._sessions.values()))
        self._sessions.clear()

    async def ask(self, hosts: Sequence[Host], work: Callable[[Session], Awaitable[T]]) -> T:
        """Have `work` done with one of `hosts`, another one when it fails.

        Raises what the only one gave, or what all of them gave together.
        """
        failures: dict[str, NebfsError] = {}
        for host in self._ordered(hosts):
            try:
                return await self._ask_one(host, work)
            except (Unreachable, BadAnswer, Refused, Missing) as exc:
                failures[host.shown] = exc
                if len(hosts) > 1:
                    log.warning("bridge.failed", host=host.shown, reason=str(exc))
        raise _together(failures)

    async def _ask_one(self, host: Host, work: Callable[[Session], Awaitable[T]]) -> T:
        while True:
            kept = self._sessions.get(host)
            session = await self._connected(host)
            try:
                return await work(session)
            except Unreachable:
                if session.silent:
                    self._dead[host] = self._loop.time() + DEAD_FOR
                # A connection that was kept may have been cut long ago: then a new one at once.
                if session is not kept or not session.lost or session.silent:
                    raise

    def _ordered(self, hosts: Sequence[Host]) -> list[Host]:
        """Return `hosts` with the dead ones last. Whether those live again is found out meanwhile:
        no reader waits for them while there is another.
        """
        now = self._loop.time()
        for host in hosts:
            if len(hosts) > 1 and self._dead.get(host, now) < now:
                self._dead[host] = now + DEAD_FOR
                self._connecting_to(host)
        return sorted(hosts, key=lambda host: host in self._dead)

    async def _connected(self, host: Host) -> Session:
        session = self._sessions.get(host)
        if session is not None and session.alive:
            return session
        # Many may wait for it; one that gives up does not take it from the others.
        return await asyncio.shield(self._connecting_to(host))

    def _connecting_to(self, host: Host) -> asyncio.Task[Session]:
        making = self._connecting.get(host)
        if making is None:
            making = self._loop.create_task(self._connect(host))
            self._connecting[host] = making
            making.add_done_callback(lambda task: self._made(host, task))
        return making

    def _made(self, host: Host, task: asyncio.Task[Session]) -> None:
        del self._connecting[host]
        if not task.cancelled():
            task.exception()  # perhaps nobody waits for it

    async def _connect(self, host: Host) -> Session:
        old = self._sessions.pop(host, None)
        if old is not None:
            await old.aclose()
        try:
            session = await connect(host, self._settings)
        except NebfsError:
            self._dead[host] = self._loop.time() + DEAD_FOR
            raise
        self._dead.pop(host, None)
        self._sessions[host] = session
        log.debug("sftp.connected", host=host.shown)
        return session


def _together(failures: Mapping[str, NebfsError]) -> NebfsError:
    """Return one failure for all hosts: of the kind that they share, else Unreachable."""
    (first, *others) = failures.values()
    if not others:
        return first
    kinds = {type(exc) for exc in failures.values()}
    kind = kinds.pop() if len(kinds) == 1 else Unreachable
    said = "; ".join(
        f"{name}: {exc.message}" + (f" ({reason})" if (reason := exc.facts.get("reason")) else "")
        for name, exc in failures.items()
    )
    return kind(f"no bridge of the datastore gives it: {said}")
