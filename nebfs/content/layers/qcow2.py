"""The disk inside a qcow2 image, over what lies beneath it.

Ours, because the libraries are slower, or silently wrong. Its tables are ordinary bytes of the file
below: cached, and proven, as any. Bytes of the disk that are in the file as they are cost one look
into a table more than the file's own; compressed clusters are unpacked in a worker thread where
that takes longer than handing it over.

What lies beneath is what whoever opened it says. The image's own word for it is never followed: it
may name any file of this machine.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Final

import trio
from cachetools import LRUCache

from nebfs.content.layers.qcow2_clusters import Place, place_of, unpack_all, unpacker
from nebfs.content.layers.qcow2_header import HEAD, Header, names_backing, parse
from nebfs.content.layers.qcow2_tables import BENEATH, COMPRESSED, DATA, Run, Tables
from nebfs.content.stack import Reader, ReaderFacts
from nebfs.errors import Damaged, NebfsError, Unsupported
from nebfs.model import Revision
from nebfs.units import KIB, MIB

LONGEST: Final = 4 * MIB
"""Bytes that ``warm`` answers at once: four times the longest read that a kernel sends."""

ZEROS: Final = memoryview(mmap.mmap(-1, LONGEST, prot=mmap.PROT_READ))
SCRATCH: Final = memoryview(mmap.mmap(-1, LONGEST))
"""What ``warm`` answers from where it has to put together pieces; good until the next await."""

IN_PLACE: Final = 128 * KIB
"""Bytes of unpacked clusters up to which they are unpacked at once: 0.1 to 0.2 ms, as long as a
worker thread takes to begin and to be heard of again."""

UNPACKED: Final = 8 * MIB
"""Bytes of unpacked clusters that one open file keeps: a guest soon comes back to most of them."""

GAP: Final = 64 * KIB
"""Bytes between two compressed clusters up to which they are read with one request."""

TOGETHER: Final = 16
"""Pieces of one read that are asked for at a time. Of a disk in scattered clusters of 512 bytes one
read may have 2048, each of which would be a task, and far away a request with a descriptor."""

THREADS: Final = max(2, min(4, os.cpu_count() or 2))
unpack_threads: Final = trio.CapacityLimiter(THREADS)
"""Unpacking leaves the interpreter alone, and so threads of it run side by side."""


class Qcow2:
    """Reads the disk inside `file`, an image; where that has nothing, `backing` shows, or zeros."""

    def __init__(
        self, file: Reader, backing: Reader | None, revision: Revision, header: Header
    ) -> None:
        self._file = file
        self._backing = backing
        self._tables = Tables(file, header)
        self._bits = header.cluster_bits
        self._cluster = 1 << header.cluster_bits
        self._unpack = unpacker(header.compression)
        self._unpacked: LRUCache[int, bytes] = LRUCache(max(UNPACKED // self._cluster, 2))
        self.size = header.size
        self.revision = revision

    @classmethod
    async def open(cls, file: Reader, backing: Reader | None, revision: Revision) -> Qcow2:
        """Open the image; from here on it owns both readers, also if it fails.

        Raises Damaged, Unsupported, and what reading the file raises.
        """
        try:
            head = bytes(await file.pread(0, min(HEAD, file.size))) if file.size else b""
            header = parse(head, named=False)
            if header.flaw:
                raise Unsupported(f"there is no raw view of the qcow2 image: {header.flaw}")
            if backing is None and names_backing(head):
                raise Unsupported(
                    "there is no raw view of the qcow2 image: it is a layer over another file,"
                    " which it names and which is not followed"
                )
            if header.l1_offset + header.l1_entries * 8 > file.size:
                raise Damaged("the L1 table of the qcow2 image is cut off")
            return cls(file, backing, revision, header)
        except BaseException:
            with trio.CancelScope(shield=True):
                await _close(file, backing)
            raise

    # --- answering at once --------------------------------------------------------------------

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from RAM, or say None; a damaged image is left to ``pread`` to report."""
        try:
            run = self._tables.single(offset)
            if run is None:
                return None
            if offset + length <= run.start + run.length:
                host = run.host + offset - run.start if run.kind == DATA else run.host
                return self._warm_run(Run(run.kind, offset, length, host))
            return self._warm_runs(offset, length)
        except Damaged:
            return None

    def _warm_run(self, run: Run) -> memoryview | None:
        """Answer what is of one kind."""
        if run.kind == DATA:
            if run.host + run.length > self._file.size:
                return None
            return self._file.warm(run.host, run.length)
        if run.kind == COMPRESSED:
            cluster = self._unpacked.get(run.start >> self._bits)
            if cluster is None:
                return None
            at = run.start & (self._cluster - 1)
            return memoryview(cluster)[at : at + run.length]
        backing = self._backing
        if run.kind == BENEATH and backing is not None and run.start < backing.size:
            if run.start + run.length > backing.size:
                return None
            return backing.warm(run.start, run.length)
        return ZEROS[: run.length] if run.length <= LONGEST else None

    def _warm_runs(self, offset: int, length: int) -> memoryview | None:
        """Answer what is of several kinds, piece by piece, or where one piece has all of it."""
        if length > LONGEST or self._tables.missing(offset, length):
            return None
        runs = list(self._tables.runs(offset, length))
        if len(runs) == 1:
            return self._warm_run(runs[0])
        # Not into SCRATCH at once: below may be another such image, which uses it, too.
        pieces = bytearray(length) if self._nested else SCRATCH[:length]
        for run in runs:
            view = self._warm_run(run)
            if view is None:
                return None
            at = run.start - offset
            pieces[at : at + run.length] = view
        return memoryview(pieces)

    @property
    def _nested(self) -> bool:
        return isinstance(self._backing, Qcow2)

    # --- waiting ------------------------------------------------------------------------------

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly these bytes. Raises Damaged, and what the readers below raise."""
        while missing := self._tables.missing(offset, length):
            for number in missing:
                await self._tables.load(number)
        runs = list(self._tables.runs(offset, length))
        if len(runs) == 1 and runs[0].kind == DATA and self._held(runs[0]) == runs[0].length:
            return await self._file.pread(runs[0].host, length)
        into = memoryview(bytearray(length))
        compressed = [run for run in runs if run.kind == COMPRESSED]
        others = [run for run in runs if run.kind in {DATA, BENEATH}]
        cold = [run for run in others if not self._fill_warm(run, into, offset)]
        if compressed:
            await self._fill_compressed(compressed, into, offset)
        if len(cold) == 1:
            await self._fill(cold[0], into, offset)
        elif cold:
            await self._fill_all(cold, into, offset)
        return into

    async def _fill_all(self, runs: Sequence[Run], into: memoryview, base: int) -> None:
        """Bring several runs at once. Raises the first failure by itself, not in a group."""
        failures: list[NebfsError] = []
        waiting = iter(runs)

        async def fill() -> None:
            try:
                for run in waiting:
                    await self._fill(run, into, base)
            except NebfsError as exc:
                failures.append(exc)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(min(TOGETHER, len(runs))):
                nursery.start_soon(fill)
        if failures:
            raise failures[0]

    def _held(self, run: Run) -> int:
        """Return how many bytes of a run's data are in the file. QEMU writes of the last cluster no
        more than it has, and what is missing of that is zeros.

        Raises Damaged when a whole cluster is missing: the file was cut off.
        """
        last = run.host + run.length - 1
        if last - last % self._cluster >= self._file.size:
            raise Damaged("the qcow2 image is cut off: a cluster is beyond its end", at=last)
        return min(max(self._file.size - run.host, 0), run.length)

    def _beneath(self, run: Run) -> int:
        """Return how many bytes of a run there are beneath it; the rest is zeros."""
        return (
            0 if self._backing is None else min(max(self._backing.size - run.start, 0), run.length)
        )

    def _fill_warm(self, run: Run, into: memoryview, base: int) -> bool:
        """Put what is in RAM where it belongs, and say whether that was all of it."""
        if run.kind == BENEATH and not self._beneath(run):
            return True
        view = self._warm_run(run)
        if view is None:
            return False
        into[run.start - base : run.start - base + run.length] = view
        return True

    async def _fill(self, run: Run, into: memoryview, base: int) -> None:
        at = run.start - base
        if run.kind == DATA:
            if held := self._held(run):
                into[at : at + held] = await self._file.pread(run.host, held)
        elif beneath := self._beneath(run):
            assert self._backing is not None  # noqa: S101 - else nothing is beneath
            into[at : at + beneath] = await self._backing.pread(run.start, beneath)

    async def _fill_compressed(self, runs: Sequence[Run], into: memoryview, base: int) -> None:
        """Bring and unpack clusters; each run is one, or a part of one."""
        wanted: dict[int, Place] = {}
        found: dict[int, bytes] = {}
        for run in runs:
            number = run.start >> self._bits
            known = self._unpacked.get(number)
            if known is not None:
                found[number] = known
            else:
                wanted[number] = place_of(run.host, self._bits, self._file.size)
        for batch in _batches(wanted):
            parts = await self._packed([wanted[number] for number in batch])
            unpacked = await self._unpack_parts(parts)
            found.update(zip(batch, unpacked, strict=True))
            self._unpacked.update(zip(batch, unpacked, strict=True))
        for run in runs:
            cluster = memoryview(found[run.start >> self._bits])
            at = run.start & (self._cluster - 1)
            into[run.start - base : run.start - base + run.length] = cluster[at : at + run.length]

    async def _unpack_parts(self, parts: Sequence[memoryview]) -> list[bytes]:
        """Unpack clusters: a few at once, many in worker threads, which share them."""
        if len(parts) * self._cluster <= IN_PLACE:
            return unpack_all(self._unpack, parts, self._cluster)
        share = -(-len(parts) // THREADS)
        shares: dict[int, list[bytes]] = {}
        failures: list[NebfsError] = []

        async def unpack(start: int) -> None:
            try:
                shares[start] = await trio.to_thread.run_sync(
                    unpack_all,
                    self._unpack,
                    parts[start : start + share],
                    self._cluster,
                    limiter=unpack_threads,
                )
            except NebfsError as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            for start in range(0, len(parts), share):
                nursery.start_soon(unpack, start)
        if failures:
            raise failures[0]
        return [cluster for _, some in sorted(shares.items()) for cluster in some]

    async def _packed(self, places: Sequence[Place]) -> list[memoryview]:
        """Read compressed clusters, all with one request. The places are near each other."""
        start = min(offset for offset, _ in places)
        stop = max(offset + length for offset, length in places)
        view = self._file.warm(start, stop - start)
        if view is None:
            view = memoryview(await self._file.pread(start, stop - start))
        data = memoryview(bytes(view))  # threads are to read it, and the view is good for now only
        return [data[offset - start : offset - start + length] for offset, length in places]

    # --- the rest -----------------------------------------------------------------------------

    def facts(self) -> ReaderFacts:
        """What is known of the files."""
        mine = self._file.facts()
        error = mine.last_error
        cached, corrupt = mine.cached, mine.corrupt_blocks
        if self._backing is not None:
            beneath = self._backing.facts()
            cached, corrupt = cached + beneath.cached, corrupt + beneath.corrupt_blocks
            error = error or beneath.last_error
        return ReaderFacts(self.size, cached, mine.verified, error, corrupt, mine.where)

    async def aclose(self) -> None:
        """Let go of the files."""
        await _close(self._file, self._backing)


async def _close(file: Reader, backing: Reader | None) -> None:
    try:
        await file.aclose()
    finally:
        if backing is not None:
            await backing.aclose()


def _batches(places: dict[int, Place]) -> list[list[int]]:
    """Return the clusters by which of them are read together: neighbours, at most LONGEST."""
    batches: list[list[int]] = []
    start = end = 0
    for number, (offset, length) in sorted(places.items(), key=lambda item: item[1]):
        if batches and offset <= end + GAP and offset + length - start <= LONGEST:
            batches[-1].append(number)
            end = max(end, offset + length)
        else:
            batches.append([number])
            start, end = offset, offset + length
    return batches
