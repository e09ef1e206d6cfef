"""Which files a machine has, to see afterwards which came and stayed."""

from __future__ import annotations

import os
from pathlib import Path

CHANGING = (
    *("dev", "proc", "sys", "tmp", "run/lock"),
    # apt's and dpkg's own books.
    *("var/lib/apt", "var/cache/apt", "var/lib/dpkg", "var/log"),
    # Where mount(8) keeps what the kernel does not, such as _netdev; gone with the next boot.
    "run/mount",
    # Made anew whenever a library is put in or taken out.
    *("var/cache/ldconfig", "etc/ld.so.cache"),
)
"""What is not looked at: no package of ours owns or writes anything there."""


def listing(root: Path) -> frozenset[str]:
    """Return the names of everything below `root` that a package may own."""
    found: set[str] = set()
    for directory, directories, files in os.walk(root):
        inside = os.path.relpath(directory, root)
        names = {name: os.path.normpath(os.path.join(inside, name)) for name in directories + files}
        found.update(path for path in names.values() if path not in CHANGING)
        directories[:] = [name for name in directories if names[name] not in CHANGING]
    return frozenset(found)


def appeared(before: frozenset[str], after: frozenset[str]) -> list[str]:
    """Return what is new, in order; of a new directory the files in it, too."""
    return sorted(after - before)
