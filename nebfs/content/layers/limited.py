"""Turns at one place: so many requests at a time, demand before read-ahead before the rest."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from nebfs.content.pace import Pace
from nebfs.content.stack import Order, Priority, Source
from nebfs.model import Revision


class Gate:
    """Lets `turns` requests through at a time, the most urgent first, and as many demands again.

    So a demand hardly ever has to wait for read-ahead, and read-ahead need not hold back for it.
    What fills has a turn only when nobody else has one.
    """

    def __init__(self, turns: int) -> None:
        self._turns = max(turns, 1)
        self._holding = dict.fromkeys(Priority, 0)
        self._queue: list[tuple[Priority, int, trio.Event]] = []
        self._count = itertools.count()

    @property
    def holding(self) -> int:
        """How many requests are out."""
        return sum(self._holding.values())

    def _admits(self, priority: Priority) -> bool:
        holding = self.holding
        if not holding:
            return True
        if priority is Priority.DEMAND:
            return holding < 2 * self._turns
        patient = holding - self._holding[Priority.DEMAND]
        return priority is Priority.READ_AHEAD and patient < self._turns

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncIterator[Callable[[], None]]:
        """Hold one turn; what is yielded ends it before the block does."""
        if not self._admits(priority) or (self._queue and self._queue[0][0] <= priority):
            event = trio.Event()
            ticket = (priority, next(self._count), event)
            heapq.heappush(self._queue, ticket)
            try:
                await event.wait()
            except trio.Cancelled:
                if event.is_set():  # we were let in while being cancelled: hand the turn on
                    self._leave(priority)
                else:
                    self._queue.remove(ticket)
                    heapq.heapify(self._queue)
                raise
        else:
            self._holding[priority] += 1
        held = True

        def end() -> None:
            nonlocal held
            if held:
                held = False
                self._leave(priority)

        try:
            yield end
        finally:
            end()

    def _leave(self, priority: Priority) -> None:
        self._holding[priority] -= 1
        while self._queue and self._admits(self._queue[0][0]):
            first, _, event = heapq.heappop(self._queue)
            self._holding[first] += 1
            event.set()


class Limited:
    """Takes a turn at the place's gate for each request.

    Of a place far away the orders of streams come one at a time (`row`), each when so much of the
    one before it is still to come as comes during one round trip: without a gap, and without
    several connections that take the way from each other.
    """

    def __init__(self, below: Source, gate: Gate, row: Gate, pace: Pace) -> None:
        self._below = below
        self._gate = gate
        self._row = row
        self._pace = pace

    @property
    def revision(self) -> Revision:
        """The revision that is brought."""
        return self._below.revision

    async def fill(self, order: Order) -> None:
        """Wait for a turn, then pass the order on."""
        if not order.stream or not self._pace.far:
            async with self._gate.turn(order.priority):
                await self._below.fill(order)
            return
        async with self._row.turn(order.priority) as end:
            order.nearly_done(self._pace.tail, end)
            async with self._gate.turn(order.priority):
                await self._below.fill(order)
