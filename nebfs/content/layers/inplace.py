"""A file on this machine, read where it is: no fetcher, no cache, no second copy.

The reader is one for files and for block devices; what is different of a device is in devices.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

import trio

from nebfs.blocks.blockfile import SCRATCH
from nebfs.content.layers.waiting import opened, threads_of
from nebfs.content.stack import ReaderFacts
from nebfs.errors import Changed, Missing, NebfsError, Refused
from nebfs.model import Locator, Revision


def revision_of(found: os.stat_result) -> Revision:
    """Return the revision of a local file: its length, its time (ns), which file it is."""
    return Revision(
        size=found.st_size,
        etag=f"{found.st_dev}:{found.st_ino}",
        modified=str(found.st_mtime_ns),
    )


def look_at(locator: Locator, length: int) -> tuple[Revision, bytes]:
    """Return a local file's revision and its first `length` bytes, or all if it has fewer. Blocks.

    Raises Missing, Refused or NebfsError.
    """
    fd = _opened(locator)
    try:
        return _revision(fd), os.pread(fd, length, 0)
    except OSError as exc:
        raise NebfsError(f"cannot read the image's file: {exc.strerror}") from exc
    finally:
        os.close(fd)


def open_read_only(path: str, flags: int = 0) -> int:
    """Open what is at `path`, whatever it is, without waiting for it. Blocks, as a disk may."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | flags)


def _opened(locator: Locator) -> int:
    try:
        fd = open_read_only(locator.address)
    except FileNotFoundError as exc:
        raise Missing("the image's file is not there any more", path=locator.address) from exc
    except PermissionError as exc:
        raise Refused("the image's file may not be read", path=locator.address) from exc
    except OSError as exc:
        raise NebfsError(f"cannot open the image's file: {exc.strerror}") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        # Whoever may change the directory could else have a disk of this machine read to him.
        os.close(fd)
        raise Refused("where the image's file was is something else now", path=locator.address)
    return fd


def _revision(fd: int) -> Revision:
    return revision_of(os.fstat(fd))


class InPlace:
    """Reads what is open as `fd` and keeps to the version that was opened.

    Before each answer the length and time are compared: after a change it is ESTALE, since another
    process may be half-way through writing it. Of a `volatile` one only the length counts: whoever
    asked for it knows that it changes.
    """

    def __init__(
        self,
        fd: int,
        revision: Revision,
        *,
        place: str,
        volatile: bool = False,
        look: Callable[[int], Revision] = _revision,
        read: Callable[[int, int, int], bytes] = os.pread,
        cached: bool = True,
    ) -> None:
        """`place`: what hangs with it, see waiting.py. `look` tells the version of what is open,
        `read` reads it (descriptor, length, offset). `cached`: this machine's page cache may answer
        for it.
        """
        self._threads = threads_of(place)
        self._fd = fd
        self._volatile = volatile
        self._look = look
        self._read = read
        self._cached = cached
        self.revision = revision
        self.size = revision.size
        self._last_error = ""
        self._facts: tuple[int, ...] | None = None
        try:
            self._check()
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    async def open(cls, locator: Locator, revision: Revision, *, volatile: bool = False) -> InPlace:
        """Open the file. Raises Missing, Refused or Changed (it is another one than was listed)."""
        place = os.path.dirname(locator.address)
        fd = await opened(place, lambda: _opened(locator))
        return cls(fd, revision, place=place, volatile=volatile)

    def _check(self) -> None:
        try:
            facts = None
            if self._look is _revision:
                # The numbers alone: making a Revision of them takes longer than a read of 4 KiB.
                now = os.fstat(self._fd)
                facts = (now.st_size, now.st_mtime_ns, now.st_ino, now.st_dev)
                if facts == self._facts:
                    return
            found = self._look(self._fd)
        except OSError as exc:
            self._fail(exc)
        if self._volatile:
            found = replace(found, modified=self.revision.modified)
        difference = self.revision.differs_from(found)
        if difference:
            raise Changed("the image's file has changed since it was listed", what=difference)
        self._facts = facts

    def _fail(self, exc: OSError) -> NoReturn:
        self._last_error = str(exc)
        raise NebfsError(f"cannot read the image's file: {exc.strerror}") from exc

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from the page cache. A changed file is left to ``pread`` to report."""
        if not self._cached or length > len(SCRATCH):
            return None
        view = SCRATCH[:length]
        try:
            if os.preadv(self._fd, (view,), offset, os.RWF_NOWAIT) != length:
                return None
            self._check()
        except (OSError, NebfsError):
            return None
        return view

    async def pread(self, offset: int, length: int) -> bytes:
        """Read in a thread. Raises Changed, or NebfsError when the disk fails."""
        try:
            data = await trio.to_thread.run_sync(
                self._read, self._fd, length, offset, limiter=self._threads, abandon_on_cancel=True
            )
        except OSError as exc:
            self._fail(exc)
        self._check()
        if len(data) != length:
            raise Changed("the image's file became shorter while it was read")
        return data

    def facts(self) -> ReaderFacts:
        """Everything is here, and nothing was published about it."""
        return ReaderFacts(self.size, self.size, "", self._last_error, where="in place")

    async def aclose(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
