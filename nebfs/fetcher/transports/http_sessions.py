"""Places that give a session to whoever logs in, and want to see it with every request.

``purity`` and ``vsphere`` are such places, and each says how it is entered and left (``Door``). A
session is of one place and one login. It lives in memory only, is had once however many ask, and is
had anew when the place refuses it. Logins go over TLS, and to the place itself only. One that was
refused is not tried again at once: places lock users out who try too often.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cachetools import LRUCache
from yarl import URL

from nebfs.errors import NebfsError, Refused, Unsupported
from nebfs.fetcher.access import Access
from nebfs.fetcher.transports.http_addresses import headers_of
from nebfs.fetcher.transports.http_connections import Connections, Target, first_target
from nebfs.model import Locator

REMEMBERED = 4096

REFUSED_FOR = 30.0
"""Seconds for which a login that was refused is not tried again."""

LEAVING = 0.7
"""Seconds that saying goodbye may take, of the two that the process has to end (process.py). Places
end a session by themselves, too, when it is old."""

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in. A token has no user."""

    secret: str = field(repr=False)
    user: str = field(default="", repr=False)


class Door(Protocol):
    """How one kind of place is entered."""

    shows: frozenset[str]
    """The headers of a locator, in lower case, in which a login may be given: they are not sent."""

    def login(self, access: Access, given: Mapping[str, str]) -> Login | None:
        """Return who logs in: as the file of credentials says, else as the locator has `given`."""
        ...

    async def enter(self, url: URL, login: Login) -> Header:
        """Log in where `url` is; return the header to show. Raises NebfsError."""
        ...

    async def leave(self, url: URL, header: Header) -> None:
        """End the session. Raises NebfsError."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a locator says: whom to ask, and as whom."""

    target: Target
    login: Login | None


class _Session:
    """What one place has given to one login."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.header: Header | None = None
        self.refused: Refused | None = None
        self.refused_at = 0.0
        self.turn = asyncio.Lock()


class Sessions:
    """The Addresses of such places."""

    def __init__(
        self, connections: Connections, door: Door, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`connections` knows the file of credentials; `now` is a clock in seconds."""
        self._connections = connections
        self._door = door
        self._now = now
        self._asked: LRUCache[Locator, _Asked] = LRUCache(REMEMBERED)
        self._sessions: dict[tuple[URL, Login], _Session] = {}

    def known(self, locator: Locator) -> Target | None:
        """See Addresses. None when nobody has logged in yet. Raises BadAnswer for the address."""
        asked = self._take_apart(locator)
        if asked.login is None:
            return None
        session = self._session(asked.target.url, asked.login)
        if session.header is None:
            return None
        return Target(asked.target.url, (*asked.target.headers, session.header))

    async def find(self, locator: Locator) -> Target:
        """See Addresses. Raises Refused (see `no_login`)."""
        target = self.known(locator)
        if target is not None:
            return target
        asked = self._take_apart(locator)
        login = _needed(asked)
        session = self._session(asked.target.url, login)
        async with session.turn:
            if session.header is None:
                await self._enter(session, login)
        target = self.known(locator)
        assert target is not None  # noqa: S101 - somebody has just logged in
        return target

    async def renewed(
        self,
        locator: Locator,
        target: Target,
        status: int,
        headers: Mapping[str, str],  # noqa: ARG002 - of the protocol
    ) -> bool:
        """See Addresses. Sessions end, and their places then answer with 401."""
        asked = self._take_apart(locator)
        if status != 401 or target.url.origin() != asked.target.url.origin():
            return False
        login = _needed(asked)
        session = self._session(asked.target.url, login)
        async with session.turn:
            if session.header is None or session.header in target.headers:
                # It may be alive, and the 401 about the one thing that was asked for: whoever asks
                # for that again and again must not collect sessions.
                await self._leave(session)
                await self._enter(session, login)
            # else somebody has logged in meanwhile
        return True

    async def aclose(self) -> None:
        """End the sessions, as far as that goes quickly."""
        await asyncio.gather(*map(self._leave, self._sessions.values()))

    async def _leave(self, session: _Session) -> None:
        header, session.header = session.header, None
        if header is not None:
            with contextlib.suppress(NebfsError, TimeoutError):
                async with asyncio.timeout(LEAVING):
                    await self._door.leave(session.url, header)

    async def _enter(self, session: _Session, login: Login) -> None:
        if session.refused is not None and self._now() - session.refused_at < REFUSED_FOR:
            said = session.refused
            raise wrong_login(
                f"{said.message} (asked a moment ago)", str(session.url.origin())
            ) from said
        try:
            session.header = await self._door.enter(session.url, login)
        except Refused as exc:
            session.refused, session.refused_at = exc, self._now()
            raise
        session.refused = None

    def _session(self, url: URL, login: Login) -> _Session:
        key = (url.origin(), login)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _Session(url)
        return session

    def _take_apart(self, locator: Locator) -> _Asked:
        asked = self._asked.get(locator)
        if asked is None:
            made = first_target(locator.address, headers_of(locator))
            given = {name.lower(): text for name, text in made.headers}
            kept = tuple(h for h in made.headers if h[0].lower() not in self._door.shows)
            access = self._connections.accesses.of(str(made.url))
            login = self._door.login(access, given)
            asked = self._asked[locator] = _Asked(Target(made.url, kept), login)
        return asked


def _needed(asked: _Asked) -> Login:
    """Return the login that may be shown. Raises Refused or Unsupported."""
    if asked.login is None:
        raise no_login(asked.target)
    require_tls(asked.target)
    return asked.login


def no_login(target: Target) -> Refused:
    """Return the failure of asking a place without a login; its fact ``login`` is ``none``."""
    return Refused("no login is known for this place", url=target.shown, login="none")


def wrong_login(reason: str, url: str) -> Refused:
    """Return the failure of a login; its fact ``login`` is ``refused``."""
    return Refused(reason, url=url, login="refused")


def require_tls(target: Target) -> None:
    """Raise Unsupported when a login would be readable on its way to `target`."""
    if target.url.scheme != "https":
        raise Unsupported("a login is shown over TLS only", url=target.shown)
