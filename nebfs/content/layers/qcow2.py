"""The disk inside a qcow2 image, over what lies beneath it.

Ours, because the libraries are slower, or silently wrong. The tables of an image are ordinary bytes
of its file, cached and proven as any; what the disk has uncompressed costs one look into them more
than the file's own bytes. A chain of images is looked through from top to bottom without going down
a level of the stack for each: there may be 256 of them.

What lies beneath is what whoever opened it says. The image's own word for it is never followed: it
may name any file of this machine.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import trio

from nebfs.content.layers.ahead import Run
from nebfs.content.layers.packed import AT_ONCE, TellsPacked
from nebfs.content.layers.qcow2_clusters import clusters_of
from nebfs.content.layers.qcow2_header import HEAD, Header, names_backing, parse
from nebfs.content.layers.qcow2_tables import (
    BENEATH,
    COMPRESSED,
    DATA,
    UNKNOWN,
    Key,
    Table,
    Tables,
)
from nebfs.content.layers.together import together
from nebfs.content.layers.zeros import LONGEST, ZEROS
from nebfs.content.stack import Reader, ReaderFacts
from nebfs.errors import Damaged, NebfsError, Unsupported
from nebfs.model import Revision

_ANSWER: Final = memoryview(mmap.mmap(-1, LONGEST))
"""What ``warm`` puts its answers together in: as memory that is new for each, and has to be cleared
and given back, takes longer than to copy into it. As with all that ``warm`` returns, the content is
good until the next await, or the next ``warm``."""

_NONE_HELD: Final[dict[Key, Table]] = {}


class Part(NamedTuple):
    """Bytes of the disk in `layer` that go to `at` in the answer."""

    layer: Qcow2
    offset: int
    length: int
    at: int


class Stored(NamedTuple):
    """Bytes of a file that go to `at` in the answer."""

    file: Reader
    offset: int
    length: int
    at: int


class Packed(NamedTuple):
    """Bytes of a compressed cluster, from `skipped` on, that go to `at` in the answer."""

    layer: Qcow2
    cluster: int
    entry: int
    skipped: int
    length: int
    at: int


class Plan:
    """What an answer is made of. What none of it covers is zeros."""

    __slots__ = ("packed", "stored")

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self.packed: list[Packed] = []

    def covers(self, length: int) -> bool:
        """Say whether nothing of an answer of this length is zeros."""
        return sum(p.length for p in self.stored) + sum(p.length for p in self.packed) == length

    def add(self, parts: list[Part], held: dict[Key, Table]) -> list[tuple[Part, int]]:
        """Find out what `parts` are made of. Return those whose tables are not in memory, and which
        slices these are; `held` are tables besides. Raises Damaged.
        """
        unknown: list[tuple[Part, int]] = []
        while parts:
            layer, offset, length, at = parts.pop()
            for kind, start, size, host in layer.tables.runs(offset, length, held):
                to = at + start - offset
                if kind == DATA:
                    size = layer.within(host, size)  # noqa: PLW2901 - what is of it
                    if size:
                        self.stored.append(Stored(layer.file, host, size, to))
                elif kind == BENEATH:
                    below = layer.backing
                    if below is not None and start < below.size:
                        size = min(size, below.size - start)  # noqa: PLW2901 - beyond are zeros
                        if isinstance(below, Qcow2):
                            parts.append(Part(below, start, size, to))
                        else:
                            self.stored.append(Stored(below, start, size, to))
                elif kind == COMPRESSED:
                    number, skipped = divmod(start, layer.cluster)
                    self.packed.append(Packed(layer, number, host, skipped, size, to))
                elif kind == UNKNOWN:
                    unknown.append((Part(layer, start, size, to), host))
        return unknown


class Qcow2(TellsPacked):
    """Reads the disk inside `file`, an image. Where that has nothing, `backing` shows, or zeros."""

    def __init__(
        self, file: Reader, backing: Reader | None, revision: Revision, header: Header
    ) -> None:
        self.file = file
        self.backing = backing
        self.size = header.size
        self.revision = revision
        self.cluster = 1 << header.cluster_bits
        self.tables = Tables(file, header)
        self.clusters = clusters_of(file, header)
        self._run = Run()
        self._planned: tuple[int, int, Plan] | None = None

    @classmethod
    async def open(cls, file: Reader, backing: Reader | None, revision: Revision) -> Qcow2:
        """Open an image. From here on it owns both readers, also if it fails.

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
            return cls(file, backing, revision, header)
        except BaseException:
            with trio.CancelScope(shield=True):
                await _close([file] if backing is None else [file, *_files(backing)])
            raise

    def within(self, host: int, length: int) -> int:
        """Return how many of these bytes of data are within the file; the others are zeros.

        QEMU writes no more of the last cluster than it has. It reads all that is beyond the end as
        zeros, and reports clusters that are altogether beyond as damage: an image that was cut off.
        Raises Damaged for these.
        """
        size = self.file.size
        end = host + length
        if end <= size:
            return length
        if (end - 1) // self.cluster * self.cluster >= size:
            raise Damaged("the qcow2 image is cut off: a cluster is beyond its end", at=end)
        return max(size - host, 0)

    # --- answering at once --------------------------------------------------------------------

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from RAM, or say None. A damaged image is left to ``pread`` to report."""
        self._planned = None
        if length > LONGEST:
            return None
        plan = Plan()
        try:
            if plan.add([Part(self, offset, length, 0)], _NONE_HELD):
                return None
            if plan.packed:
                self._tell_packed()
                self._unpack_ahead(offset, length)
            elif not plan.stored:
                return ZEROS[:length]
            elif plan.stored[0].length == length:
                return plan.stored[0].file.warm(plan.stored[0].offset, length)
            answer = _put_together(plan, length)
        except NebfsError:
            return None
        if answer is None:
            self._planned = offset, length, plan  # whoever is told None asks ``pread`` next
        return answer

    packs = True
    """An image of this format may have compressed clusters."""

    def packed_in(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return which of these bytes of the disk come out of compressed clusters, as (offset,
        length), as far as tables in memory tell.
        """
        plan = Plan()
        try:
            plan.add([Part(self, offset, length, 0)], _NONE_HELD)
        except NebfsError:
            return []
        return [(offset + packed.at, packed.length) for packed in plan.packed]

    def _unpack_ahead(self, offset: int, length: int) -> None:
        """Take note of a read, and have unpacked what will be read next. Raises Damaged."""
        start, stop = self._run.next(offset, length, self.size)
        if start == stop:
            return
        plan = Plan()
        plan.add([Part(self, start, stop - start, 0)], _NONE_HELD)
        wanted: dict[Qcow2, dict[int, int]] = {}
        for packed in plan.packed:
            wanted.setdefault(packed.layer, {})[packed.cluster] = packed.entry
        for layer, entries in wanted.items():
            layer.clusters.ahead(entries)

    # --- waiting ------------------------------------------------------------------------------

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly these bytes. Raises Damaged, and what the readers below raise."""
        plan = await self._plan(offset, length)
        if len(plan.stored) == 1 and plan.stored[0].length == length:
            return await plan.stored[0].file.pread(plan.stored[0].offset, length)
        # As it is: to clear it takes longer than to fill it.
        answer = np.empty(length, np.uint8).data
        if not plan.covers(length):
            answer[:] = ZEROS[:length] if length <= LONGEST else bytes(length)
        jobs = [partial(_read, s, answer) for s in plan.stored if not _read_warm(s, answer)]
        wanted: dict[Qcow2, list[Packed]] = {}
        if plan.packed:
            self._tell_packed()
        for packed in plan.packed:
            wanted.setdefault(packed.layer, []).append(packed)
        jobs += [partial(_unpack, layer, some, answer) for layer, some in wanted.items()]
        if jobs:
            await together(jobs)
        return answer

    async def _plan(self, offset: int, length: int) -> Plan:
        planned, self._planned = self._planned, None
        if planned is not None and planned[:2] == (offset, length):
            return planned[2]
        plan = Plan()
        held: dict[Key, Table] = {}

        unknown = plan.add([Part(self, offset, length, 0)], held)
        while unknown:
            slices = {(part.layer, number) for part, number in unknown}
            await together(partial(layer.tables.load, n, held) for layer, n in slices)
            unknown = plan.add([part for part, _ in unknown], held)
        return plan

    # --- the rest -----------------------------------------------------------------------------

    def facts(self) -> ReaderFacts:
        """What is known of the files together; `verified` only where there is but one."""
        all_facts = [file.facts() for file in _files(self)]
        verified = {facts.verified for facts in all_facts}
        return ReaderFacts(
            self.size,
            min(sum(facts.cached for facts in all_facts), self.size),
            verified.pop() if len(verified) == 1 else "mismatch" if "mismatch" in verified else "",
            next((facts.last_error for facts in all_facts if facts.last_error), ""),
            sum(facts.corrupt_blocks for facts in all_facts),
            all_facts[0].where,
        )

    async def aclose(self) -> None:
        """Let go of the files."""
        for layer in _layers(self):
            layer.tables.forget()
            layer.clusters.forget()
        await _close(_files(self))


def _layers(reader: Reader | None) -> Iterator[Qcow2]:
    while isinstance(reader, Qcow2):
        yield reader
        reader = reader.backing


def _files(reader: Reader) -> Iterator[Reader]:
    """Yield the readers that a disk is made of, the topmost first."""
    below: Reader | None = reader
    while isinstance(below, Qcow2):
        yield below.file
        below = below.backing
    if below is not None:
        yield below


async def _close(files: Iterable[Reader]) -> None:
    """Close all of them, whatever comes of it."""
    async with AsyncExitStack() as stack:
        for file in files:
            stack.push_async_callback(file.aclose)


def _put_together(plan: Plan, length: int) -> memoryview | None:
    clusters = []
    unpack = sum(packed.layer.cluster for packed in plan.packed) <= AT_ONCE
    for packed in plan.packed:
        cluster = packed.layer.clusters.at_once(packed.cluster, packed.entry, unpack=unpack)
        if cluster is None:
            return None
        clusters.append(cluster)
    answer = _ANSWER[:length]
    if not plan.covers(length):
        answer[:] = ZEROS[:length]
    for packed, cluster in zip(plan.packed, clusters, strict=True):
        _take(packed, cluster, answer)
    for stored in plan.stored:
        if not _read_warm(stored, answer):
            return None
    return answer


def _read_warm(stored: Stored, answer: memoryview) -> bool:
    view = stored.file.warm(stored.offset, stored.length)
    if view is None:
        return False
    answer[stored.at : stored.at + stored.length] = view
    return True


async def _read(stored: Stored, answer: memoryview) -> None:
    # What was asked for before it may have brought it.
    if not _read_warm(stored, answer):
        data = await stored.file.pread(stored.offset, stored.length)
        answer[stored.at : stored.at + stored.length] = data


def _take(packed: Packed, cluster: bytes, answer: memoryview) -> None:
    view = memoryview(cluster)[packed.skipped : packed.skipped + packed.length]
    answer[packed.at : packed.at + packed.length] = view


async def _unpack(layer: Qcow2, wanted: list[Packed], answer: memoryview) -> None:
    by_number: dict[int, list[Packed]] = {}
    for packed in wanted:
        by_number.setdefault(packed.cluster, []).append(packed)

    def arrived(number: int, cluster: bytes) -> None:
        for packed in by_number[number]:
            _take(packed, cluster, answer)

    entries = {number: packed[0].entry for number, packed in by_number.items()}
    await layer.clusters.bring(entries, arrived)
