"""Bytes of RBD images in a Ceph cluster, by the distribution's own librbd; LOOK for listings.

The address and the options are in rbd_places.py. Images are opened for reading only, and what was
read is handed on when it is sure to be of the expected version (rbd_images.py). Holes are asked
for, not read. librbd reads by threads of its own, several parts at a time; what blocks is done in
threads of ours (rbd_threads.py).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nebfs.errors import Changed, NebfsError, Unsupported
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.fetcher.pouring import Pour, Vessel, clipped, feed, meanwhile
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.slots import Buffers
from nebfs.fetcher.transports import rbd_binding
from nebfs.fetcher.transports.rbd_clusters import Clusters
from nebfs.fetcher.transports.rbd_images import Images, OpenImage
from nebfs.fetcher.transports.rbd_look import Looks
from nebfs.fetcher.transports.rbd_places import Door, Place
from nebfs.fetcher.transports.rbd_threads import Threads
from nebfs.model import Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener

THREADS = 16

PIECE = 1 << 20
"""Bytes that are read at once: an object's usual 4 MiB in parts, so that the first one is early."""

IN_FLIGHT = 4
"""Pieces of one request that are read at a time."""

HOLES = 1 << 20
"""A range of so many bytes is asked for its holes first, which costs a round trip. In a smaller one
librbd finds them while it reads."""

_ZEROS = bytes(PIECE)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a range, and the task that brings it: None for zeros."""

    range: int
    start: int
    stop: int
    task: asyncio.Task[bytes | None]


class Rbd:
    """The transport ``rbd``."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises Unsupported when Ceph's modules are missing."""
        binding = rbd_binding.load()
        threads = Threads(THREADS)
        self._clusters = Clusters(binding, settings, threads)
        self._images = Images(self._clusters, threads)
        self._looks = Looks(self._clusters)
        self._buffers = Buffers()

    async def aclose(self) -> None:
        """Close images and connections, as far as they close in time."""
        await self._images.aclose()
        with contextlib.suppress(NebfsError):
            await self._clusters.aclose()

    async def call(self, request: CallRequest) -> CallAnswer:
        """Answer a LOOK; see rbd_look.py."""
        return await self._looks.answer(request)

    async def fetch(self, request: FetchRequest, fd: int, listener: Listener) -> Revision:
        """Fill the request's ranges; see messages.Fetcher.fetch."""
        locator = request.locator
        door, place = Door.of(dict(locator.options)), Place.at(locator.address)
        if not place.image:
            raise Unsupported("the address names no image", pool=place.pool)
        async with self._images.use(door, place, request.expected) as image:
            revision = image.revision
            if request.expected is None:
                listener.found(revision)
            elif difference := request.expected.differs_from(revision):
                raise Changed("the image is another version now", what=difference)
            ranges = clipped(request.ranges, revision.size)
            vessel = Vessel(
                fd, request, revision.size, listener.filled, listener.early, self._buffers
            )
            if not ranges:
                await image.confirm()
            async with _glimpse(image, request, ranges, listener):
                await _fill(image, ranges, vessel)
            return revision


async def _fill(image: OpenImage, ranges: Sequence[tuple[int, int]], vessel: Vessel) -> None:
    """Bring `ranges` in order, several pieces at a time."""
    pieces = _pieces(image, ranges)
    under_way: collections.deque[_Piece] = collections.deque()
    pour: Pour | None = None
    filling = -1
    keep = True
    try:
        while True:
            while len(under_way) < IN_FLIGHT:
                piece = await anext(pieces, None)
                if piece is None:
                    break
                under_way.append(piece)
            if not under_way:
                return
            piece = under_way[0]
            data = await piece.task
            under_way.popleft()
            if piece.range != filling:
                complete, pour = pour, None
                if complete is not None:
                    complete.end()  # exactly once, whatever it raises
                filling = piece.range
                pour = Pour(vessel, *ranges[filling])
            assert pour is not None  # noqa: S101 - of this range, by now
            for chunk in _chunks(data, piece.stop - piece.start):
                feed(pour, chunk)
    except asyncio.CancelledError:
        keep = False  # nothing may be written any more
        raise
    finally:
        for piece in under_way:
            piece.task.cancel()
        await asyncio.gather(*(piece.task for piece in under_way), return_exceptions=True)
        # What came in full before a failure is good.
        if pour is not None:
            pour.end(keep=keep)
        await pieces.aclose()


async def _pieces(
    image: OpenImage, ranges: Sequence[tuple[int, int]]
) -> AsyncGenerator[_Piece, None]:
    """Begin to bring the parts of `ranges`, one after the other."""
    for number, (start, stop) in enumerate(ranges):
        data = [(start, stop)]
        if stop - start >= HOLES:
            data = list(await image.extents(start, stop))
        at = start
        for first, last in [*data, (stop, stop)]:
            if at < first:
                yield _Piece(number, at, first, asyncio.create_task(_nothing(image)))
            for begin in range(first, last, PIECE):
                end = min(begin + PIECE, last)
                yield _Piece(number, begin, end, asyncio.create_task(_bytes(image, begin, end)))
            at = last


async def _bytes(image: OpenImage, start: int, stop: int) -> bytes:
    data = await image.read(start, stop)
    await image.confirm()
    return data


async def _nothing(image: OpenImage) -> None:
    await image.confirm()


def _chunks(data: bytes | None, length: int) -> Iterator[memoryview]:
    if data is not None:
        yield memoryview(data)
        return
    while length:
        count = min(length, PIECE)
        yield memoryview(_ZEROS)[:count]
        length -= count


@contextlib.asynccontextmanager
async def _glimpse(
    image: OpenImage, request: FetchRequest, ranges: Sequence[tuple[int, int]], listener: Listener
) -> AsyncIterator[None]:
    """Meanwhile, bring by itself what somebody waits for, if more comes with it."""
    wanted = request.wanted
    if wanted is None or not ranges or ranges[0][1] - ranges[0][0] <= request.slot_size:
        yield
        return

    async def look(start: int, stop: int) -> None:
        # Whatever is wrong, the request for the whole range finds it out, too.
        with contextlib.suppress(NebfsError):
            listener.early(start, await _bytes(image, start, stop))

    async with meanwhile(look(*wanted)):
        yield
