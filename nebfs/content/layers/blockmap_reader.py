"""The disk inside an image whose blocks a BlockMap finds: one reader for all such formats."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np

from nebfs.content.layers.ahead import Run as Reading
from nebfs.content.layers.blockmap import (
    DATA,
    PACKED,
    UNKNOWN,
    ZERO,
    BlockMap,
    Layout,
    Run,
    Slice,
)
from nebfs.content.layers.packed import AT_ONCE, PackedBlocks, Place, TellsPacked
from nebfs.content.layers.together import together
from nebfs.content.layers.zeros import LONGEST, ZEROS
from nebfs.content.stack import Reader, ReaderFacts
from nebfs.errors import NebfsError
from nebfs.model import Revision

_NONE_HELD: Final[dict[int, Slice]] = {}


class Mapped(TellsPacked):
    """Reads the disk whose blocks are in `file` where `layout` says. It owns `file`.

    What was uncompressed costs one look into the table more than the file's own bytes.
    """

    def __init__(self, file: Reader, layout: Layout, revision: Revision) -> None:
        self._file = file
        self.size = layout.size
        self.revision = revision
        self._block = layout.block
        self._map = BlockMap(file, layout)
        unpack = layout.unpack
        self._packed = (
            None if unpack is None else PackedBlocks(file, layout.block, _as_it_is, unpack)
        )
        self.packs = unpack is not None
        self._reading = Reading()

    def warm(self, offset: int, length: int) -> memoryview | None:
        """Answer from RAM, or say None. A damaged image is left to ``pread`` to report."""
        if length > LONGEST:
            return None
        try:
            runs = self._map.runs(offset, length, _NONE_HELD)
            if len(runs) == 1 and runs[0].kind == DATA:
                return self._file.warm(runs[0].host, length)
            kinds = {run.kind for run in runs}
            if UNKNOWN in kinds:
                return None
            if kinds == {ZERO}:
                return ZEROS[:length]
            if PACKED in kinds:
                self._tell_packed()
                self._unpack_ahead(offset, length)
            return self._put_together(runs, offset, length)
        except NebfsError:
            return None

    def packed_in(self, offset: int, length: int) -> list[tuple[int, int]]:
        """Return which of these bytes of the disk come out of compressed blocks, as (offset,
        length), as far as tables in memory tell.
        """
        try:
            runs = self._map.runs(offset, length, _NONE_HELD)
        except NebfsError:
            return []
        return [(run.start, run.length) for run in runs if run.kind == PACKED]

    def _put_together(self, runs: list[Run], offset: int, length: int) -> memoryview | None:
        answer = _made_for(runs, length)
        unpack = sum(run.kind == PACKED for run in runs) * self._block <= AT_ONCE
        for run in runs:
            if run.kind == PACKED:
                assert self._packed is not None  # noqa: S101 - whoever has such blocks has it
                place = Place(run.host, run.room)
                block = self._packed.at_once(run.start // self._block, place, unpack=unpack)
                if block is None:
                    return None
                self._take(run, block, answer, offset)
            elif run.kind == DATA and not self._read_warm(run, answer, offset):
                return None
        return answer

    def _unpack_ahead(self, offset: int, length: int) -> None:
        """Take note of a read, and have unpacked what will be read next. Raises Damaged."""
        start, stop = self._reading.next(offset, length, self.size)
        if start < stop and self._packed is not None:
            runs = self._map.runs(start, stop - start, _NONE_HELD)
            self._packed.ahead(
                {
                    run.start // self._block: Place(run.host, run.room)
                    for run in runs
                    if run.kind == PACKED
                }
            )

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return exactly these bytes. Raises Damaged, and what the file's reader raises."""
        held: dict[int, Slice] = {}
        runs = self._map.runs(offset, length, held)
        while unknown := [run.host for run in runs if run.kind == UNKNOWN]:
            await together(partial(self._map.load, number, held) for number in unknown)
            runs = self._map.runs(offset, length, held)
        if len(runs) == 1 and runs[0].kind == DATA:
            return await self._file.pread(runs[0].host, length)
        answer = _made_for(runs, length)
        jobs = [
            partial(self._read, run, answer, offset)
            for run in runs
            if run.kind == DATA and not self._read_warm(run, answer, offset)
        ]
        packed = {run.start // self._block: run for run in runs if run.kind == PACKED}
        if packed:
            self._tell_packed()
            jobs.append(partial(self._unpack, packed, answer, offset))
        if jobs:
            await together(jobs)
        return answer

    def _read_warm(self, run: Run, answer: memoryview, offset: int) -> bool:
        view = self._file.warm(run.host, run.length)
        if view is None:
            return False
        answer[run.start - offset : run.start - offset + run.length] = view
        return True

    async def _read(self, run: Run, answer: memoryview, offset: int) -> None:
        # What was asked for before it may have brought it.
        if not self._read_warm(run, answer, offset):
            data = await self._file.pread(run.host, run.length)
            answer[run.start - offset : run.start - offset + run.length] = data

    async def _unpack(self, wanted: dict[int, Run], answer: memoryview, offset: int) -> None:
        def arrived(number: int, block: bytes) -> None:
            self._take(wanted[number], block, answer, offset)

        assert self._packed is not None  # noqa: S101 - whoever has such blocks has it
        places = {number: Place(run.host, run.room) for number, run in wanted.items()}
        await self._packed.bring(places, arrived)

    def _take(self, run: Run, block: bytes, answer: memoryview, offset: int) -> None:
        skipped = run.start % self._block
        to = run.start - offset
        answer[to : to + run.length] = memoryview(block)[skipped : skipped + run.length]

    def facts(self) -> ReaderFacts:
        """What is known of the file, of which there may be more than of the disk, or less."""
        facts = self._file.facts()
        return ReaderFacts(
            self.size,
            min(facts.cached, self.size),
            facts.verified,
            facts.last_error,
            facts.corrupt_blocks,
            facts.where,
        )

    async def aclose(self) -> None:
        """Let go of the file."""
        self._map.forget()
        if self._packed is not None:
            self._packed.forget()
        await self._file.aclose()


def _as_it_is(place: Place) -> Place:
    """Return the place of a block: here the map tells that itself."""
    return place


def _made_for(runs: list[Run], length: int) -> memoryview:
    """Return the room for an answer: of zeros, if there are any in it."""
    if any(run.kind == ZERO for run in runs):
        return memoryview(bytearray(length))
    return np.empty(length, np.uint8).data  # as it is: to clear it takes as long as to fill it
