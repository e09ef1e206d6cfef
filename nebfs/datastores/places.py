"""The front-end's paths here or elsewhere, and the check that a path stays in its datastore.

An image's SOURCE comes from a database that other people write to, through drivers and hooks: it
is hostile input. It is made plain as text first, and what is really there is looked at after.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence

SFTP = "sftp://"

_Pair = tuple[str, str, str]
"""Prefix as the front-end says it, host, directory there."""

_SLASHES = re.compile(r"/{2,}")


def plain(path: str) -> str:
    """Return `path` without double slashes, ``.`` and ``..``; empty when it is not absolute.

    OpenNebula itself writes ``/var/lib/one//datastores/1/...``.
    """
    if not path.startswith("/") or "\0" in path:
        return ""
    return posixpath.normpath(_SLASHES.sub("/", path))


def is_inside(path: str, directory: str) -> bool:
    """Whether the plain `path` is below the plain `directory`, judged by the text alone."""
    return path.startswith("/" if directory == "/" else f"{directory}/") and path != directory


class PathMap:
    """Where the front-end's directories are; the longest prefix wins."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        """`paths`: absolute prefix as the front-end says it -> absolute directory here, or
        ``sftp://[user@]host[:port]/directory`` on another machine.
        """
        here: list[_Pair] = []
        there: list[_Pair] = []
        for theirs, ours in paths.items():
            host, path = _taken_apart(ours)
            if plain(theirs) and plain(path):
                (there if host else here).append((plain(theirs), host, plain(path)))
        self._here = sorted(here, key=_length, reverse=True)
        self._there = sorted(there, key=_length, reverse=True)

    def local(self, path: str) -> str:
        """Return the plain `path` as it is called here."""
        return _mapped(path, self._here)[1] or path

    def remote(self, path: str) -> tuple[str, str]:
        """Return the host that the plain `path` is on, as it was written, and its name there.

        Both are empty where no host was named.
        """
        return _mapped(path, self._there)


def _taken_apart(ours: str) -> tuple[str, str]:
    """Return the host, empty for this machine, and the path. A host's letters stay as they are."""
    if not ours.startswith(SFTP):
        return "", ours
    host, slash, path = ours.removeprefix(SFTP).partition("/")
    return host, slash + path


def _length(pair: _Pair) -> int:
    return len(pair[0])


def _mapped(path: str, pairs: Sequence[_Pair]) -> tuple[str, str]:
    for theirs, host, ours in pairs:
        if path == theirs:
            return host, ours
        if is_inside(path, theirs):
            return host, plain(f"{ours}/{path[len(theirs) :]}")
    return "", ""
