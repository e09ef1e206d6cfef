"""``vsphere``: files in the datastores of a vCenter. ``Http``, and the session that it wants.

A locator's address is ``https://VCENTER/folder/PATH?dcPath=DATACENTER&dsName=DATASTORE``. A user
and a password, of the file of credentials or of the locator (a Basic Authorization header), log in
through the vSphere API once, and the cookie that this gives lets every request in. Basic
authentication at each request would work as well, but makes a session of vCenter's every time, and
it has few of them.
pyvmomi, the library for that API, is synchronous and has an HTTP stack of its own: one login is all
that is needed of it.
Source: vSphere Web Services API: FileManager (the URL of a file), SessionManager.Login, and "HTTP
Access to vSphere Server Files" in its programming guide.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from xml.sax.saxutils import escape

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
from nebfs.model import without_credentials

_AUTHORIZATION = "authorization"
_COOKIE = re.compile(
    r'\s*(vmware_soap_session="?[\x21\x23-\x3a\x3c-\x7e]{1,4000}"?)\s*(?:;.*)?', re.DOTALL
)
_TIMEOUT = 20.0
_MAX_ANSWER = 1 << 20

# The API's oldest version: a server speaks every one up to its own, and Login has not changed.
_ACTION = "urn:vim25"
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>'
    "{}</soapenv:Body></soapenv:Envelope>"
)
_THIS = '<_this type="SessionManager">SessionManager</_this>'
_LOGIN = (
    f'<Login xmlns="urn:vim25">{_THIS}<userName>{{}}</userName><password>{{}}</password></Login>'
)
_LOGOUT = f'<Logout xmlns="urn:vim25">{_THIS}</Logout>'

# The faults by which Login says no, among those that it declares.
_NO = (b"InvalidLogin", b"NoPermission")


class VCenters:
    """The Door of vCenters."""

    shows = frozenset((_AUTHORIZATION,))

    def __init__(self, settings: FetcherSettings, connections: Connections) -> None:
        self._calls = Calls(settings, connections)

    def login(self, access: Access, given: Mapping[str, str]) -> Login | None:
        """See Door."""
        if access.user:
            return Login(access.password, access.user)
        return _basic(given.get(_AUTHORIZATION, ""))

    async def enter(self, url: URL, login: Login) -> Header:
        """See Door."""
        answer, shown = await self._post(url, _LOGIN.format(_text(login.user), _text(login.secret)))
        if answer.status == 500 and any(fault in answer.body for fault in _NO):
            raise wrong_login("vCenter refuses the user or the password", shown)
        if answer.status != 200:
            raise refusal(answer.status, CIMultiDict(answer.headers), shown)
        for name, text in answer.headers:
            found = _COOKIE.fullmatch(text) if name.lower() == "set-cookie" else None
            if found is not None:
                return "Cookie", found[1]
        raise BadAnswer("vCenter let us in without a session", url=shown)

    async def leave(self, url: URL, header: Header) -> None:
        """See Door."""
        await self._post(url, _LOGOUT, header)

    async def _post(self, url: URL, words: str, *headers: Header) -> tuple[CallAnswer, str]:
        body = _ENVELOPE.format(words).encode("utf-8", "replace")
        kind = ("Content-Type", "text/xml; charset=utf-8")
        target = Target(url.origin() / "sdk", (kind, ("SOAPAction", _ACTION), *headers))
        address = str(target.url)
        request = CallRequest("POST", address, (), body, timeout=_TIMEOUT, max_body=_MAX_ANSWER)
        return await self._calls.call(request, target), without_credentials(address)


class Vsphere(Http):
    """The transport ``vsphere``."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        connections = Connections(settings)
        self._sessions = Sessions(connections, VCenters(settings, connections))
        super().__init__(settings, connections, self._sessions)

    async def aclose(self) -> None:
        """Log out, and close every connection."""
        await self._sessions.aclose()
        await super().aclose()


def _basic(authorization: str) -> Login | None:
    """Read a Basic Authorization header."""
    scheme, _, pair = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(pair, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Login(password, user) if colon and user else None


def _text(value: str) -> str:
    """Return `value` as XML can hold it: other control characters have no way into it."""
    return escape("".join(c for c in value if c >= " " or c in "\t\n\r"))
