"""Bringing all of an object into the cache for somebody who asked, behind what is waited for.

What is here is not fetched again, and what has come stays when the work is broken off: so asking
again goes on where it ended.
"""

from __future__ import annotations

import math

import structlog
import trio

from nebfs.blocks import SLOT_SIZE
from nebfs.blocks.index import Verdict
from nebfs.content.filling import Budget
from nebfs.content.layers.cached import Cached
from nebfs.content.layers.retried import FIRST_PAUSE, LONGEST_PAUSE, worth_retrying
from nebfs.content.layers.verified import Verified
from nebfs.content.pace import LARGEST
from nebfs.content.stack import Priority
from nebfs.errors import CacheFault, NebfsError

log = structlog.get_logger()

LOOK = 0.5
"""Seconds until what others are bringing, or what is being hashed, is looked at again."""

SHARE = 4
"""With a limit of the rate one order is for no more than a quarter of a second of it."""


class Warming:
    """Brings what is missing of one object, with up to `turns` orders at a time.

    `patience`: seconds without anything new after which a place that fails is given up. `budget`
    bounds the rate; None: it is not bounded.
    """

    def __init__(
        self,
        cached: Cached,
        verified: Verified | None,
        *,
        turns: int,
        patience: float,
        budget: Budget | None = None,
    ) -> None:
        self._cached = cached
        self._verified = verified
        self._turns = turns
        self._patience = patience
        self._budget = budget
        self._at = 0
        self._last_news = trio.current_time()
        self._left = 2 * cached.size + LARGEST
        """Bytes that may still be ordered: what leaves as it comes is not brought for ever."""

    async def run(self) -> None:
        """Return when all of it is here, and is what was published. Raises NebfsError."""
        if self._cached.facts().where != "disk":
            raise CacheFault("the cache disk cannot be used, so nothing can be kept")
        if self._verified is not None and self._verified.verdict is Verdict.MISMATCH:
            await self._verified.confirm()
        while not self._cached.file.complete:
            self._at = 0
            failures: list[NebfsError] = []
            async with trio.open_nursery() as nursery:
                for _ in range(self._turns if self._cached.revision.ranges else 1):
                    nursery.start_soon(self._work, failures, nursery.cancel_scope)
            if failures:
                raise failures[0]
            if not self._cached.file.complete:
                await trio.sleep(LOOK)  # others are bringing the rest
        if self._verified is not None:
            await self._verified.confirm()

    async def _work(self, failures: list[NebfsError], scope: trio.CancelScope) -> None:
        while (piece := self._piece()) is not None:
            try:
                await self._bring(*piece)
            except NebfsError as exc:
                failures.append(exc)
                scope.cancel()
                return

    def _piece(self) -> tuple[int, int] | None:
        """Return the slots to bring next; None when there is nothing more to bring on this way."""
        file = self._cached.file
        if not self._cached.revision.ranges:
            # Everything from the beginning or nothing: what is here comes again, and is left as is.
            first, self._at = self._at, file.slots
            return (first, file.slots) if first == 0 and not file.complete else None
        first = file.absent(self._at, file.slots)
        while first >= 0 and not file.claimable(first):
            first = file.absent(first + 1, file.slots)
        if first < 0:
            self._at = file.slots
            return None
        stop = first
        while stop < min(first + self._size, file.slots) and file.claimable(stop):
            stop += 1
        self._at = stop
        return first, stop

    @property
    def _size(self) -> int:
        size = float(self._cached.pace.order)
        if self._budget is not None:
            size = min(size, self._budget.rate / SHARE)
        return max(int(size) // SLOT_SIZE, 1)

    async def _bring(self, first: int, stop: int) -> None:
        amount = (stop - first) * SLOT_SIZE
        pause = FIRST_PAUSE
        while True:
            await self._turn(amount)
            try:
                await self._cached.fill(first, stop, priority=Priority.READ_AHEAD, stream=True)
            except NebfsError as exc:
                late = trio.current_time() - self._last_news > self._patience
                # Of a cache that is nearly full the orders under way may be all that is in the way.
                full = isinstance(exc, CacheFault) and pause < LONGEST_PAUSE
                if late or not (full or worth_retrying(exc)):
                    raise
                await trio.sleep(max(pause, exc.retry_after or 0.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                break
        self._last_news = trio.current_time()
        self._left -= amount
        if self._left < 0 and not self._cached.file.complete:
            raise CacheFault("what comes leaves the cache again: it has no room for all of it")
        if self._verified is not None:
            self._verified.follow()

    async def _turn(self, amount: int) -> None:
        """Wait until the rate permits `amount` more bytes."""
        budget = self._budget
        if budget is None:
            return
        since = budget.since
        budget.spend(amount)
        if since > -math.inf:
            await trio.sleep_until(since)
