"""Somebody's text as it may be shown: without what is secret in an address."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_NESTED = re.compile(r"(?:[a-z][a-z0-9+.-]*://)+(?=[a-z][a-z0-9+.-]*:/)", re.IGNORECASE)


def without_credentials(url: str) -> str:
    """Return `url` as it may be shown: no user, password, query or fragment.

    Of what only looks like a URL nothing can be told apart, so nothing is shown. OpenNebula puts
    one URL behind the scheme of another (``lxd://https://...``): what holds for one holds for both.
    """
    nested = _NESTED.match(url)
    outer = nested[0] if nested is not None else ""
    url = url.removeprefix(outer)
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{outer}[a broken URL]"
    if not parts.netloc:
        return f"{outer}[a broken URL]" if outer else url
    host = parts.netloc.rpartition("@")[2]
    return outer + urlunsplit((parts.scheme, host, parts.path, "", ""))


def kind_and_url(text: str) -> tuple[str, str]:
    """Read ``KIND+URL``, as in ``linuxcontainers+https://...``; the kind is empty in a bare URL."""
    kind, plus, url = text.partition("+")
    return (kind, url) if plus and "/" not in kind else ("", text)


def shown_text(text: str) -> str:
    """Return somebody's text as it may be shown: the URLs in it lose their credentials."""
    return _URL.sub(lambda found: without_credentials(found[0]), text) if "://" in text else text


def shown_line(text: str) -> str:
    """Return somebody's text as one line of at most 400 characters that may be shown.

    For a log, an attribute or a shell: OpenNebula's own errors repeat whole command lines.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown_text(line)[:400]
