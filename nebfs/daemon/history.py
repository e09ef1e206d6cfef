"""The last hour in a few numbers, one sample each 5 seconds: for charts. ``GET /v1/history``.

The answer: ``every`` (seconds), ``until`` (seconds since the epoch, of the last sample), and lists
of equal length, the oldest first: ``served`` and ``fetched`` (bytes per second: what was read, and
what came from the places), ``hit_rate`` (of the reads, how many were answered at once: 0 to 1, or
null where there were none), ``used`` (bytes of the cache) and ``open_files``.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import trio

from nebfs.daemon.web import Reply, Request, Routes, as_json
from nebfs.daemon.wiring import House

EVERY = 5.0
"""Seconds. A chart of an hour on a phone has half as many pixels as that makes samples."""

LENGTH = 720
"""An hour: 30 kB in all."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What has been counted since the mount was made, and what is now."""

    warm: int
    cold: int
    served: int
    fetched: int
    used: int
    open_files: int


class History:
    """Takes samples, and keeps those of the last hour."""

    def __init__(self, look: Callable[[], Counts], length: int = LENGTH) -> None:
        self._look = look
        self._length = length
        self._taken = 0
        self._until = 0.0
        self._before = look()
        self._at = trio.current_time()
        self._rings = {
            name: array("d", bytes(8 * length))
            for name in ("served", "fetched", "hit_rate", "used", "open_files")
        }

    async def run(self) -> None:
        """Take a sample every 5 seconds, for ever."""
        while True:
            await trio.sleep(EVERY)
            self.sample()

    def sample(self) -> None:
        """Take a sample: of what there is, and of what has happened since the last one."""
        now, before, at = self._look(), self._before, trio.current_time()
        # A machine that slept, or was too busy, makes longer ones: rates stay true.
        seconds = max(at - self._at, 1e-3)
        reads = now.warm + now.cold - before.warm - before.cold
        sample = {
            "served": (now.served - before.served) / seconds,
            "fetched": (now.fetched - before.fetched) / seconds,
            "hit_rate": (now.warm - before.warm) / reads if reads else math.nan,
            "used": now.used,
            "open_files": now.open_files,
        }
        for name, value in sample.items():
            self._rings[name][self._taken % self._length] = value
        self._taken += 1
        self._before, self._at, self._until = now, at, time.time()

    def latest(self) -> dict[str, float | None]:
        """Return ``served``, ``fetched`` and ``hit_rate`` of the last sample; nothing before it."""
        if not self._taken:
            return {}
        at = (self._taken - 1) % self._length
        last = {name: self._rings[name][at] for name in ("served", "fetched", "hit_rate")}
        return {name: None if math.isnan(value) else value for name, value in last.items()}

    def told(self) -> dict[str, object]:
        """Return all samples, as JSON can have them."""
        start = self._taken % self._length if self._taken > self._length else 0
        end = min(self._taken, self._length)
        return {
            "every": EVERY,
            "until": self._until,
            **{
                name: [
                    None if math.isnan(value) else round(value, 4)
                    for value in (*ring[start:end], *ring[:start])
                ]
                for name, ring in self._rings.items()
            },
        }


def counts_of(house: House) -> Callable[[], Counts]:
    """Return what looks at the counters of `house`."""

    def look() -> Counts:
        counters = house.operations.counters
        return Counts(
            warm=counters.warm_reads,
            cold=counters.cold_reads,
            served=counters.bytes_read,
            fetched=house.fetcher.statistics().fetched_bytes,
            used=house.store.used,
            open_files=len(house.operations.handles),
        )

    return look


def routes(history: History) -> Routes:
    """Return what is asked about the past."""

    async def last_hour(_: Request) -> Reply:
        return as_json(history.told())

    return {("GET", "/v1/history"): last_hour}
