"""Looking at many files: what each is and whether it is where it seems to be. Blocking.

Made for thousands of names in one directory: the directory's own path is resolved once, its names
are read once, and an ordinary file then costs one lstat(). Where there is a ``.snap`` directory
beside a file, that is looked into as well (entries.py).
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from nebfs.datastores.chains import SNAP, Chain
from nebfs.datastores.entries import KINDS, ST_BLOCK, Crowded, Entry, entry, inside, of
from nebfs.datastores.places import is_inside


@dataclass(frozen=True, slots=True)
class Looked:
    """What is at a path. `failed` is the errno of looking; the rest means nothing then."""

    path: str
    """Without any symbolic link in it, but for the last part of one with a chain."""
    failed: int = 0
    kind: str = ""
    outside: bool = False
    """Symbolic links lead out of the base directory."""
    chain: Chain | None = None
    """What is in the ``.snap`` directory beside it, where there is one."""
    size: int = 0
    allocated: int | None = 0
    """None where the machine does not say."""
    modified_ns: int = 0
    device: int = 0
    inode: int = 0


def look(base: str, paths: Sequence[str]) -> tuple[Looked, ...]:
    """Look at `paths`, all of them below `base` as text. Blocks; the disk's errors are answers."""
    if not paths:
        return ()
    try:
        real_base = os.path.realpath(base, strict=True)
    except (OSError, ValueError) as exc:
        failed = _errno(exc)
        return tuple(Looked(path, failed) for path in paths)
    directories: dict[str, _Directory] = {}
    return tuple(_look(base, real_base, path, directories) for path in paths)


@dataclass(frozen=True, slots=True)
class _Directory:
    """A directory in which images are. `names` is None where it may not be read, only entered."""

    real: str
    names: frozenset[str] | None

    def snapshots(self, name: str) -> str:
        """Return the path of the ``.snap`` directory of `name`, empty where there is none."""
        snapshots = f"{name}{SNAP}"
        if self.names is not None and snapshots not in self.names:
            return ""
        path = posixpath.join(self.real, snapshots)
        try:
            return path if stat.S_ISDIR(os.lstat(path).st_mode) else ""
        except FileNotFoundError:
            return ""


def _look(base: str, real_base: str, path: str, directories: dict[str, _Directory]) -> Looked:
    parent, name = posixpath.split(path)
    try:
        directory = directories.get(parent)
        if directory is None:
            # The base itself may be a link: its administrator put it there.
            real = real_base if parent == base else os.path.realpath(parent, strict=True)
            within = real == real_base or is_inside(real, real_base)
            names = _names(real) if within else frozenset()
            directory = directories[parent] = _Directory(real, names)
        real_path = posixpath.join(directory.real, name)
        found = os.lstat(real_path)
        snapshots = directory.snapshots(name)
        chain = _chain(directory.real, name, found, snapshots) if snapshots else None
        if stat.S_ISLNK(found.st_mode) and chain is None:
            real_path = os.path.realpath(real_path, strict=True)
            found = os.lstat(real_path)
    except (OSError, ValueError) as exc:  # ValueError: a name that the filesystem cannot have
        return Looked(path, _errno(exc))
    return Looked(
        real_path,
        kind=KINDS.get(stat.S_IFMT(found.st_mode), "thing of an unknown kind"),
        outside=not is_inside(real_path, real_base),
        chain=chain,
        size=found.st_size,
        allocated=found.st_blocks * ST_BLOCK,
        modified_ns=found.st_mtime_ns,
        device=found.st_dev,
        inode=found.st_ino,
    )


def _chain(directory: str, name: str, found: os.stat_result, snapshots: str) -> Chain:
    """Look at a file that has snapshots beside it, and at those."""
    crowded, entries = False, tuple[Entry, ...]()
    try:
        entries = inside(snapshots)
    except Crowded:
        crowded = True
    source: Entry | None
    if stat.S_ISREG(found.st_mode) and all(one.kind == "link" for one in entries):
        # As a persistent qcow2 image without snapshots is left: nothing builds on it.
        source = of(directory, name, found)
    else:
        source = entry(directory, name)
    if source is None:
        raise FileNotFoundError(errno.ENOENT, "it went away", name)
    return Chain(source, entries, crowded)


def _names(directory: str) -> frozenset[str] | None:
    try:
        return frozenset(os.listdir(directory))
    except PermissionError:
        return None


def _errno(exc: OSError | ValueError) -> int:
    return (exc.errno or errno.EIO) if isinstance(exc, OSError) else errno.ENOENT
