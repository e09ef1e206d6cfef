"""What a registry asks for when it says 401, and the tokens of a token service.

Source: RFC 9110 section 11 (challenges), and Docker's "Token Authentication Specification", which
the OCI distribution specification's registries follow: the challenge ``Bearer`` names the realm to
ask, which gives a token for a service and a scope.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from multidict import CIMultiDict
from yarl import URL

from nebfs.errors import BadAnswer, NebfsError, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http_answers import retry_after
from nebfs.fetcher.transports.http_calls import Calls
from nebfs.fetcher.transports.http_connections import Connections, Target, parse_url

MAX_TOKEN = 16 << 10
"""Characters: more than servers take as a header."""

LEAST_SECONDS = 60.0
"""How long a token is good when its service does not say; nor may it say less."""

_MAX_CHALLENGE = 8 << 10
_MAX_ANSWER = 1 << 20
_TIMEOUT = 20.0
_MOST = 1e9

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# A parameter, or else the name of a scheme. Unquoted values hold more than they should at times.
_ITEM = re.compile(rf'({_WORD})(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+)))?')
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One of a WWW-Authenticate's: the scheme and the names of its parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Read every challenge in the WWW-Authenticate headers; what is not understood is left out."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        for item in _ITEM.finditer(header[:_MAX_CHALLENGE]):
            word = item[1].lower()
            if item[2] is None and item[3] is None:
                found.append((word, {}))
            elif found:
                quoted = item[2]
                value = item[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1][1].setdefault(word, value)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


@dataclass(frozen=True, slots=True)
class Token:
    """What a registry is shown, and for how many seconds it is good."""

    text: str
    seconds: float

    def __repr__(self) -> str:
        return f"Token(seconds={self.seconds})"


class _Strangers(Connections):
    """Connections to whom redirects lead: they are shown nothing of the file of credentials.

    Else a registry whose realm redirects to another registry's token service would be handed a
    token that was made for the user's entry about that one.
    """

    def authorized(self, target: Target) -> Target:
        return target


class TokenService:
    """Asks the realms that challenges name, over connections of its own."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials, which knows authorities and proxies)."""
        self._connections = _Strangers(settings)
        self._calls = Calls(settings, self._connections)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._connections.aclose()

    async def token(self, challenge: Challenge, registry: URL, scope: str, basic: str) -> Token:
        """Return a new token. `scope` is asked for when the challenge names none.

        `basic` is the Authorization header with the registry's user and password, or empty. It is
        shown to a realm with TLS or on the registry's own host, and to no other. Raises Refused,
        Unreachable, BadAnswer or Unsupported.
        """
        realm = _realm(challenge, registry)
        # A registry that names a realm could as well ask for the password itself (Basic).
        shown = basic if realm.scheme == "https" or realm.host == registry.host else ""
        query = [("service", challenge.parameters.get("service", ""))]
        query += [("scope", one) for one in (challenge.parameters.get("scope") or scope).split()]
        url = realm.extend_query([(key, value) for key, value in query if value])
        headers = [("Accept", "application/json")]
        if shown:
            headers.append(("Authorization", shown))
        request = CallRequest("GET", str(url), timeout=_TIMEOUT, max_body=_MAX_ANSWER)
        target = Target(url, tuple(headers))
        answer = await self._calls.call(request, target)
        if answer.status != 200:
            raise _failure(answer, target.shown, known=bool(shown), withheld=bool(basic))
        return _token(answer.body, target.shown)


def _realm(challenge: Challenge, registry: URL) -> URL:
    text = challenge.parameters.get("realm", "")
    try:
        realm = parse_url(text).with_user(None).with_fragment(None)
    except BadAnswer as exc:
        raise BadAnswer("the registry names no token service that can be asked") from exc
    if realm.scheme != "https" and registry.scheme == "https":
        # The token would be readable on the way, of a registry that is not.
        raise Unsupported("the registry's token service is without TLS", host=realm.host)
    return realm


def _failure(answer: CallAnswer, shown: str, *, known: bool, withheld: bool) -> NebfsError:
    status = answer.status
    if status in (400, 401, 403):
        if known:
            reason = "the token service refuses the user or the password"
        elif withheld:
            reason = "the token service is another host without TLS, and was not told the password"
        else:
            reason = "the token service gives nothing to whom it does not know"
        return Refused(reason, url=shown, status=status)
    if status in (408, 429) or status >= 500:
        wait = retry_after(CIMultiDict(answer.headers).get("Retry-After", ""))
        return Unreachable(
            "the token service cannot answer now", retry_after=wait, url=shown, status=status
        )
    return BadAnswer("the token service gave an unexpected answer", url=shown, status=status)


def _token(body: bytes, shown: str) -> Token:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer("the token service's answer is not JSON", url=shown) from exc
    found = document if isinstance(document, dict) else {}
    text = found.get("token") or found.get("access_token")
    if not isinstance(text, str) or len(text) > MAX_TOKEN or not _TOKEN.fullmatch(text):
        raise BadAnswer("the token service's answer holds no token", url=shown)
    seconds = found.get("expires_in")
    good = LEAST_SECONDS
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds < _MOST:
        good = max(good, float(seconds))  # False for NaN, too
    return Token(text, good)
