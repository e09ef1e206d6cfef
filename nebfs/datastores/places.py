"""The front-end's paths on this machine, and the check that a path stays in its datastore.

An image's SOURCE comes from a database that other people write to, through drivers and hooks: it
is hostile input. It is made plain as text first, and what is really there is looked at after.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

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
    """Where the front-end's directories are on this machine; the longest prefix wins."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        """`paths`: prefix as the front-end says it -> directory here. Both are absolute."""
        pairs = ((plain(theirs), plain(ours)) for theirs, ours in paths.items())
        self._pairs = sorted(
            ((theirs, ours) for theirs, ours in pairs if theirs and ours),
            key=lambda pair: len(pair[0]),
            reverse=True,
        )

    def local(self, path: str) -> str:
        """Return the plain `path` as it is called here."""
        for theirs, ours in self._pairs:
            if path == theirs:
                return ours
            if is_inside(path, theirs):
                return plain(f"{ours}/{path[len(theirs) :]}")
        return path
