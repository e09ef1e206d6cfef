"""Compressed blocks of disk images: bringing, unpacking and keeping them, also ahead of readers.

Where they are in the file, and what unpacks them, is what the format of the image says. What of it
a reader has found in its tables is an entry, of whatever kind: the format makes a place of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

import trio
from cachetools import LRUCache

from nebfs.content.layers.together import together
from nebfs.content.layers.unpacking import Job, Outcome, UnpackBlock, threads
from nebfs.content.stack import Reader, read
from nebfs.errors import Damaged
from nebfs.units import KIB, MIB

AT_ONCE: Final = 128 * KIB
"""Bytes of blocks that are unpacked where they are asked for: 0.2 ms, or 0.4 ms without isal. It
takes as long until a thread has begun and been heard of again."""

BATCH: Final = 512 * KIB
"""Bytes of blocks that are unpacked in one go, and of the file that are read for them (more only
if one block is larger): what a kernel asks for at most (1 MiB) is enough for two threads."""

GAP: Final = 64 * KIB
"""Bytes of the file that are read and not needed, to get two blocks with one request."""

_KEPT: Final[LRUCache[tuple[int, int], bytes]] = LRUCache(
    64 * MIB,
    getsizeof=lambda block: len(block) + 200,  # what Python needs besides
)
"""The unpacked blocks of all open images together."""

_numbers = itertools.count()


Entry = TypeVar("Entry")


class Place(NamedTuple):
    """Where the bytes of a compressed block are in the file: all of them, and perhaps more."""

    offset: int
    length: int


class Batch:
    """Blocks that are read with one request, and unpacked one after the other."""

    __slots__ = ("ended", "found", "job", "places", "start", "stop")

    def __init__(self, places: Mapping[int, Place]) -> None:
        """`places`: by the blocks' numbers, in the order of the file."""
        self.places = places
        self.start = next(iter(places.values())).offset
        self.stop = max(place.offset + place.length for place in places.values())
        self.job: Job | None = None
        self.found: dict[int, bytes] = {}
        """The blocks, once it has ended; none if it has failed or was given up."""
        self.ended = trio.Event()

    def parts(self, data: memoryview) -> list[tuple[int, memoryview]]:
        """Cut what is from `start` to `stop` into what each block is packed in."""
        start = self.start
        return [
            (number, data[p.offset - start : p.offset - start + p.length])
            for number, p in self.places.items()
        ]


class TellsPacked:
    """A reader of a disk of which parts may be compressed."""

    on_packed: Callable[[], None] | None = None
    """Called, once, as soon as it has met something compressed."""

    def _tell_packed(self) -> None:
        tell, self.on_packed = self.on_packed, None
        if tell is not None:
            tell()


