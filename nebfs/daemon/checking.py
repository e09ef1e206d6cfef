"""Looking for rot: ``POST /v1/cache/check``, with ``{"rate": bytes per second or null}``.

Every block of the cache is read from the disk and compared with its checksum. One that differs is
taken out, and is fetched again by whoever reads it. (No such block is ever answered with anyway:
each is compared when it is first read. This is for whoever wants to know how good a disk still is.)

The answer is JSON lines: ``{"event": "progress", "objects", "number", "size", "here"}`` (bytes, of
all), ``{"event": "rot", "key", "source", "blocks"}``, and ``{"event": "end", "objects", "bytes",
"blocks"}``, the blocks being those that were taken out.
"""

from __future__ import annotations

from collections import deque

import trio

from nebfs.blocks import SLOT_SIZE, DiskStore
from nebfs.blocks.blockfile import disk_threads
from nebfs.blocks.resting import differing
from nebfs.content.filling import Budget
from nebfs.daemon import jobs
from nebfs.daemon.objects import listed
from nebfs.daemon.warming import rate_in
from nebfs.daemon.web import Reply, Request, Routes, as_lines
from nebfs.daemon.wiring import House
from nebfs.errors import NebfsError, UserError
from nebfs.units import MIB

RATE = 200.0 * MIB
"""Bytes per second unless another rate is asked for: a slow disk stays usable to readers."""

STEP = 32
"""Slots that are compared at a time: 4 MiB, some milliseconds of one thread."""


def routes(house: House) -> Routes:
    """Return what looks for rot."""

    async def check(request: Request) -> Reply:
        if not isinstance(house.store, DiskStore):
            raise UserError("this mount has no cache on a disk")
        work = Check(house, house.store, rate_in(request.json()) or RATE)
        return as_lines(jobs.done(house.nursery, work.run, work.news))

    return {("POST", "/v1/cache/check"): check}


class Check:
    """One way through all objects."""

    def __init__(self, house: House, store: DiskStore, rate: float) -> None:
        self._house = house
        self._store = store
        self._budget = Budget(rate)
        self._news: deque[jobs.Told] = deque()
        self._size = self._here = self._number = self._objects = self._rotten = 0

    async def run(self) -> None:
        """Compare all blocks that are here when it begins."""
        objects = await listed(self._house)
        self._objects = len(objects)
        self._size = sum(int(str(one["cached"])) for one in objects)
        for number, one in enumerate(objects, 1):
            self._number = number
            await self._compare(str(one["key"]), str(one["source"]), int(str(one["size"])))
        said = {"objects": self._objects, "bytes": self._here, "blocks": self._rotten}
        self._news.append({"event": "end", **said})

    async def _compare(self, key: str, source: str, size: int) -> None:
        slots = -(-size // SLOT_SIZE)
        rotten = 0
        for first in range(0, slots, STEP):
            stop = min(first + STEP, slots)
            try:
                read, wrong = await trio.to_thread.run_sync(
                    differing, self._store.directory, key, first, stop, limiter=disk_threads
                )
            except FileNotFoundError:
                return  # it has left meanwhile
            except OSError as exc:
                raise NebfsError(f"the cache disk cannot be read: {exc.strerror}") from exc
            rotten += await self._take_out(key, source, size, wrong)
            self._here += read
            if read:
                self._budget.spend(read)
                await trio.sleep_until(self._budget.since)
        if rotten:
            self._rotten += rotten
            self._news.append({"event": "rot", "key": key, "source": source, "blocks": rotten})

    async def _take_out(self, key: str, source: str, size: int, slots: list[int]) -> int:
        """Look once more as a reader does, which takes out what is wrong; say how much it was."""
        if not slots:
            return 0
        file = await self._store.open(key, size, source)
        try:
            file.doubt()
            before = file.corrupt
            for slot in slots:
                if file.has(slot, slot + 1):
                    await file.read(slot * SLOT_SIZE, file.length(slot))
            return file.corrupt - before
        finally:
            await self._store.release(file)

    def news(self) -> list[jobs.Told]:
        """Return what there is to tell since the last time."""
        told = list(self._news)
        self._news.clear()
        told.insert(
            0,
            {
                "event": "progress",
                "objects": self._objects,
                "number": self._number,
                "size": self._size,
                "here": self._here,
            },
        )
        return told
