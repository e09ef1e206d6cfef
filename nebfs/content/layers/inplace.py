"""A file on this machine, read where it is: no fetcher, no cache, no second copy."""

from __future__ import annotations

import os
from dataclasses import replace

import trio

from nebfs.blocks.blockfile import SCRATCH, disk_threads
from nebfs.content.stack import ReaderFacts
from nebfs.errors import Changed, Missing, NebfsError, Refused
from nebfs.model import Locator, Revision


def revision_of(stat: os.stat_result) -> Revision:
    """Return the revision of a local file: its length, its time (ns), which file it is."""
    return Revision(
        size=stat.st_size,
        etag=f"{stat.st_dev}:{stat.st_ino}",
        modified=str(stat.st_mtime_ns),
    )


def look_at(locator: Locator, length: int) -> tuple[Revision, bytes]:
    """Return a local file's revision and its first `length` bytes, or all if it has fewer. Blocks.

    Raises Missing, Refused or NebfsError.
    """
    fd = _opened(locator)
    try:
        return revision_of(os.fstat(fd)), os.pread(fd, length, 0)
    except OSError as exc:
        raise NebfsError(f"cannot read the image's file: {exc.strerror}") from exc
    finally:
        os.close(fd)


def _opened(locator: Locator) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return os.open(locator.address, flags)
    except FileNotFoundError as exc:
        raise Missing("the image's file is not there any more", path=locator.address) from exc
    except PermissionError as exc:
        raise Refused("the image's file may not be read", path=locator.address) from exc
    except OSError as exc:
        raise NebfsError(f"cannot open the image's file: {exc.strerror}") from exc


class InPlace:
    """Reads a local file and keeps to the version that was opened.

    Before each answer the file's length and time are compared: after a change it is ESTALE, since
    another process may be half-way through writing it. Of a `volatile` one only the length counts:
    whoever asked for it knows that it changes.
    """

    def __init__(self, fd: int, revision: Revision, *, volatile: bool = False) -> None:
        self._fd = fd
        self._volatile = volatile
        self.revision = revision
        self.size = revision.size
        self._last_error = ""

    @classmethod
    async def open(cls, locator: Locator, revision: Revision, *, volatile: bool = False) -> InPlace:
        """Open the file. Raises Missing, Refused or Changed (it is another one than was listed)."""
        fd = await trio.to_thread.run_sync(_opened, locator, limiter=disk_threads)
        reader = cls(fd, revision, volatile=volatile)
        try:
            reader._check()
        except BaseException:
            os.close(fd)
            raise
        return reader

    def _check(self) -> None:
        found = revision_of(os.fstat(self._fd))
        if self._volatile:
            found = replace(found, modified=self.revision.modified)
        difference = self.revision.differs_from(found)
        if difference:
            raise Changed("the image's file has changed since it was listed", what=difference)

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from the page cache. A changed file is left to ``pread`` to report."""
        if length > len(SCRATCH):
            return None
        view = SCRATCH[:length]
        try:
            if os.preadv(self._fd, (view,), offset, os.RWF_NOWAIT) != length:
                return None
            self._check()
        except (OSError, Changed):
            return None
        return view

    async def pread(self, offset: int, length: int) -> bytes:
        """Read in a thread. Raises Changed, or NebfsError when the disk fails."""
        try:
            data = await trio.to_thread.run_sync(
                os.pread, self._fd, length, offset, limiter=disk_threads, abandon_on_cancel=True
            )
        except OSError as exc:
            self._last_error = str(exc)
            raise NebfsError(f"cannot read the image's file: {exc.strerror}") from exc
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
