"""The end of the sources: the fetcher process is asked."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from nebfs.blocks import SLOT_SIZE
from nebfs.content.pace import Pace
from nebfs.content.stack import Order
from nebfs.errors import NebfsError
from nebfs.fetcher.messages import Fetcher, FetchRequest
from nebfs.model import Filled, Locator, Revision


class Fetched:
    """Brings ranges of one locator and revision. Whatever the fetcher raises passes through.

    How long each answer takes is noted in `pace`.
    """

    def __init__(self, fetcher: Fetcher, locator: Locator, revision: Revision, pace: Pace) -> None:
        self._fetcher = fetcher
        self._locator = locator
        self._pace = pace
        self.revision = revision
        self.requests = 0
        self.failures = 0
        self.bytes = 0
        """What has arrived."""
        self.seconds = 0.0
        """What all requests took together."""

    async def fill(self, order: Order) -> None:
        """Ask for what the order claims, all of it in one request."""
        ranges = order.claim()
        if not ranges or order.file.fd < 0:  # or the object has moved into memory meanwhile
            return
        wanted = order.wanted
        request = FetchRequest(
            locator=self._locator,
            ranges=tuple(ranges),
            expected=self.revision,
            slot_size=SLOT_SIZE,
            seed=order.file.seed,
            wanted=(wanted[0], wanted[0] + wanted[1]) if wanted is not None else None,
            awaited=order.urgent,
        )
        asked = first = trio.current_time()

        def arrived(filled: Sequence[Filled]) -> None:
            nonlocal first
            now = trio.current_time()
            if first == asked:
                first = now
            size = sum(entry.length for entry in filled)
            self.bytes += size
            self._pace.arrived(size, now)
            order.arrived(filled)

        def came_early(offset: int, data: bytes) -> None:
            nonlocal first
            if first == asked:
                first = trio.current_time()
            order.came_early(offset, data)

        self.requests += 1
        self._pace.requests += 1
        try:
            await self._fetcher.fetch(request, order.file.fd, arrived, came_early)
        except NebfsError:
            self.failures += 1
            self._pace.failures += 1
            raise
        finally:
            took = trio.current_time() - asked
            self.seconds += took
            self._pace.seconds += took
        size = sum(stop - start for start, stop in ranges)
        self._pace.note(first - asked, trio.current_time() - first, size)
