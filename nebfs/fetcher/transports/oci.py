"""``oci``: container registries. ``Http``, and the tokens that a registry wants to see.

A locator's address is that of a manifest or a blob. Nobody is shown anything before he asks (401):
then a user and password of the file of credentials, or of the address itself, go to the registry
(``Basic``) or are turned into a token by its token service (``Bearer``). Tokens are of one
repository, live in memory only, and are had anew before they end. What a redirect leads to is told
nothing of this.
Source: the OCI distribution specification 1.1; for tokens see oci_tokens.py.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache

from nebfs.errors import Refused
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_addresses import headers_of
from nebfs.fetcher.transports.http_connections import Connections, Target, first_target
from nebfs.fetcher.transports.oci_tokens import Challenge, TokenService, challenges
from nebfs.model import Locator

REMEMBERED = 4096

EARLY = 10.0
"""Seconds before its end at which a token is had anew: a request may be on its way that long."""

_REPOSITORY = re.compile(r"/v2/(.+)/(?:blobs|manifests|tags)/[^/]+")
_CATALOGUE = "registry:catalog:*"
_AUTHORIZATION = "authorization"

_Key = tuple[str, str, str]
"""Registry, repository, and who asks: one is not let in with what another one was given."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a locator says: whom to ask, with which repository, and as whom."""

    target: Target
    repository: str
    user: str = field(default="", repr=False)
    """An Authorization header that holds a user and a password, or empty."""
    fixed: str = field(default="", repr=False)
    """The same with a token of the file of credentials: shown at once, and never renewed."""

    @property
    def key(self) -> _Key:
        return str(self.target.url.origin()), self.repository, self.user

    @property
    def scope(self) -> str:
        return f"repository:{self.repository}:pull" if self.repository else _CATALOGUE


class _Grant:
    """What the requests for one repository are shown, and how that was had."""

    def __init__(self) -> None:
        self.authorization = ""
        self.ends = 0.0
        """When it is to be had anew, in seconds of the clock."""
        self.challenge: Challenge | None = None
        self.turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<grant until {self.ends}>"


class Registries:
    """The Addresses of registries."""

    def __init__(
        self,
        connections: Connections,
        tokens: TokenService,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`connections` knows who is shown what; `now` is a clock in seconds."""
        self._connections = connections
        self._now = now
        self._tokens = tokens
        self._asked: LRUCache[Locator, _Asked] = LRUCache(REMEMBERED)
        self._grants: LRUCache[_Key, _Grant] = LRUCache(REMEMBERED)

    def known(self, locator: Locator) -> Target | None:
        """See Addresses. None when the token is at its end. Raises BadAnswer for the address."""
        asked = self._take_apart(locator)
        grant = self._grants.get(asked.key)
        if asked.fixed:
            return _shown(asked.target, asked.fixed)
        if grant is None or not grant.authorization:
            return asked.target
        if self._now() >= grant.ends:
            return None
        return _shown(asked.target, grant.authorization)

    async def find(self, locator: Locator) -> Target:
        """See Addresses. Gets a new token when the one that is known has ended."""
        target = self.known(locator)
        if target is not None:
            return target
        asked = self._take_apart(locator)
        grant = self._grants.setdefault(asked.key, _Grant())
        async with grant.turn:
            target = self.known(locator)
            if target is None and grant.challenge is not None:
                await self._renew(asked, grant, grant.challenge)
                target = _shown(asked.target, grant.authorization)
        return target or asked.target

    async def renewed(
        self, locator: Locator, target: Target, status: int, headers: Mapping[str, str]
    ) -> bool:
        """See Addresses. Raises Refused when what was shown is not good, or there is nothing."""
        asked = self._take_apart(locator)
        if status != 401 or target.url.origin() != asked.target.url.origin():
            return False
        if asked.fixed:
            raise Refused("the registry refuses the bearer token", url=target.shown)
        before = _authorization(target)
        grant = self._grants.setdefault(asked.key, _Grant())
        async with grant.turn:
            if grant.authorization not in ("", before) and self._now() < grant.ends:
                return True  # somebody else had it renewed meanwhile
            offered = {one.scheme: one for one in reversed(challenges(_all(headers)))}
            if "bearer" in offered:
                await self._renew(asked, grant, offered["bearer"])
                return True
            if "basic" not in offered:
                return False
            if not asked.user:
                raise Refused("the registry wants a user and a password", url=target.shown)
            if before == asked.user:
                raise Refused("the registry refuses the user or the password", url=target.shown)
            grant.authorization, grant.ends = asked.user, float("inf")
        return True

    async def _renew(self, asked: _Asked, grant: _Grant, challenge: Challenge) -> None:
        asked_at = self._now()
        token = await self._tokens.token(challenge, asked.target.url, asked.scope, asked.user)
        grant.challenge = challenge
        grant.authorization = f"Bearer {token.text}"
        grant.ends = asked_at + token.seconds - min(EARLY, token.seconds / 4)

    def _take_apart(self, locator: Locator) -> _Asked:
        asked = self._asked.get(locator)
        if asked is None:
            made = first_target(locator.address, headers_of(locator))
            bare = tuple(h for h in made.headers if h[0].lower() != _AUTHORIZATION)
            access = self._connections.accesses.of(str(made.url))
            known = access.authorization
            found = _REPOSITORY.fullmatch(made.url.path)
            asked = self._asked[locator] = _Asked(
                Target(made.url, bare),
                found[1] if found else "",
                user=_authorization(made) or ("" if access.bearer_token else known),
                fixed=known if access.bearer_token else "",
            )
        return asked


class Oci(Http):
    """The transport ``oci``."""

    def __init__(
        self, settings: FetcherSettings, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises UserError (the file of credentials)."""
        connections = Connections(settings)
        self._tokens = TokenService(settings)
        super().__init__(settings, connections, Registries(connections, self._tokens, now))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._tokens.aclose()
        await super().aclose()


def _shown(target: Target, authorization: str) -> Target:
    return Target(target.url, (*target.headers, ("Authorization", authorization)))


def _authorization(target: Target) -> str:
    return next((text for name, text in target.headers if name.lower() == _AUTHORIZATION), "")


def _all(headers: Mapping[str, str]) -> list[str]:
    """Return every WWW-Authenticate header: a registry may send one for each scheme."""
    several: Any = getattr(headers, "getall", None)
    if several is not None:
        return list(several("WWW-Authenticate", ()))
    return [text for name, text in headers.items() if name.lower() == "www-authenticate"]