class PackedBlocks(Generic[Entry]):
    """The compressed blocks of one image, by their number in the disk."""

    def __init__(
        self, file: Reader, size: int, place: Callable[[Entry], Place], unpack: UnpackBlock
    ) -> None:
        """`size`: bytes of a block, unpacked. `place` and `unpack` raise Damaged."""
        self._file = file
        self._number = next(_numbers)
        self._size = size
        self._place = place
        self._unpack = unpack
        self._coming: dict[int, Batch] = {}
        self._ahead: set[Batch] = set()

    def at_once(self, number: int, entry: Entry, *, unpack: bool) -> bytes | None:
        """Return a block that is in memory, or whose bytes are if it may be unpacked now and is
        not being unpacked.

        Raises Damaged.
        """
        found = _KEPT.get((self._number, number))
        if found is None and unpack and number not in self._coming:
            place = self._place(entry)
            view = self._file.warm(place.offset, place.length)
            if view is not None:
                found = _KEPT[self._number, number] = self._unpack(number, view)
        return found

    # --- for readers --------------------------------------------------------------------------

    async def bring(
        self, wanted: Mapping[int, Entry], arrived: Callable[[int, bytes], None]
    ) -> None:
        """Hand over the blocks with these numbers and entries, in any order.

        Each is read and unpacked once for all who want it at the time. Raises Damaged, and what
        reading the file raises.
        """
        missing = dict(wanted)
        waited = False
        while True:
            for number in list(missing):
                found = _KEPT.get((self._number, number))
                if found is not None:
                    del missing[number]
                    arrived(number, found)
            # Whoever has waited in vain for others, who failed or gave up, brings it himself: what
            # is wrong with their blocks need not be wrong with his.
            places = {
                number: self._place(entry)
                for number, entry in missing.items()
                if waited or number not in self._coming
            }
            others = {self._coming[number] for number in missing if number not in places}
            for batch in others:
                if batch.job is not None:
                    threads.hurry(batch.job)
            if places:
                await self._bring_ours(places, arrived)
                for number in places:
                    del missing[number]
            for batch in others:
                await batch.ended.wait()
                for number in missing.keys() & batch.found.keys():
                    del missing[number]
                    arrived(number, batch.found[number])
            if not missing:
                return
            waited = True

    async def _bring_ours(
        self, places: Mapping[int, Place], arrived: Callable[[int, bytes], None]
    ) -> None:
        batches = list(self._batches(places))
        for batch in batches:
            self._coming.update(dict.fromkeys(batch.places, batch))
        in_thread = len(places) * self._size > AT_ONCE
        try:
            await together(
                partial(self._bring_batch, batch, arrived, in_thread=in_thread) for batch in batches
            )
        finally:
            for batch in batches:
                self._end(batch)

    def _batches(self, places: Mapping[int, Place]) -> Iterable[Batch]:
        """Yield the blocks in batches."""
        batch: dict[int, Place] = {}
        start = end = 0
        for number, place in sorted(places.items(), key=lambda item: item[1]):
            stop = place.offset + place.length
            if batch and (
                place.offset > end + GAP
                or stop - start > BATCH
                or (len(batch) + 1) * self._size > BATCH
            ):
                yield Batch(batch)
                batch = {}
            if not batch:
                start = end = place.offset
            end = max(end, stop)
            batch[number] = place
        if batch:
            yield Batch(batch)

    async def _bring_batch(
        self, batch: Batch, arrived: Callable[[int, bytes], None], *, in_thread: bool
    ) -> None:
        length = batch.stop - batch.start
        data = memoryview(await read(self._file, batch.start, length))
        if in_thread:
            found = await self._unpack_elsewhere(batch, data)
        else:
            found = [self._unpack(number, part) for number, part in batch.parts(data)]
        self._keep(batch, found)
        for number, block in batch.found.items():
            arrived(number, block)

    async def _unpack_elsewhere(self, batch: Batch, data: memoryview) -> list[bytes]:
        unpacked = trio.Event()
        outcome: Outcome = []

        def done(found: Outcome) -> None:
            nonlocal outcome
            outcome = found
            unpacked.set()

        job = batch.job = self._job(batch, data, done)
        threads.start(job, urgent=True)
        try:
            await unpacked.wait()
        except BaseException:
            threads.give_up(job)
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _job(self, batch: Batch, data: memoryview, done: Callable[[Outcome], None]) -> Job:
        copy = memoryview(bytes(data))  # what was read is good until the next await
        return Job(self._unpack, batch.parts(copy), done)

    def _keep(self, batch: Batch, found: list[bytes]) -> None:
        batch.found = dict(zip(batch.places, found, strict=True))
        for number, block in batch.found.items():
            _KEPT[self._number, number] = block

    def _end(self, batch: Batch) -> None:
        for number in batch.places:
            if self._coming.get(number) is batch:
                del self._coming[number]
        batch.ended.set()

    # --- ahead of them ------------------------------------------------------------------------

    def ahead(self, wanted: Mapping[int, Entry]) -> None:
        """Have blocks unpacked that will be wanted next, if their bytes are in memory.

        What is wrong with them is left for their readers to find out.
        """
        places = {}
        for number, entry in wanted.items():
            if number not in self._coming and (self._number, number) not in _KEPT:
                try:
                    places[number] = self._place(entry)
                except Damaged:
                    continue
        for batch in self._batches(places):
            data = self._file.warm(batch.start, batch.stop - batch.start)
            if data is None:
                continue
            batch.job = self._job(batch, data, partial(self._came_ahead, batch))
            if not threads.start(batch.job, urgent=False):
                return
            self._coming.update(dict.fromkeys(batch.places, batch))
            self._ahead.add(batch)

    def _came_ahead(self, batch: Batch, outcome: Outcome) -> None:
        self._ahead.discard(batch)
        if not isinstance(outcome, BaseException):
            self._keep(batch, outcome)
        self._end(batch)

    def forget(self) -> None:
        """Give back the memory."""
        for batch in self._ahead:
            assert batch.job is not None  # noqa: S101 - it is what makes it one of these
            threads.give_up(batch.job)
            self._end(batch)
        self._ahead.clear()
        for key in [key for key in _KEPT if key[0] == self._number]:
            del _KEPT[key]
