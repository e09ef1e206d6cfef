"""Bytes of files in restic repositories, read where they are; LOOK for what is in snapshots.

The address and the options are in restic_places.py, the question in restic_look.py. No restic is
run, nothing is mounted, and nothing is written, not even a lock. Of a file only those blobs are
read that a range touches, and each is authenticated and compared with its SHA-256 before a byte of
it counts.
Source of the format: restic's doc/design.rst, versions 1 and 2.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from nebfs.errors import Changed, NebfsError
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.pouring import Pour, Vessel, clipped, feed, meanwhile
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.slots import Buffers
from nebfs.fetcher.transports.restic_files import Cut, File, Files
from nebfs.fetcher.transports.restic_look import Looks
from nebfs.fetcher.transports.restic_places import FilePlace, Repositories
from nebfs.fetcher.transports.restic_repository import Begun, Repository
from nebfs.model import Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener

AHEAD = 12 << 20
"""Bytes that are asked for before they are needed: three reads of restic_repository.TOGETHER."""


class Restic:
    """The transport ``restic``."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        self._repositories = Repositories(settings)
        self._files = Files(self._repositories)
        self._looks = Looks(self._repositories)
        self._buffers = Buffers()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._files.aclose()
        await self._repositories.aclose()

    async def call(self, request: CallRequest) -> CallAnswer:
        """Answer a LOOK; see restic_look.py."""
        return await self._looks.answer(request)

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges; see messages.Fetcher.fetch."""
        expected = request.expected
        if expected is not None and not clipped(request.ranges, expected.size):
            return expected
        place = FilePlace.at(request.locator.address, request.locator.options)
        repository, file = await self._files.at(place)
        revision = file.revision
        if expected is None:
            listener.found(revision)
        elif difference := expected.differs_from(revision):
            raise Changed("the file is another version now", what=difference)
        ranges = clipped(request.ranges, revision.size)
        vessel = Vessel(fd, request, revision.size, listener.filled, listener.early, self._buffers)
        async with _glimpse(repository, file, request, ranges, listener):
            await _fill(repository, file, ranges, vessel)
        return revision


async def _fill(
    repository: Repository, file: File, ranges: Sequence[tuple[int, int]], vessel: Vessel
) -> None:
    """Bring `ranges` in order; what comes next is asked for meanwhile."""
    cuts = ((run, cut) for run in ranges for cut in file.cuts(*run))
    ahead: deque[tuple[tuple[int, int], Cut, Begun]] = deque()
    asked = 0

    async def ask(limit: int) -> None:
        nonlocal asked
        fresh = []
        while asked < limit and (found := next(cuts, None)) is not None:
            fresh.append(found)
            asked += found[1].stop - found[1].start
        begun = await repository.begin([cut.identity for _, cut in fresh])
        ahead.extend((run, cut, one) for (run, cut), one in zip(fresh, begun, strict=True))

    filling: tuple[int, int] | None = None
    pour: Pour | None = None
    keep = True
    try:
        await ask(1)  # the first by itself: somebody may be waiting for it
        while True:
            if asked <= AHEAD // 2:
                await ask(AHEAD)
            if not ahead:
                return
            run, cut, begun = ahead.popleft()
            data = await repository.blob(cut.identity, begun)
            asked -= cut.stop - cut.start
            if run != filling:
                complete, pour = pour, None
                if complete is not None:
                    complete.end()  # exactly once, whatever it raises
                filling = run
                pour = Pour(vessel, *run)
            assert pour is not None  # noqa: S101 - of this range, by now
            feed(pour, memoryview(data)[cut.start : cut.stop])
    except asyncio.CancelledError:
        keep = False  # nothing may be written any more
        raise
    finally:
        # What came in full before a failure is good.
        if pour is not None:
            pour.end(keep=keep)


@contextlib.asynccontextmanager
async def _glimpse(
    repository: Repository,
    file: File,
    request: FetchRequest,
    ranges: Sequence[tuple[int, int]],
    listener: Listener,
) -> AsyncIterator[None]:
    """Before all else, bring what somebody waits for, if it is not in the first blob anyway."""
    wanted = request.wanted
    if wanted is None or not ranges or wanted[1] > ranges[0][1]:
        yield
        return
    cuts = list(file.cuts(*wanted))
    if cuts[0].identity == next(file.cuts(*ranges[0])).identity:
        yield
        return

    async def look() -> None:
        # Whatever is wrong, the request for the whole range finds it out, too.
        with contextlib.suppress(NebfsError):
            data = [(await repository.blob(cut.identity))[cut.start : cut.stop] for cut in cuts]
            listener.early(wanted[0], b"".join(data))

    async with meanwhile(look()):
        yield
