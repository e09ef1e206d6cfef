"""Taking secrets out of text that leaves this machine.

Two nets, one behind the other. Every secret that nebfs could know here (the front-end's session,
the file of credentials, URLs, keyrings, the environment) is looked for as it is, quoted for a URL,
and in base64. Then whatever looks like a secret is taken out by its form: what stands behind
``password=``, userinfo and query of URLs, private keys.
"""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from nebfs.cli.checkup.files import session_file
from nebfs.config import Settings
from nebfs.model import kind_and_url, shown_text

REMOVED = "[removed]"
SHORT = 4
"""Letters up to which a secret is looked for as a whole word only: it may be in many words."""
MAX_FILE = 256 << 10
"""Bytes of a file with secrets that are looked at; such files are small."""

_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key|_key$|^key$|auth|credential",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(r"(-|_)file$|^ONE_AUTH$|^SSH_AUTH_SOCK$|^XAUTHORITY$", re.IGNORECASE)
_ASSIGNED = re.compile(
    r"""(?ix)
    (\b[\w.-]*(?:pass(?:word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key(?:[-_]id)?
        |authorization|one_auth|credential)s?["']?\s*[=:]\s*)
    (?:(?:basic|bearer)\s+)?
    ("[^"]*"|'[^']*'|[^\s,;}&]+)
    """
)
_SCHEME = re.compile(r"(?i)\b(basic|bearer)\s+[A-Za-z0-9._~+/=-]{8,}")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|\Z)", re.DOTALL)
_AWS = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_PAIR = re.compile(r"^\s*([\w.-]+)\s*[=:]\s*(\S.*?)\s*$", re.MULTILINE)
_FILE_VALUE = re.compile(r"^(/|~|\./|\.\./)")


class Scrubber:
    """Knows what may not be shown."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret.strip())}
        # The longest first: one may be a part of another.
        found = sorted(forms, key=len, reverse=True)
        self._known = [
            re.compile(re.escape(one) if len(one) >= SHORT else rf"\b{re.escape(one)}\b")
            for one in found
        ]

    def clean(self, text: str) -> str:
        """Return `text` without them, and without what looks like one."""
        for known in self._known:
            text = known.sub(REMOVED, text)
        text = _PEM.sub(REMOVED, text)
        text = _ASSIGNED.sub(lambda found: found[1] + _kept(found[2]), text)
        text = _SCHEME.sub(rf"\1 {REMOVED}", text)
        return shown_text(_AWS.sub(REMOVED, text))


def secrets_of(settings: Settings | None, environ: Mapping[str, str], home: Path) -> Iterator[str]:
    """Yield every secret that can be found where nebfs and its libraries look for them."""
    for name, value in environ.items():
        if _SECRET_NAME.search(name) and not _NOT_SECRET.search(name) and value:
            yield value
        yield from _in_url(value)
    yield from _pairs(home / ".aws/credentials")
    if settings is None:
        yield from _session(Path(environ.get("ONE_AUTH") or home / ".one/one_auth"))
        return
    yield from _session(session_file(settings, environ, home))
    for url in (settings.source, *settings.marketplaces):
        yield from _in_url(kind_and_url(url)[1])
    if settings.credentials_file is not None:
        yield from _credentials(settings.credentials_file)
    for place in (settings.ceph, *settings.ceph.datastores.values()):
        if place.keyring is not None:
            yield from _pairs(place.keyring)


def _session(file: Path) -> Iterator[str]:
    for line in _text(file).splitlines():
        yield line
        yield line.partition(":")[2]


def _credentials(file: Path) -> Iterator[str]:
    try:
        tables = tomllib.loads(_text(file))
    except (tomllib.TOMLDecodeError, RecursionError):  # broken, or nested too deeply
        yield from _pairs(file)
        return
    for address, table in tables.items():
        yield from _in_url(address)
        for key, value in table.items() if isinstance(table, dict) else ():
            if not isinstance(value, str):
                continue
            yield from _in_url(value)
            if key.replace("_", "-").endswith("password-file"):
                with suppress(RuntimeError):  # the home of nobody we know
                    yield from _text(file.parent / Path(value).expanduser()).splitlines()[:1]
            elif _SECRET_NAME.search(key.replace("_", "-")):
                yield value


def _pairs(file: Path) -> Iterator[str]:
    """Yield the values of an INI file whose names say that they are secret."""
    for found in _PAIR.finditer(_text(file)):
        if _SECRET_NAME.search(found[1]):
            yield found[2].strip("\"'")


def _in_url(text: str) -> Iterator[str]:
    """Yield user, password and query of a URL, as far as each is a secret."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    if parts.scheme and parts.netloc and "@" in parts.netloc:
        pair = parts.netloc.rpartition("@")[0]
        password = pair.partition(":")[2]
        yield unquote(pair)
        yield unquote(password or pair)
    if parts.scheme in {"http", "https"} and parts.query:
        for item in parts.query.split("&"):
            value = unquote(item.partition("=")[2])
            if len(value) > SHORT:
                yield value


def _forms(secret: str) -> Iterator[str]:
    # What is only a path or a flag is no secret, and would take much else with it.
    if not secret or secret.lower() in {"true", "false", "none"} or _FILE_VALUE.match(secret):
        return
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    if len(secret) >= SHORT:
        yield base64.b64encode(secret.encode()).decode().rstrip("=")


def _kept(value: str) -> str:
    bare = value.strip("\"'")
    # "password_file: /etc/x" and "auth_file = (not set)" are what we say ourselves.
    return value if bare.startswith(("/", "~", "(", REMOVED)) or not bare else REMOVED


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_FILE).decode("utf-8", "replace")
    except OSError:
        return ""
