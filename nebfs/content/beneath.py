"""A directory of this machine that others write to: looked at and read as it is, and never left.

Whatever is asked for is reached from the file system's root one component at a time, and no
component may be a symbolic link (openat(2) with O_NOFOLLOW): so nobody who may write into the
directory can have something read that is outside of it, however he times it. Nothing is followed,
nothing is remembered, and what is found has to be the very file that was looked up.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from nebfs.errors import Changed, Missing, NebfsError, Refused, TimedOut, Unreachable

T = TypeVar("T")

MOST_ENTRIES = 100_000
"""Names in one directory; some 30 MB here while it is listed. Of more it is an error: a list that
is not whole would be taken for one that is."""

THREADS = 4
"""For names, and as many for reading, in one directory of an image. A dead NFS server holds them
for as long as it likes, and nobody else's."""

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

_LEADS_NOWHERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

Identity = tuple[int, int]
"""Device and inode: which file it is."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What lstat(2) says. Times in ns, `size` and `allocated` in bytes."""

    mode: int
    size: int
    allocated: int
    mtime_ns: int
    device: int
    inode: int
    rdev: int

    @classmethod
    def of(cls, facts: os.stat_result) -> Seen:
        """Take what is shown out of a stat_result."""
        return cls(
            facts.st_mode,
            facts.st_size,
            facts.st_blocks * 512,  # whatever the file system's own block size: stat(2)
            facts.st_mtime_ns,
            facts.st_dev,
            facts.st_ino,
            facts.st_rdev,
        )

    @property
    def identity(self) -> Identity:
        """Which file it is."""
        return self.device, self.inode


