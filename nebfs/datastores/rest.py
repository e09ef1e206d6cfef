"""Asking the REST API of a storage array or of a vCenter: which login goes with a question, and
what an answer means.

The login of the file of credentials counts, which only the fetcher process knows. What a
datastore's template has goes with the question, for when that file is silent; a template's secret
may be encrypted with a key of the front-end's, and is of no use then.
Source for the encryption: OpenNebula 7.4, the attributes that DATASTORE_ENCRYPTED_ATTR names are
shown as AES-256-CBC in base64.
"""

from __future__ import annotations

import base64
import binascii
import errno
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import trio

from nebfs.errors import BadAnswer, Refused, Unreachable
from nebfs.fetcher.messages import Call, CallAnswer, CallRequest
from nebfs.model import Trouble, without_credentials

Headers = tuple[tuple[str, str], ...]

_HOST = re.compile(
    r"(?:https://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)"
    r"(?::(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE,
)
_BLOCK = 16  # bytes; AES-CBC gives whole ones

_MAX_ANSWER = 32 << 20
"""Bytes of one answer; the largest are a thousand records of 2 KiB or so."""

_TIMEOUT = 30.0


def base_of(host: str, port: str = "") -> str:
    """Return ``https://host[:port]`` of what a template says; empty if it says no such thing."""
    found = _HOST.fullmatch(host.strip())
    port = (found["port"] if found else None) or port.strip()
    if found is None or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        return ""
    return f"https://{found['host']}{f':{port}' if port else ''}"


def is_encrypted(secret: str) -> bool:
    """Whether this is what OpenNebula shows of an encrypted attribute, as far as one can see."""
    try:
        length = len(base64.b64decode("".join(secret.split()), validate=True))
    except (binascii.Error, ValueError):
        return False
    return length > 0 and length % _BLOCK == 0


@dataclass(frozen=True, slots=True)
class Login:
    """What the template says about logging in: headers to send, and what to do if they are none."""

    headers: Headers = field(default=(), repr=False)
    remedy: str = ""

    @classmethod
    def of_user(cls, user: str, password: str, base: str, attribute: str) -> Login:
        """Return the login of a user and a password, as HTTP's Basic authentication writes them.

        `attribute` is the password's name in the template.
        """
        if user and password and not is_encrypted(password):
            pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
            return cls((("Authorization", f"Basic {pair}"),))
        return cls((), _remedy(base, attribute, password, "user and password"))

    @classmethod
    def of_token(cls, token: str, base: str, attribute: str) -> Login:
        """Return the login of an API token."""
        if token and token.isascii() and token.isprintable() and not is_encrypted(token):
            return cls((("api-token", token),))
        return cls((), _remedy(base, attribute, token, "api-token"))

    def missing(self, exc: Refused) -> Trouble | None:
        """Say what to do if `exc` says that there was no login at all; None if one was refused."""
        # The fetcher's words for that: see its http_sessions.py.
        return Trouble(errno.EACCES, self.remedy) if exc.facts.get("login") == "none" else None


def _remedy(base: str, attribute: str, secret: str, keys: str) -> str:
    has = f"its {attribute} is encrypted" if secret else f"its template has no {attribute}"
    return f'no login is known: {has}; name {keys} under ["{base}"] in the file credentials_file'


class Api:
    """One such API, with one login. `who` is what it is called when it fails."""

    def __init__(self, call: Call, transport: str, base: str, login: Login, who: str) -> None:
        self._call = call
        self._transport = transport
        self._base = base
        self._login = login
        self._who = who

    async def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Mapping[str, Any]:
        """Return the JSON document at `path`. Raises Unreachable, Refused, BadAnswer, and what
        `call` raises.
        """
        url = f"{self._base}{path}"
        if query:
            url += "?" + urlencode(query, quote_via=quote)
        headers = (("Accept", "application/json"), *self._login.headers)
        answer = await self._call(
            CallRequest(
                "GET",
                url,
                headers,
                timeout=_TIMEOUT,
                max_body=_MAX_ANSWER,
                transport=self._transport,
            )
        )
        judge(answer, url, self._who)
        try:
            found = await trio.to_thread.run_sync(json.loads, answer.body)
        except (ValueError, RecursionError) as exc:
            raise BadAnswer(f"{self._who}'s answer is not JSON", url=_shown(url)) from exc
        if not isinstance(found, dict):
            raise BadAnswer(f"{self._who}'s answer is not understood", url=_shown(url))
        return found

    def not_understood(self, what: str) -> BadAnswer:
        """Return the failure that an answer about `what` is, which makes no sense."""
        return BadAnswer(f"{self._who}'s answer about {what} is not understood", url=self._base)


def judge(answer: CallAnswer, url: str, who: str) -> None:
    """Raise what a status other than 200 means: Refused, Unreachable or BadAnswer."""
    status = answer.status
    if status == 200:
        return
    facts: dict[str, Any] = {"url": _shown(url), "status": status}
    if status in {401, 403}:
        raise Refused(f"{who} does not show this to the user", **facts)
    if status in {408, 429} or status >= 500:
        after = answer.header("Retry-After")
        wait = float(after) if after.isascii() and after.isdigit() and len(after) < 9 else None
        raise Unreachable(f"{who} cannot answer now", retry_after=wait, **facts)
    raise BadAnswer(f"{who} gave an unexpected answer", **facts)


def _shown(url: str) -> str:
    return without_credentials(url)
