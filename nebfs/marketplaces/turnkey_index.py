"""TurnKey Linux's archives: the web page that lists them, and the checksums beside each.

The page is whatever the mirror's web server makes of a directory, so only its links count. The
names of files say which application, of which version, on which Debian. Beside each archive is a
``.hash``: a signed text with the lines of sha256sum, sha512sum and older kin in it. The signature
is not checked (nobody here knows the key): the sums tell damage, not a dishonest mirror.
Source: the pages and files of mirror.turnkeylinux.org and its mirrors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin

from nebfs.marketplaces.record import checksums
from nebfs.model import Checksum

DIRECTORY = "turnkeylinux/images/proxmox/"
"""Where the archives for containers are on every mirror."""

_ARCHIVE = re.compile(
    r"debian-([0-9]{1,3})-turnkey-([a-z0-9][a-z0-9+.-]{0,99})"
    r"_([0-9][0-9A-Za-z+.~-]{0,63})_amd64\.tar\.gz"
)
_LINK = re.compile(r"a\s", re.IGNORECASE)
# A name has at most 255 bytes, and each may be written as %XX.
_LONGEST_LINK = 2048
_NUMBER = re.compile(r"[0-9]+")
_WORDS = re.compile(r"[^\s()*=:]+")
_HEX = re.compile(r"[0-9A-Fa-f]+")
_LONGEST_LINE = 1024
_SIGNATURE = "-----BEGIN PGP SIGNATURE-----"
# Hex digits by which an algorithm is told.
_ALGORITHMS = {32: "md5", 64: "sha256", 128: "sha512"}


@dataclass(frozen=True, slots=True)
class Archive:
    """One file: the application `app` in a `version`, for containers of a release of Debian."""

    name: str
    app: str
    version: str
    debian: int

    @property
    def age(self) -> tuple[tuple[int, ...], int, str]:
        """What orders the archives of one application: the newest version is the largest."""
        numbers = tuple(int(digits) for digits in _NUMBER.findall(self.version))
        return numbers, self.debian, self.version


def archive_named(name: str) -> Archive | None:
    """Return what the name of a file says, or None when it is not that of an archive."""
    found = _ARCHIVE.fullmatch(name)
    return Archive(name, found[2], found[3], int(found[1])) if found else None


def read_listing(body: bytes, url: str) -> dict[str, Archive]:
    """Return by name the archives that the page `body`, which is at `url`, has links to.

    Call it in a worker thread.
    """
    found: dict[str, Archive] = {}
    for link in _links(body.decode("utf-8", "replace")):
        try:
            target = urljoin(url, link)
        except ValueError:
            continue
        archive = archive_named(unquote(target.removeprefix(url)))
        if archive is not None:
            found[archive.name] = archive
    return found


def successor(gone: Archive, archives: Iterable[Archive]) -> Archive | None:
    """Return what stands for an archive that is gone: the newest version of its application, on
    the same Debian or a newer one.
    """
    heirs = (one for one in archives if one.app == gone.app and one.debian >= gone.debian)
    return max(heirs, key=lambda one: one.age, default=None)


def newest(archives: Iterable[Archive]) -> list[Archive]:
    """Return the newest version of each application on each Debian."""
    found: dict[tuple[str, int], Archive] = {}
    for one in archives:
        known = found.get((one.app, one.debian))
        if known is None or known.age < one.age:
            found[one.app, one.debian] = one
    return list(found.values())


def read_hashes(body: bytes, name: str) -> tuple[Checksum, ...]:
    """Return the digests that the text `body` gives for the file called `name`.

    A line counts when it has both the name and a digest. Two digests of one kind that differ say
    nothing.
    """
    found: dict[str, set[str]] = {}
    for line in body.decode("utf-8", "replace").partition(_SIGNATURE)[0].splitlines():
        words = _WORDS.findall(line) if len(line) <= _LONGEST_LINE else []
        if name not in words:
            continue
        for word in filter(_HEX.fullmatch, words):
            if len(word) in _ALGORITHMS:
                found.setdefault(_ALGORITHMS[len(word)], set()).add(word.lower())
    order = ("sha512", "sha256", "md5")
    return checksums({one: found[one].pop() for one in order if len(found.get(one, ())) == 1})


class _Anchor(HTMLParser):
    """Keeps the target of the last link."""

    href = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.href = dict(attrs).get("href") or ""


def _links(page: str) -> Iterator[str]:
    """Yield the targets of links, entities decoded.

    Each tag is parsed by itself: the standard library's parser may take a time that grows with
    the square of what it is given at once.
    """
    for piece in page.split("<"):
        if not _LINK.match(piece):
            continue
        tag, end, _ = piece.partition(">")
        if not end or len(tag) > _LONGEST_LINK:
            continue
        anchor = _Anchor()
        anchor.feed(f"<{tag}>")
        if anchor.href:
            yield anchor.href
