"""The end of the sources: the fetcher process is asked."""

from __future__ import annotations

from nebfs.blocks import SLOT_SIZE
from nebfs.content.stack import Order
from nebfs.fetcher.messages import Fetcher, FetchRequest
from nebfs.model import Locator, Revision


class Fetched:
    """Brings ranges of one locator and revision. Whatever the fetcher raises passes through."""

    def __init__(self, fetcher: Fetcher, locator: Locator, revision: Revision) -> None:
        self._fetcher = fetcher
        self._locator = locator
        self.revision = revision

    async def fill(self, order: Order) -> None:
        """Ask for what the order claims, all of it in one request."""
        ranges = order.claim()
        if not ranges or order.file.fd < 0:  # or the object has moved into memory meanwhile
            return
        request = FetchRequest(
            locator=self._locator,
            ranges=tuple(ranges),
            expected=self.revision,
            slot_size=SLOT_SIZE,
            seed=order.file.seed,
        )
        await self._fetcher.fetch(request, order.file.fd, order.arrived)
