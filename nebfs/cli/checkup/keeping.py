"""The directories that a mount keeps things in, looked at from outside.

What is in the cache is the business of nebfs/blocks alone; here is looked at the directory itself:
whose it is, whether it can be written, whether there is room, and whether a daemon has it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nebfs.cli.checkup.finding import Finding, Level, ok, problem, warning
from nebfs.daemon import registry
from nebfs.units import MIB, format_size

PIECE = 1 * MIB
"""Bytes that are written to see that they can be: some filesystems have room for names only."""
_EFFECT = "blocks would be kept in memory only"
_PUNCH = 1 | 2  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE of fallocate(2)


def check_run_dir(path: Path) -> Iterator[Finding]:
    """Look at the directory of sockets, as `registry.prepare` does, without making it."""
    about = "run directory"
    try:
        found = path.lstat()
    except FileNotFoundError:
        yield from _can_be_made(about, path)
        return
    except OSError as exc:
        yield problem(about, f"{path}: {exc.strerror}", "choose another with --run-dir")
        return
    if not stat.S_ISDIR(found.st_mode):
        yield problem(about, f"{path} is not a directory", "choose another with --run-dir")
    elif found.st_uid != os.geteuid():
        text = f"{path} belongs to user {found.st_uid}, not to this one"
        yield problem(about, text, "remove it, or choose another with --run-dir")
    elif found.st_mode & 0o022:
        yield problem(about, f"others may write to {path}", f"chmod go-w {path}")
    elif not os.access(path, os.W_OK):
        text = f"{path} cannot be written to: its filesystem is read-only"
        yield problem(about, text, "choose another with --run-dir")
    else:
        yield ok(about, f"{path} is ours")


def check_cache(
    path: Path, size: int, min_free: int, *, run_dir: Path, mountpoint: Path | None
) -> Iterator[Finding]:
    """Look at the cache directory; `size` and `min_free` are bytes."""
    about = "cache"
    try:
        found = path.stat()
    except FileNotFoundError:
        findings = list(_can_be_made(about, path))
        yield from findings
        if findings[0].level is Level.OK:
            yield from _room(about, _existing(path), size, min_free, used=0)
        return
    except OSError as exc:
        yield problem(about, f"{path}: {exc.strerror}; {_EFFECT}", _elsewhere())
        return
    if not stat.S_ISDIR(found.st_mode):
        yield problem(about, f"{path} is not a directory", _elsewhere())
        return
    yield from _owner(about, path, found)
    yield from _ours(about, path)
    findings = list(_written(about, path))
    yield from findings
    if not findings:
        yield from _room(about, path, size, min_free, used=_used(path))
    yield from _in_use(about, path, run_dir, mountpoint)


def _owner(about: str, path: Path, found: os.stat_result) -> Iterator[Finding]:
    if found.st_uid != os.geteuid():
        text = f"{path} belongs to user {found.st_uid}, not to this one ({os.geteuid()})"
        remedy = f"chown -R {os.geteuid()} {path}, or name another with --cache-dir"
        # Root may write there, and the other user can no longer.
        yield (warning if os.geteuid() == 0 else problem)(about, text, remedy)


def _ours(about: str, path: Path) -> Iterator[Finding]:
    try:
        names = set(os.listdir(path))
    except OSError as exc:
        yield problem(about, f"{path} cannot be listed: {exc.strerror}; {_EFFECT}", _elsewhere())
        return
    if names and "VERSION" not in names:
        yield problem(about, f"{path} is neither empty nor a cache of nebfs", _elsewhere())


def _written(about: str, path: Path) -> Iterator[Finding]:
    """Try to write there what a block would be, and to give its room back."""
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(os.urandom(PIECE))
            file.flush()
            if not _punched(file.fileno(), PIECE):
                text = f"the filesystem of {path} cannot give back a part of a file (punch holes)"
                remedy = "put the cache on ext4, xfs or btrfs: else its limit cannot be kept"
                yield warning(about, text, remedy)
    except OSError as exc:
        match exc.errno:
            case errno.ENOSPC | errno.EDQUOT:
                text = f"the disk of {path} is full; {_EFFECT}"
                yield problem(about, text, "make room there, or name another with --cache-dir")
            case errno.EROFS:
                text = f"the filesystem of {path} is read-only; {_EFFECT}"
                yield problem(about, text, "mount it with rw, or name another with --cache-dir")
            case _:
                yield problem(about, f"{path}: {exc.strerror}; {_EFFECT}", _elsewhere())


def _room(about: str, path: Path, size: int, min_free: int, *, used: int) -> Iterator[Finding]:
    try:
        disk = os.statvfs(path)
    except OSError as exc:
        yield problem(about, f"{path}: {exc.strerror}; {_EFFECT}", _elsewhere())
        return
    free = disk.f_bavail * disk.f_frsize
    if free <= min_free:
        text = (
            f"the disk of {path} has {format_size(free)} free, and cache_min_free leaves "
            f"{format_size(min_free)} alone: nothing can be cached"
        )
        yield problem(about, text, "make room there, or lower cache_min_free")
    elif free + used - min_free < size:
        text = (
            f"the disk of {path} has room for {format_size(free + used - min_free)} of the "
            f"{format_size(size)} that cache_size allows"
        )
        yield warning(about, text, "make room there, or lower cache_size")
    else:
        yield ok(about, f"{path} can be written, {format_size(free)} free on its disk")


def _used(path: Path) -> int:
    """Return the bytes that objects take there; those that vanish meanwhile do not count."""
    total = 0
    for shelf, _, names in os.walk(path / "objects"):
        for name in names:
            try:
                total += os.lstat(os.path.join(shelf, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _in_use(about: str, path: Path, run_dir: Path, mountpoint: Path | None) -> Iterator[Finding]:
    try:
        lock = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # never used, or told above
    try:
        # For no longer than this call: a daemon that starts now would be refused.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 100, 0).decode(errors="replace").strip() or "unknown"
        owner = next((one for one in registry.running(run_dir) if str(one.pid) == pid), None)
        whose = f"the mount at {owner.mountpoint}" if owner else "another nebfs"
        if owner and mountpoint in (None, Path(owner.mountpoint)):
            yield ok(about, f"{path} is used by {whose}, process {pid}")
        else:
            text = f"{path} is in use by {whose} (process {pid})"
            yield problem(about, text, "give this mount its own with --cache-dir")
    finally:
        os.close(lock)


def _can_be_made(about: str, path: Path) -> Iterator[Finding]:
    above = _existing(path)
    if not above.is_dir():
        yield problem(about, f"{path} cannot be made: {above} is not a directory", _elsewhere())
    elif not os.access(above, os.W_OK | os.X_OK):
        why = "its filesystem is read-only" if os.geteuid() == 0 else "this user may not write"
        text = f"{path} is not there and cannot be made in {above}: {why}"
        yield problem(about, text, f"make it as root and chown it to user {os.geteuid()}")
    else:
        yield ok(about, f"{path} will be made")


def _existing(path: Path) -> Path:
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), Path("/"))


def _elsewhere() -> str:
    return "name another directory"


def _punched(descriptor: int, length: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    zero, count = ctypes.c_int64(0), ctypes.c_int64(length)
    done: int = libc.fallocate64(descriptor, _PUNCH, zero, count)
    return done == 0 or ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS)
