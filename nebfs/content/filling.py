"""Idle fill: an image that is being read is completed while its place has nothing else to do.

One task per open object, one small order at a time per place, and only after the place was idle for
a while: a read that comes in between waits for one small order under way at worst, and nothing
more is ordered until the place is idle again. What was filled is the first to leave the cache until
somebody has read it, and nothing leaves to make room for it.

An order under way is not cancelled when a read arrives: that would close its connection, and cost
the next order more than the few milliseconds that are left of this one.
"""

from __future__ import annotations

import math

import structlog
import trio

from nebfs.blocks import SLOT_SIZE
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.blocks.index import Verdict
from nebfs.content.layers.cached import Cached
from nebfs.content.layers.noticed import Quiet
from nebfs.content.layers.verified import Verified
from nebfs.content.pace import Pace
from nebfs.errors import Changed, NebfsError
from nebfs.units import MIB

log = structlog.get_logger()

LARGEST = 1 * MIB
SHORTEST, LONGEST = 0.001, 0.02
"""Seconds: an order is for no more than comes in half of the time that a read waits for its first
byte anyway, within these limits, as a read may have to wait for it."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0
"""Seconds between attempts while a place fails: nobody waits for it."""

NO_ROOM = 60.0
"""Seconds until a full cache is looked at again."""

SOON = 1.0
"""Seconds until what is on its way, or being hashed, is looked at again."""


class Budget:
    """How many bytes per second all fills together may bring."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.since = -math.inf
        """When the next order may leave."""

    def spend(self, amount: int) -> None:
        """Take note of an order that leaves now."""
        self.since = max(self.since, trio.current_time()) + amount / self.rate


class Filling:
    """Brings what is missing of one object, from behind the last read onwards.

    What is missing last is brought last, and only when the hash has come so far: so the verdict
    follows within a moment, and no reader of a complete object has to wait for it.
    """

    def __init__(
        self,
        cached: Cached,
        verified: Verified | None,
        quiet: Quiet,
        pace: Pace,
        budget: Budget,
        source: str,
    ) -> None:
        self._cached = cached
        self._verified = verified
        self._quiet = quiet
        self._pace = pace
        self._budget = budget
        self._source = source
        self._begun = trio.Event()
        self._next = 0
        self._size = SLOT_SIZE

    def read(self, end: int) -> None:
        """Take note of a read that ended at `end`. Before the first one nothing is brought."""
        self._next = end >> SLOT_SHIFT
        self._begun.set()

    async def run(self) -> None:
        """Fill until the object is complete, or not worth it any more."""
        await self._begun.wait()
        pause = FIRST_PAUSE
        while not self._over():
            try:
                async with self._quiet.turn:
                    wait = await self._step()
                pause = FIRST_PAUSE
            except Changed:
                return
            except NebfsError as exc:
                wait = max(pause, exc.retry_after or 0.0)
                pause = min(2 * pause, LONGEST_PAUSE)
            await trio.sleep(wait)

    def _over(self) -> bool:
        verified = self._verified
        damaged = verified is not None and verified.verdict is Verdict.MISMATCH
        return damaged or self._cached.file.complete

    async def _step(self) -> float:
        """Bring one piece as soon as it disturbs nobody; return the seconds until the next."""
        while (  # noqa: ASYNC110 - it is time that is waited for
            since := max(self._quiet.since, self._budget.since)
        ) > trio.current_time():
            await trio.sleep_until(since)
        piece = self._piece()
        if piece is None:
            return SOON
        file = self._cached.file
        amount = (piece[1] - piece[0]) * SLOT_SIZE
        if not self._cached.has_spare(amount):
            return NO_ROOM
        self._budget.spend(amount)
        began = trio.current_time()
        await self._cached.fill(*piece)
        self._measure(amount, trio.current_time() - began)
        if self._verified is not None:
            self._verified.follow()
        if file.complete:
            log.debug("fill.complete", source=self._source, size=file.size)
        return 0.0

    def _piece(self) -> tuple[int, int] | None:
        """Return the slots to bring next, or None when there is nothing to bring now."""
        file = self._cached.file
        last = file.last_absent()
        if last < 0:
            return None
        first = file.absent(self._next, last)
        if first < 0:
            first = file.absent(0, last)
        if first < 0:
            waits = self._verified is not None and not self._verified.reached(last * SLOT_SIZE)
            return (last, last + 1) if file.claimable(last) and not waits else None
        stop = first
        while stop < min(first + self._size // SLOT_SIZE, last) and file.claimable(stop):
            stop += 1
        return (first, stop) if stop > first else None

    def _measure(self, amount: int, took: float) -> None:
        """Make the next order as large as what comes in a moment, but larger by small steps: the
        first bytes of an answer come faster than the rest.
        """
        latency = self._pace.latency
        rate = amount / max(took - latency, SHORTEST)
        moment = min(max(latency / 2, SHORTEST), LONGEST)
        self._size = int(min(max(rate * moment, SLOT_SIZE), 2 * self._size, LARGEST))
