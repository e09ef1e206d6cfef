"""Looking at many files: what each is and whether it is where it seems to be. Blocking.

Made for thousands of names in one directory: the directory's own path is resolved once, its names
are read once, and an ordinary file then costs one lstat().
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from nebfs.datastores.places import is_inside

# What lstat() counts st_blocks in, whatever the filesystem's own block size (stat(2)).
_ST_BLOCK = 512

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class Looked:
    """What is at a path. `failed` is the errno of looking; the rest means nothing then."""

    path: str
    """Without any symbolic link in it."""
    failed: int = 0
    kind: str = ""
    outside: bool = False
    """Symbolic links lead out of the base directory."""
    chained: bool = False
    """There is a ``.snap`` directory beside it."""
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

    def has_chain(self, name: str) -> bool:
        snapshots = f"{name}.snap"
        if self.names is not None and snapshots not in self.names:
            return False
        try:
            return stat.S_ISDIR(os.lstat(posixpath.join(self.real, snapshots)).st_mode)
        except FileNotFoundError:
            return False


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
        chained = directory.has_chain(name)
        if stat.S_ISLNK(found.st_mode):
            real_path = os.path.realpath(real_path, strict=True)
            found = os.lstat(real_path)
    except (OSError, ValueError) as exc:  # ValueError: a name that the filesystem cannot have
        return Looked(path, _errno(exc))
    return Looked(
        real_path,
        kind=_KINDS.get(stat.S_IFMT(found.st_mode), "thing of an unknown kind"),
        outside=not is_inside(real_path, real_base),
        chained=chained,
        size=found.st_size,
        allocated=found.st_blocks * _ST_BLOCK,
        modified_ns=found.st_mtime_ns,
        device=found.st_dev,
        inode=found.st_ino,
    )


def _names(directory: str) -> frozenset[str] | None:
    try:
        return frozenset(os.listdir(directory))
    except PermissionError:
        return None


def _errno(exc: OSError | ValueError) -> int:
    return (exc.errno or errno.EIO) if isinstance(exc, OSError) else errno.ENOENT
