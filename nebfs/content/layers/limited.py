"""Turns at one place: so many requests at a time, demand before read-ahead before the rest."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from nebfs.content.pace import Pace
from nebfs.content.stack import Order, Priority, Source
from nebfs.model import Revision


class Gate:
    """Lets `turns` requests through at a time, the most urgent first, and as many demands again.

    So a demand hardly ever has to wait for read-ahead, and read-ahead never waits for demands: a
    stream would otherwise be demanded piece by piece by the reader who has caught up with it.
    What boots are known to read is small requests far apart, which a guest is about to wait for: it
    may take what demands have, but for two turns, one of which is left for read-ahead.
    What fills has a turn only when nobody else has one.
    """

    def __init__(self, turns: int) -> None:
        self._turns = max(turns, 1)
        self._holding = dict.fromkeys(Priority, 0)
        self._queues: dict[Priority, deque[trio.Event]] = {p: deque() for p in Priority}

    @property
    def holding(self) -> int:
        """How many requests are out."""
        return sum(self._holding.values())

    @property
    def profiled(self) -> int:
        """How many requests for what boots read may be out."""
        return max(2 * self._turns - 2, self._turns)

    def _admits(self, priority: Priority) -> bool:
        holding = self.holding
        if not holding:
            return True
        if priority is Priority.DEMAND:
            return holding < 2 * self._turns
        patient = holding - self._holding[Priority.DEMAND]
        if priority is Priority.PROFILE:
            return patient < self.profiled
        guessed = patient - self._holding[Priority.PROFILE]
        room = patient < 2 * self._turns - 1
        return priority is Priority.READ_AHEAD and guessed < self._turns and room

    @asynccontextmanager
    async def turn(
        self, priority: Priority, *, overtakes: bool = False
    ) -> AsyncIterator[Callable[[], None]]:
        """Hold one turn; what is yielded ends it before the block does. `overtakes`: it is worth
        more than what has waited longer.
        """
        queue = self._queues[priority]
        if queue or not self._admits(priority):
            event = trio.Event()
            if overtakes:
                queue.appendleft(event)
            else:
                queue.append(event)
            try:
                await event.wait()
            except trio.Cancelled:
                if event.is_set():  # we were let in while being cancelled: hand the turn on
                    self._leave(priority)
                else:
                    queue.remove(event)
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
        for waiting, queue in self._queues.items():  # the most urgent first
            while queue and self._admits(waiting):
                self._holding[waiting] += 1
                queue.popleft().set()


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
        self.waited = 0.0
        """Seconds that all orders together have waited for their turns."""

    @property
    def under_way(self) -> int:
        """How many requests are out at the place, of all its objects."""
        return self._gate.holding

    @property
    def revision(self) -> Revision:
        """The revision that is brought."""
        return self._below.revision

    async def fill(self, order: Order) -> None:
        """Wait for a turn, then pass the order on."""
        came = trio.current_time()
        if not order.stream or not self._pace.far:
            # What is around the latest miss is wanted sooner than what was around those before.
            latest = order.priority is Priority.READ_AHEAD and not order.stream
            async with self._gate.turn(order.priority, overtakes=latest):
                self.waited += trio.current_time() - came
                await self._below.fill(order)
            return
        async with self._row.turn(order.priority) as end:
            order.nearly_done(self._pace.tail, end)
            async with self._gate.turn(order.priority):
                self.waited += trio.current_time() - came
                await self._below.fill(order)
