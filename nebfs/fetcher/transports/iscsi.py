"""Bytes of iSCSI units, by QEMU's block layer: a qemu-storage-daemon reads, we ask it by NBD.

The address and the options are in iscsi_places.py, the process in qsd.py. There is nothing by which
versions of a unit could be told apart but its length: it is for the driver to say whether somebody
may write to it. Where a target says that it has nothing (thin provisioning), nothing is sent.
QEMU waits for a lost target for ever, and reads on when it comes back. We do not: what is silent
for the stall_timeout is given up with its process.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nebfs.errors import Changed, NebfsError, Unsupported
from nebfs.fetcher import access
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.pouring import Pour, Vessel, clipped, feed, meanwhile
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.slots import Buffers
from nebfs.fetcher.transports.iscsi_failures import explain
from nebfs.fetcher.transports.iscsi_places import Place
from nebfs.fetcher.transports.qsd_exports import Exports
from nebfs.model import Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener

PIECE = 256 << 10
"""Bytes that are read at once. A piece is answered when all of it is there, so it must be small
enough to come within the stall_timeout however slow the target is."""

IN_FLIGHT = 16
"""Pieces of one request that are read at a time, as many as QEMU takes from one client: 200 MB/s
over a round trip of 20 ms."""

Read = Callable[[int, int], Coroutine[Any, Any, bytearray]]
Ranges = Sequence[tuple[int, int]]


class Iscsi:
    """The transport ``iscsi``."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError when the file of credentials cannot be read."""
        file = settings.credentials_file
        self._accesses = access.load(file) if file else access.Accesses({})
        self._exports = Exports(settings, explain)
        self._buffers = Buffers()

    async def aclose(self) -> None:
        """End every process."""
        await self._exports.aclose()

    async def call(self, request: CallRequest) -> CallAnswer:
        """There is nothing to ask. Raises Unsupported."""
        raise Unsupported("iSCSI knows no such method", method=request.method)

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges; see messages.Fetcher.fetch."""
        locator = request.locator
        place = Place.at(locator.address, dict(locator.options), self._accesses)
        async with self._exports.use(place.node(), request.expected) as export:
            revision = export.revision
            if not revision.size:
                export.outdated = True
                raise Unsupported(
                    "that LUN is no disk: LUN 0 of some targets is not; the record is to name"
                    " another (TARGET/LUN)",
                    where=place.shown,
                )
            if request.expected is None:
                listener.found(revision)
            elif difference := request.expected.differs_from(revision):
                raise Changed("the unit has another length now", what=difference)
            vessel = Vessel(
                fd, request, revision.size, listener.filled, listener.early, self._buffers
            )
            ranges = clipped(request.ranges, revision.size)
            async with _glimpse(export.read, request, ranges, listener):
                await _fill(export.read, ranges, vessel)
            return revision


async def _fill(read: Read, ranges: Ranges, vessel: Vessel) -> None:
    """Bring `ranges` in order, several pieces at a time."""
    ahead: collections.deque[asyncio.Task[bytearray]] = collections.deque()
    pieces = _pieces(ranges)

    def ask() -> None:
        while len(ahead) < IN_FLIGHT and (piece := next(pieces, None)):
            ahead.append(asyncio.create_task(read(*piece)))

    try:
        for start, stop in ranges:
            await _pour(Pour(vessel, start, stop), ahead, ask)
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)


async def _pour(
    pour: Pour, ahead: collections.deque[asyncio.Task[bytearray]], ask: Callable[[], None]
) -> None:
    """Fill one range out of the pieces that come next; none belongs to two ranges."""
    keep = True
    try:
        while pour.missing:
            ask()
            data = await ahead[0]
            ahead.popleft()
            feed(pour, memoryview(data))
    except asyncio.CancelledError:
        keep = False  # nothing may be written any more
        raise
    finally:
        # What came in full before a failure is good.
        pour.end(keep=keep)


def _pieces(ranges: Ranges) -> Iterator[tuple[int, int]]:
    for start, stop in ranges:
        for at in range(start, stop, PIECE):
            yield at, min(at + PIECE, stop)


@contextlib.asynccontextmanager
async def _glimpse(
    read: Read, request: FetchRequest, ranges: Ranges, listener: Listener
) -> AsyncIterator[None]:
    """Meanwhile, bring by itself what somebody waits for, if more comes with it."""
    wanted = request.wanted
    if wanted is None or not ranges or ranges[0][1] - ranges[0][0] <= request.slot_size:
        yield
        return

    async def look(start: int, stop: int) -> None:
        # Whatever is wrong, the request for the whole range finds it out, too.
        with contextlib.suppress(NebfsError):
            listener.early(start, bytes(await read(start, stop)))

    async with meanwhile(look(*wanted)):
        yield
