"""Turns at one place: so many requests at a time, and demand before read-ahead."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nebfs.content.stack import Order, Source
from nebfs.model import Revision


class Gate:
    """Lets `turns` requests through at a time; whoever is urgent goes first.

    Read-ahead may hold all turns but one, so that a demand hardly ever has to wait for it.
    """

    def __init__(self, turns: int) -> None:
        self._turns = max(turns, 1)
        self._patient = max(self._turns - 1, 1)
        self._holding = {True: 0, False: 0}
        self._queue: list[tuple[bool, int, trio.Event]] = []
        self._count = itertools.count()

    @property
    def holding(self) -> int:
        """How many requests are out."""
        return self._holding[True] + self._holding[False]

    def _admits(self, *, urgent: bool) -> bool:
        return self.holding < self._turns and (urgent or self._holding[False] < self._patient)

    @asynccontextmanager
    async def turn(self, *, urgent: bool) -> AsyncIterator[None]:
        """Hold one turn."""
        if not self._admits(urgent=urgent) or (self._queue and not urgent):
            event = trio.Event()
            ticket = (not urgent, next(self._count), event)
            heapq.heappush(self._queue, ticket)
            try:
                await event.wait()
            except trio.Cancelled:
                if event.is_set():  # we were let in while being cancelled: hand the turn on
                    self._leave(urgent=urgent)
                else:
                    self._queue.remove(ticket)
                    heapq.heapify(self._queue)
                raise
        else:
            self._holding[urgent] += 1
        try:
            yield
        finally:
            self._leave(urgent=urgent)

    def _leave(self, *, urgent: bool) -> None:
        self._holding[urgent] -= 1
        while self._queue and self._admits(urgent=not self._queue[0][0]):
            patient, _, event = heapq.heappop(self._queue)
            self._holding[not patient] += 1
            event.set()


class Limited:
    """Takes a turn at the place's gate for each request."""

    def __init__(self, below: Source, gate: Gate) -> None:
        self._below = below
        self._gate = gate

    @property
    def revision(self) -> Revision:
        """The revision that is brought."""
        return self._below.revision

    async def fill(self, order: Order) -> None:
        """Wait for a turn, then pass the order on."""
        async with self._gate.turn(urgent=order.urgent):
            await self._below.fill(order)
