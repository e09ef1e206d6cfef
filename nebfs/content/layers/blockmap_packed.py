"""Compressed blocks of disk images: finding, bringing and unpacking them, once for all who ask."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import trio
from cachetools import LRUCache

from nebfs.content.layers.qcow2_together import together
from nebfs.content.stack import Reader
from nebfs.units import KIB, MIB

AT_ONCE: Final = 128 * KIB
"""Bytes of blocks that are unpacked where they are asked for: 0.2 ms, or 0.4 ms without isal. It
takes as long until a thread has begun and been heard of again."""

BATCH: Final = 512 * KIB
"""Bytes of blocks that are unpacked in one go, and of the file that are read for them (more only
if one block is larger): what a kernel asks for at most (1 MiB) is enough for two threads."""

GAP: Final = 64 * KIB
"""Bytes of the file that are read and not needed, to get two blocks with one request."""

Unpack: TypeAlias = Callable[[int, memoryview], bytes]
"""Given a block's number and what the file has at its place, returns its bytes. Raises Damaged."""


class Place(NamedTuple):
    """Where the bytes of a compressed block are in the file: all of them, and perhaps more."""

    offset: int
    length: int


_KEPT: Final[LRUCache[tuple[int, int], bytes]] = LRUCache(
    32 * MIB,
    getsizeof=lambda block: len(block) + 200,  # what Python needs besides
)
"""The unpacked blocks of all open images together."""

_threads: Final = trio.CapacityLimiter(max(2, os.cpu_count() or 1))
_numbers = itertools.count()


class PackedBlocks:
    """The compressed blocks of one image, by their number in the disk."""

    def __init__(self, file: Reader, block: int, unpack: Unpack) -> None:
        """`block`: bytes of one, unpacked."""
        self._file = file
        self._number = next(_numbers)
        self._size = block
        self._unpack = unpack
        self._coming: dict[int, trio.Event] = {}

    def at_once(self, number: int, place: Place, *, unpack: bool) -> bytes | None:
        """Return a block that is in memory, or whose bytes are if it may be unpacked now.

        Raises Damaged.
        """
        found = _KEPT.get((self._number, number))
        if found is None and unpack:
            view = self._file.warm(place.offset, place.length)
            if view is not None:
                found = _KEPT[self._number, number] = self._unpack(number, view)
        return found

    async def bring(
        self, wanted: Mapping[int, Place], arrived: Callable[[int, bytes], None]
    ) -> None:
        """Hand over the blocks with these numbers, in any order. Raises Damaged, and what reading
        the file raises.
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
            ours = {n: place for n, place in missing.items() if waited or n not in self._coming}
            if ours:
                await self._bring_ours(ours, arrived)
                for number in ours:
                    del missing[number]
            if not missing:
                return
            for number in missing:
                coming = self._coming.get(number)
                if coming is not None:
                    await coming.wait()
            waited = True

    async def _bring_ours(
        self, places: Mapping[int, Place], arrived: Callable[[int, bytes], None]
    ) -> None:
        ended = trio.Event()
        self._coming.update(dict.fromkeys(places, ended))
        in_thread = len(places) * self._size > AT_ONCE
        try:
            await together(
                partial(self._bring_batch, batch, places, arrived, in_thread=in_thread)
                for batch in self._batches(places)
            )
        finally:
            for number in places:
                if self._coming.get(number) is ended:
                    del self._coming[number]
            ended.set()

    def _batches(self, places: Mapping[int, Place]) -> Iterable[list[int]]:
        """Yield the blocks that are read with one request, and unpacked one after the other."""
        batch: list[int] = []
        start = end = 0
        for number, place in sorted(places.items(), key=lambda item: item[1]):
            stop = place.offset + place.length
            if batch and (
                place.offset > end + GAP
                or stop - start > BATCH
                or (len(batch) + 1) * self._size > BATCH
            ):
                yield batch
                batch = []
            if not batch:
                start = end = place.offset
            end = max(end, stop)
            batch.append(number)
        yield batch

    async def _bring_batch(
        self,
        batch: Sequence[int],
        places: Mapping[int, Place],
        arrived: Callable[[int, bytes], None],
        *,
        in_thread: bool,
    ) -> None:
        wanted = [(number, places[number]) for number in batch]
        start = wanted[0][1].offset
        stop = max(place.offset + place.length for _, place in wanted)
        data = self._file.warm(start, stop - start)
        if data is None:
            data = memoryview(await self._file.pread(start, stop - start))
        if in_thread:
            data = memoryview(bytes(data))  # what was read is good until the next await
        parts = [(n, data[p.offset - start : p.offset - start + p.length]) for n, p in wanted]
        work = partial(_unpack_all, self._unpack, parts)
        if in_thread:
            found = await trio.to_thread.run_sync(work, limiter=_threads, abandon_on_cancel=True)
        else:
            found = work()
        for number, block in zip(batch, found, strict=True):
            _KEPT[self._number, number] = block
            arrived(number, block)

    def forget(self) -> None:
        """Give back the memory."""
        for key in [key for key in _KEPT if key[0] == self._number]:
            del _KEPT[key]


def _unpack_all(unpack: Unpack, parts: Sequence[tuple[int, memoryview]]) -> list[bytes]:
    return [unpack(number, part) for number, part in parts]
