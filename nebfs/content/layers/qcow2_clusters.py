"""Compressed clusters of qcow2 images: finding, bringing and keeping them, also ahead of readers.

How they are packed, and unpacked, is in qcow2_unpacking.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple

import trio
from cachetools import LRUCache

from nebfs.content.layers.qcow2_header import Header
from nebfs.content.layers.qcow2_together import together
from nebfs.content.layers.qcow2_unpacking import Job, Outcome, threads, unpacker
from nebfs.content.stack import Reader
from nebfs.errors import Damaged
from nebfs.units import KIB, MIB

AT_ONCE: Final = 128 * KIB
"""Bytes of clusters that are unpacked where they are asked for: 0.2 ms, or 0.4 ms without isal. It
takes as long until a thread has begun and been heard of again."""

BATCH: Final = 512 * KIB
"""Bytes of clusters that are unpacked in one go, and of the file that are read for them (more only
if one cluster is larger): what a kernel asks for at most (1 MiB) is enough for two threads."""

GAP: Final = 64 * KIB
"""Bytes of the file that are read and not needed, to get two clusters with one request."""

SECTOR: Final = 512

_KEPT: Final[LRUCache[tuple[int, int], bytes]] = LRUCache(
    64 * MIB,
    getsizeof=lambda cluster: len(cluster) + 200,  # what Python needs besides
)
"""The unpacked clusters of all open images together."""

_numbers = itertools.count()


class Place(NamedTuple):
    """Where the bytes of a compressed cluster are in the file."""

    offset: int
    length: int


def place_of(entry: int, cluster_bits: int, file_size: int) -> Place:
    """Read the L2 entry of a compressed cluster. Raises Damaged.

    The length counts sectors, beginning with the one that the cluster begins in. The last one may
    end after the file does.
    """
    offset_bits = 62 - (cluster_bits - 8)
    offset = entry & (1 << offset_bits) - 1
    sectors = ((entry & (1 << 62) - 1) >> offset_bits) + 1
    length = min(sectors * SECTOR - offset % SECTOR, file_size - offset)
    if length <= 0:
        raise Damaged("a compressed cluster of the qcow2 image is beyond its end", at=offset)
    return Place(offset, length)


class Batch:
    """Clusters that are read with one request, and unpacked one after the other."""

    __slots__ = ("ended", "found", "job", "places", "start", "stop")

    def __init__(self, places: Mapping[int, Place]) -> None:
        """`places`: by the clusters' numbers, in the order of the file."""
        self.places = places
        self.start = next(iter(places.values())).offset
        self.stop = max(place.offset + place.length for place in places.values())
        self.job: Job | None = None
        self.found: dict[int, bytes] = {}
        """The clusters, once it has ended; none if it has failed or was given up."""
        self.ended = trio.Event()

    def parts(self, data: memoryview) -> list[memoryview]:
        """Cut what is from `start` to `stop` into what the clusters are packed in."""
        start = self.start
        return [data[p.offset - start : p.offset - start + p.length] for p in self.places.values()]


class Clusters:
    """The compressed clusters of one image, by their number in the disk."""

    def __init__(self, file: Reader, header: Header) -> None:
        self._file = file
        self._number = next(_numbers)
        self._bits = header.cluster_bits
        self._size = 1 << header.cluster_bits
        self._unpack = unpacker(header.compression)
        self._coming: dict[int, Batch] = {}
        self._ahead: set[Batch] = set()

    def at_once(self, number: int, entry: int, *, unpack: bool) -> bytes | None:
        """Return a cluster that is in memory, or whose bytes are if it may be unpacked now and is
        not being unpacked.

        Raises Damaged.
        """
        found = _KEPT.get((self._number, number))
        if found is None and unpack and number not in self._coming:
            place = place_of(entry, self._bits, self._file.size)
            view = self._file.warm(place.offset, place.length)
            if view is not None:
                found = _KEPT[self._number, number] = self._unpack(view, self._size)
        return found

    # --- for readers --------------------------------------------------------------------------

    async def bring(self, wanted: Mapping[int, int], arrived: Callable[[int, bytes], None]) -> None:
        """Hand over the clusters with these numbers and entries, in any order.

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
            # is wrong with their clusters need not be wrong with his.
            places = {
                number: place_of(entry, self._bits, self._file.size)
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
        """Yield the clusters in batches."""
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
        data = self._file.warm(batch.start, length)
        if data is None:
            data = memoryview(await self._file.pread(batch.start, length))
        if in_thread:
            found = await self._unpack_elsewhere(batch, data)
        else:
            found = [self._unpack(part, self._size) for part in batch.parts(data)]
        self._keep(batch, found)
        for number, cluster in batch.found.items():
            arrived(number, cluster)

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
        return Job(self._unpack, batch.parts(copy), self._size, done)

    def _keep(self, batch: Batch, found: list[bytes]) -> None:
        batch.found = dict(zip(batch.places, found, strict=True))
        for number, cluster in batch.found.items():
            _KEPT[self._number, number] = cluster

    def _end(self, batch: Batch) -> None:
        for number in batch.places:
            if self._coming.get(number) is batch:
                del self._coming[number]
        batch.ended.set()

    # --- ahead of them ------------------------------------------------------------------------

    def ahead(self, wanted: Mapping[int, int]) -> None:
        """Have clusters unpacked that will be wanted next, if their bytes are in memory.

        What is wrong with them is left for their readers to find out.
        """
        places = {}
        for number, entry in wanted.items():
            if number not in self._coming and (self._number, number) not in _KEPT:
                try:
                    places[number] = place_of(entry, self._bits, self._file.size)
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
