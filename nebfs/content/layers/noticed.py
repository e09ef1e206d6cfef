"""Taking notice of when a place has work to do, for what should happen only when it has none."""

from __future__ import annotations

import math

import trio

from nebfs.content.stack import Order, Priority, Source
from nebfs.model import Revision

IDLE = 2.0
"""Seconds without an order after which a place counts as idle: longer than the pauses of somebody
who is still reading, such as a guest that works on what it has just read."""


class Quiet:
    """When one place was last busy with what readers want or will want next.

    `turn` is held by the one task that may bring what nobody has asked for.
    """

    def __init__(self) -> None:
        self.turn = trio.Lock()
        self._orders = 0
        self._ended = -math.inf

    def begin(self) -> None:
        """Take note of an order; retries and their pauses belong to it."""
        self._orders += 1

    def end(self) -> None:
        """Take note of its end."""
        self._orders -= 1
        self._ended = trio.current_time()

    @property
    def since(self) -> float:
        """When the place will have been idle for long enough, if no more orders come."""
        return (trio.current_time() if self._orders else self._ended) + IDLE


class Noticed:
    """Tells `quiet` of each order on its way, but of those that fill."""

    def __init__(self, below: Source, quiet: Quiet) -> None:
        self._below = below
        self._quiet = quiet

    @property
    def revision(self) -> Revision:
        """The revision that is brought."""
        return self._below.revision

    async def fill(self, order: Order) -> None:
        """Pass the order on."""
        if order.priority is Priority.FILL:
            await self._below.fill(order)
            return
        self._quiet.begin()
        try:
            await self._below.fill(order)
        finally:
            self._quiet.end()
