"""What OpenNebula's own record of an app says about its bytes: may they be read, where are they.

The rules for states are OpenNebula's (its clients offer only READY apps; a DISABLED app "must not
be exported"). A record is written by whoever can publish: its SOURCE is checked, never trusted.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Container
from urllib.parse import urlsplit

from nebfs.model import (
    App,
    AppState,
    AppType,
    Checksum,
    Content,
    Locator,
    Trouble,
    shown_line,
)

HTTP = frozenset({"http", "https"})

_TYPE = re.compile(r'^\s*TYPE\s*=\s*"?\s*(\w+)', re.IGNORECASE | re.MULTILINE)
_HEX = re.compile(r"[0-9a-f]+")
_DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}
_TEMPLATES = frozenset({AppType.VMTEMPLATE, AppType.SERVICE_TEMPLATE})


def is_template(app: App) -> bool:
    """Whether the app is a definition without bytes of its own."""
    return app.type in _TEMPLATES


def withheld(app: App) -> Trouble | None:
    """Say why OpenNebula does not let the app be read now, or None. A user's LOCK is no reason."""
    if app.unreadable:
        return Trouble(errno.EIO, app.unreadable)
    return None if is_template(app) else _trouble_of_state(app)


def trouble_of(app: App, schemes: Container[str] = HTTP) -> Trouble | None:
    """Say why the app's bytes cannot be read now, or None; `schemes` are those of its SOURCE that
    can be.
    """
    if app.unreadable or is_template(app):
        return withheld(app)
    return withheld(app) or _trouble_of_source(app.source, schemes)


def _trouble_of_state(app: App) -> Trouble | None:
    match app.state:
        case AppState.READY:
            return None
        case AppState.INIT | AppState.LOCKED:
            return Trouble(errno.EBUSY, "the app is still being uploaded to its marketplace")
        case AppState.ERROR:
            said = shown_line(app.template.get("ERROR"))
            return Trouble(errno.EIO, f"OpenNebula has the app in state ERROR: {said or 'no text'}")
        case AppState.DISABLED:
            # EACCES and not EBUSY: waiting does not help, its owner has to enable it.
            return Trouble(errno.EACCES, "the app is disabled: it must not be exported")
        case AppState.UNKNOWN:
            return Trouble(errno.EOPNOTSUPP, "the app is in a state that nebfs does not know")


def _trouble_of_source(source: str, schemes: Container[str]) -> Trouble | None:
    if not source:
        return Trouble(errno.EIO, "OpenNebula's record of the app has no SOURCE")
    # urlsplit() drops line breaks without a word: look before it does.
    if not source.isprintable() or " " in source:
        return Trouble(errno.EIO, "the app's SOURCE is not a URL")
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname, parts.port
    except ValueError:  # such as a broken IPv6 address or a port that is no number
        return Trouble(errno.EIO, "the app's SOURCE is not a URL")
    if parts.scheme.lower() not in schemes:
        shown = parts.scheme or "a path"
        return Trouble(errno.EOPNOTSUPP, f"nebfs does not read apps whose SOURCE is {shown!r}")
    return None if host else Trouble(errno.EIO, "the app's SOURCE names no host")


def recorded_content(app: App) -> Content:
    """Return the app's one file as its record describes it; `trouble_of` has been asked before.

    SIZE is left out: it is the virtual size rounded up to MiB, not exact.
    """
    return Content(
        locator=Locator("http", app.source),
        format=app.format,
        media=media_of(app),
        checksums=checksums({"md5": app.md5}),
        version=app.version,
    )


def media_of(app: App) -> str:
    """Return ``cdrom`` when the image template that goes with the app says so."""
    found = _TYPE.search(app.app_template)
    return media_named(found[1]) if found else ""


def media_named(image_type: str) -> str:
    """Return ``cdrom`` for OpenNebula's image type CDROM, else an empty string."""
    return "cdrom" if image_type.upper() == "CDROM" else ""


def checksums(published: dict[str, str]) -> tuple[Checksum, ...]:
    """Return those of `published` (algorithm: digest) that can be digests, in order."""
    found = ((name, digest.strip().lower()) for name, digest in published.items())
    return tuple(
        Checksum(name, digest)
        for name, digest in found
        if len(digest) == _DIGITS[name] and _HEX.fullmatch(digest)
    )
