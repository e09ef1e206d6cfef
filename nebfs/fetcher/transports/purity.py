"""``purity``: the REST API of Pure Storage's FlashArrays. ``Http``, and the session that it wants.

An API token, of the file of credentials (``api-token``) or of the request itself (a header of that
name), is shown once, and gives a session; each request then carries that.
Pure's own client (py-pure-client) is synchronous and has an HTTP stack of its own, which would pass
our proxies, authorities and deadlines by; what is asked here are a few documents.
Source: FlashArray REST API 2.x, "Authentication": POST /api/2.x/login and /logout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from multidict import CIMultiDict
from yarl import URL

from nebfs.errors import BadAnswer
from nebfs.fetcher.access import Access
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_answers import refusal
from nebfs.fetcher.transports.http_calls import Calls
from nebfs.fetcher.transports.http_connections import Connections, Target
from nebfs.fetcher.transports.http_sessions import Header, Login, Sessions, wrong_login

_TOKEN = "api-token"  # noqa: S105 - the name of a header
_SESSION = "x-auth-token"
_VERSION = re.compile(r"/api/([0-9]{1,3}\.[0-9]{1,3})/")
_SENDABLE = re.compile(r"[\x21-\x7e]{1,8192}")
_TIMEOUT = 20.0
_MAX_ANSWER = 1 << 20


class FlashArrays:
    """The Door of FlashArrays."""

    shows = frozenset((_TOKEN,))

    def __init__(self, settings: FetcherSettings, connections: Connections) -> None:
        self._calls = Calls(settings, connections)

    def login(self, access: Access, given: Mapping[str, str]) -> Login | None:
        """See Door."""
        token = access.api_token or given.get(_TOKEN, "")
        return Login(token) if token else None

    async def enter(self, url: URL, login: Login) -> Header:
        """See Door."""
        answer, shown = await self._post(url, "login", (_TOKEN, login.secret))
        if answer.status in (400, 401, 403):
            raise wrong_login("the array refuses the API token", shown)
        if answer.status != 200:
            raise refusal(answer.status, CIMultiDict(answer.headers), shown)
        session = answer.header(_SESSION)
        if not _SENDABLE.fullmatch(session):
            raise BadAnswer("the array let us in without a session", url=shown)
        return _SESSION, session

    async def leave(self, url: URL, header: Header) -> None:
        """See Door."""
        await self._post(url, "logout", header)

    async def _post(self, url: URL, what: str, header: Header) -> tuple[CallAnswer, str]:
        version = _VERSION.match(url.path)
        if version is None:
            raise BadAnswer("the address names no version of the array's API")
        target = Target(url.origin() / "api" / version[1] / what, (header,))
        request = CallRequest("POST", str(target.url), timeout=_TIMEOUT, max_body=_MAX_ANSWER)
        return await self._calls.call(request, target), target.shown


class Purity(Http):
    """The transport ``purity``."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        connections = Connections(settings)
        self._sessions = Sessions(connections, FlashArrays(settings, connections))
        super().__init__(settings, connections, self._sessions)

    async def aclose(self) -> None:
        """Log out, and close every connection."""
        await self._sessions.aclose()
        await super().aclose()