class OpenFile:
    """A regular file, read as it is at the moment of each read."""

    def __init__(self, fd: int, limiter: trio.CapacityLimiter) -> None:
        self._fd = fd
        self._limiter = limiter

    async def pread(self, offset: int, length: int) -> bytes:
        """Return what is there: fewer bytes than `length` at the end of the file.

        Raises NebfsError when the disk fails.
        """
        try:
            buffer = bytearray(length)
            if os.preadv(self._fd, (buffer,), offset, os.RWF_NOWAIT) == length:
                return bytes(buffer)
        except OSError:
            pass  # it is not in memory, or its file system cannot say
        try:
            return await trio.to_thread.run_sync(
                os.pread, self._fd, length, offset, limiter=self._limiter, abandon_on_cancel=True
            )
        except OSError as exc:
            raise NebfsError(f"cannot read the file: {exc.strerror}") from exc

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Beneath:
    """The directory `root`, an absolute path without links. `timeout`: seconds for one question.

    Below, `names` are the components of a path from `root` on, and `identity` is what was found
    there before; None where it does not matter. Each function raises Changed when it is another
    file now, Missing, Refused, TimedOut, Unreachable when `root` itself is away, or NebfsError.
    """

    def __init__(self, root: str, *, timeout: float) -> None:
        self._root = tuple(part for part in root.split("/") if part)
        self._timeout = timeout
        self._naming = trio.CapacityLimiter(THREADS)
        self._reading = trio.CapacityLimiter(THREADS)
        self._crossed: set[int] = set()

    async def look(self, names: tuple[str, ...], identity: Identity | None, name: str) -> Seen:
        """Look at the entry `name` of the directory at `names`."""
        _check(*names, name)
        return await self._asked(lambda: self._look(names, identity, name))

    async def entries(
        self, names: tuple[str, ...], identity: Identity | None
    ) -> list[tuple[str, Seen]]:
        """Return everything in the directory at `names`: whole, or an error."""
        _check(*names)
        return await self._asked(lambda: self._entries(names, identity))

    async def target(self, names: tuple[str, ...], identity: Identity) -> str:
        """Return what the symbolic link at `names` says."""
        _check(*names)
        return await self._asked(lambda: self._target(names, identity))

    async def facts(self, names: tuple[str, ...], identity: Identity) -> Seen:
        """Look again at what is at `names`."""
        _check(*names)
        return await self._asked(lambda: self._facts(names, identity))

    async def open(self, names: tuple[str, ...], identity: Identity) -> OpenFile:
        """Open the regular file at `names`."""
        _check(*names)
        fd = await self._asked(lambda: self._open(names, identity), undo=os.close)
        return OpenFile(fd, self._reading)

    async def _asked(self, work: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Run `work` in a thread; what comes too late is undone."""
        results: list[T] = []
        late = threading.Lock()

        def run() -> None:
            results.append(work())
            if not late.acquire(blocking=False) and undo is not None:
                undo(results.pop())

        try:
            with trio.fail_after(self._timeout):
                await trio.to_thread.run_sync(run, limiter=self._naming, abandon_on_cancel=True)
                return results.pop()
        except BaseException as exc:
            # Of the thread and us, who have given up, the one who comes second closes what it
            # opened.
            if not late.acquire(blocking=False) and undo is not None:
                undo(results.pop())
            if isinstance(exc, trio.TooSlowError):
                raise TimedOut("the directory does not answer", after=self._timeout) from exc
            raise

    # --- in a thread ------------------------------------------------------------------------

    def _directory(self, names: tuple[str, ...], identity: Identity | None) -> int:
        """Return a descriptor of the directory at `names`, good for lookups only."""
        fd = os.open("/", _WALK)
        try:
            for number, part in enumerate(self._root + names):
                try:
                    below = os.open(part, _WALK, dir_fd=fd)
                except OSError as exc:
                    if exc.errno in _LEADS_NOWHERE and number >= len(self._root):
                        raise Changed("the directory is not there any more") from exc
                    if exc.errno in _LEADS_NOWHERE:
                        raise Unreachable("the image's directory is not there") from exc
                    raise
                os.close(fd)
                fd = below
            found = os.fstat(fd)
            if identity is not None and (found.st_dev, found.st_ino) != identity:
                raise Changed("another directory is there now")
            self._cross(found.st_dev)
        except OSError as exc:
            os.close(fd)
            raise _failure(exc) from exc
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _cross(self, device: int) -> None:
        """Refuse what is mounted by nebfs itself: it would lead into itself for ever."""
        if device in self._crossed:
            return
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
            for line in table:
                fields, _, rest = line.partition(" - ")
                if fields.split(" ", 3)[2] == wanted and rest.startswith("fuse.nebfs "):
                    raise Refused("nebfs is mounted there: it does not show itself")
        self._crossed.add(device)

    def _look(self, names: tuple[str, ...], identity: Identity | None, name: str) -> Seen:
        fd = self._directory(names, identity)
        try:
            return Seen.of(os.stat(name, dir_fd=fd, follow_symlinks=False))
        except OSError as exc:
            raise _failure(exc) from exc
        finally:
            os.close(fd)

    def _entries(self, names: tuple[str, ...], identity: Identity | None) -> list[tuple[str, Seen]]:
        fd = self._directory(names, identity)
        found: list[tuple[str, Seen]] = []
        try:
            # The descriptor that was walked to cannot be read from; this one is the same directory.
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                with os.scandir(readable) as entries:
                    for entry in entries:
                        if len(found) == MOST_ENTRIES:
                            raise NebfsError(
                                "the directory has too many entries", most=MOST_ENTRIES
                            )
                        try:
                            found.append((entry.name, Seen.of(entry.stat(follow_symlinks=False))))
                        except FileNotFoundError:
                            continue  # removed a moment ago
            finally:
                os.close(readable)
        except OSError as exc:
            raise _failure(exc) from exc
        finally:
            os.close(fd)
        return found

    def _facts(self, names: tuple[str, ...], identity: Identity) -> Seen:
        try:
            seen = self._look(names[:-1], None, names[-1])
        except Missing as exc:
            raise Changed("it is not there any more") from exc
        if seen.identity != identity:
            raise Changed("another file is there now")
        return seen

    def _held(self, names: tuple[str, ...], identity: Identity) -> int:
        """Return a descriptor that stands for the very file at `names`, and does not open it."""
        fd = self._directory(names[:-1], None)
        try:
            held = os.open(names[-1], _LOOK, dir_fd=fd)
        except OSError as exc:
            if exc.errno in _LEADS_NOWHERE:
                raise Changed("it is not there any more") from exc
            raise _failure(exc) from exc
        finally:
            os.close(fd)
        try:
            if Seen.of(os.fstat(held)).identity != identity:
                raise Changed("another file is there now")
        except BaseException:
            os.close(held)
            raise
        return held

    def _target(self, names: tuple[str, ...], identity: Identity) -> str:
        held = self._held(names, identity)
        try:
            return os.readlink("", dir_fd=held)
        except OSError as exc:
            raise _failure(exc) from exc
        finally:
            os.close(held)

    def _open(self, names: tuple[str, ...], identity: Identity) -> int:
        held = self._held(names, identity)
        try:
            # A device or a pipe is not even opened: that alone may do something, or wait.
            if not stat.S_ISREG(os.fstat(held).st_mode):
                raise Refused("it is no regular file")
            return os.open(f"/proc/self/fd/{held}", _READ)
        except OSError as exc:
            raise _failure(exc) from exc
        finally:
            os.close(held)


def _check(*names: str) -> None:
    """Raise Missing for what is no entry of a directory. The kernel asks for none of these."""
    if any(name in {"", ".", ".."} or set(name) & {"/", "\0"} for name in names):
        raise Missing("no such entry")


def _failure(exc: OSError) -> NebfsError:
    match exc.errno:
        case errno.ENOENT:
            return Missing("no such entry")
        case errno.EACCES | errno.EPERM:
            return Refused("nebfs's own user may not look there")
        case errno.ENAMETOOLONG:
            failure = NebfsError("the name is too long")
            failure.errno = errno.ENAMETOOLONG
            return failure
    return NebfsError(f"the directory gives an error: {exc.strerror}")
