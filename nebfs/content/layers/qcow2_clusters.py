"""Compressed clusters of qcow2 images: finding, bringing and unpacking them.

A cluster is a raw deflate stream or a zstd frame of its own; what follows it in its last sector
belongs to another one (QEMU's docs/interop/qcow2.txt). It gives one cluster of bytes, or the image
is damaged: no more than that is ever unpacked, whatever it says about itself.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

import trio
import zstandard
from cachetools import LRUCache

from nebfs.content.layers.qcow2_header import Header
from nebfs.content.layers.qcow2_together import together
from nebfs.content.stack import Reader
from nebfs.errors import Damaged
from nebfs.units import KIB, MIB

try:
    from isal import isal_zlib as deflate
except ImportError:  # a kind of processor that it is not made for: half as fast
    import zlib as deflate  # type: ignore[no-redef]

AT_ONCE: Final = 128 * KIB
"""Bytes of clusters that are unpacked where they are asked for: 0.2 ms, or 0.4 ms without isal. It
takes as long until a thread has begun and been heard of again."""

BATCH: Final = 512 * KIB
"""Bytes of clusters that are unpacked in one go, and of the file that are read for them (more only
if one cluster is larger): what a kernel asks for at most (1 MiB) is enough for two threads."""

GAP: Final = 64 * KIB
"""Bytes of the file that are read and not needed, to get two clusters with one request."""

WINDOW: Final = 8 * MIB
"""The longest window that a zstd frame may ask memory for: what all decoders should have (RFC 8878,
3.1.1.1.2). A cluster has 2 MiB at most, and so has the window of what QEMU compresses."""

SECTOR: Final = 512

Unpack: TypeAlias = Callable[[memoryview, int], bytes]

_KEPT: Final[LRUCache[tuple[int, int], bytes]] = LRUCache(
    64 * MIB,
    getsizeof=lambda cluster: len(cluster) + 200,  # what Python needs besides
)
"""The unpacked clusters of all open images together."""

_threads: Final = trio.CapacityLimiter(max(2, os.cpu_count() or 1))
_numbers = itertools.count()

_local = threading.local()
"""What zstd works with. To make it takes half as long as a cluster; threads cannot share it."""


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


class Clusters:
    """The compressed clusters of one image, by their number in the disk."""

    def __init__(self, file: Reader, header: Header) -> None:
        self._file = file
        self._number = next(_numbers)
        self._bits = header.cluster_bits
        self._size = 1 << header.cluster_bits
        self._unpack = unpacker(header.compression)
        self._coming: dict[int, trio.Event] = {}

    def at_once(self, number: int, entry: int, *, unpack: bool) -> bytes | None:
        """Return a cluster that is in memory, or whose bytes are if it may be unpacked now.

        Raises Damaged.
        """
        found = _KEPT.get((self._number, number))
        if found is None and unpack:
            place = place_of(entry, self._bits, self._file.size)
            view = self._file.warm(place.offset, place.length)
            if view is not None:
                found = _KEPT[self._number, number] = self._unpack(view, self._size)
        return found

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
            if places:
                await self._bring_ours(places, arrived)
                for number in places:
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
        """Yield the clusters that are read with one request, and unpacked one after the other."""
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
        wanted = [places[number] for number in batch]
        start = wanted[0].offset
        stop = max(place.offset + place.length for place in wanted)
        data = self._file.warm(start, stop - start)
        if data is None:
            data = memoryview(await self._file.pread(start, stop - start))
        if in_thread:
            data = memoryview(bytes(data))  # what was read is good until the next await
        parts = [data[p.offset - start : p.offset - start + p.length] for p in wanted]
        work = partial(_unpack_all, self._unpack, parts, self._size)
        if in_thread:
            found = await trio.to_thread.run_sync(work, limiter=_threads, abandon_on_cancel=True)
        else:
            found = work()
        for number, cluster in zip(batch, found, strict=True):
            _KEPT[self._number, number] = cluster
            arrived(number, cluster)

    def forget(self) -> None:
        """Give back the memory."""
        for key in [key for key in _KEPT if key[0] == self._number]:
            del _KEPT[key]


def unpacker(compression: str) -> Unpack:
    """Return what unpacks a cluster, given its bytes and its size. It raises Damaged."""
    return _zstd if compression == "zstd" else _deflate


def _unpack_all(unpack: Unpack, parts: Sequence[memoryview], size: int) -> list[bytes]:
    return [unpack(part, size) for part in parts]


def _deflate(data: memoryview, size: int) -> bytes:
    try:
        # A window of 15 bits, the longest: QEMU's has 12, other writers' may have more.
        found = deflate.decompressobj(-15).decompress(data, size)
    except deflate.error as exc:  # type: ignore[misc]  # its stubs make it an instance
        raise Damaged("a compressed cluster of the qcow2 image cannot be unpacked") from exc
    return _whole(found, size)


def _zstd(data: memoryview, size: int) -> bytes:
    try:
        context: zstandard.ZstdDecompressor | None = getattr(_local, "context", None)
        if context is None:
            context = _local.context = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        found = context.stream_reader(data).read(size)
    except (zstandard.ZstdError, MemoryError) as exc:
        raise Damaged("a compressed cluster of the qcow2 image cannot be unpacked") from exc
    return _whole(found, size)


def _whole(found: bytes, size: int) -> bytes:
    if len(found) != size:
        raise Damaged("a compressed cluster of the qcow2 image is too short", length=len(found))
    return found
