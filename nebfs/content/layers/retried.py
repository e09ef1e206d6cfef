"""Trying again what is temporary, within the time that a reader is willing to wait."""

from __future__ import annotations

import stamina
import structlog

from nebfs.content.stack import Order, Source
from nebfs.errors import CacheFault, FetcherDied, NebfsError
from nebfs.model import Revision

log = structlog.get_logger()


def _again(exc: Exception) -> bool | float:
    """Whether trying again can help, or the seconds that the other side asked for.

    Not for a cache fault, as the cache decides where the bytes go instead, and not for a request
    that has ended the fetcher twice.
    """
    if not isinstance(exc, NebfsError) or not exc.temporary:
        return False
    if isinstance(exc, (CacheFault, FetcherDied)):
        return False
    return exc.retry_after if exc.retry_after is not None else True


class Retried:
    """Gives a failed order again, for what is still missing of it, with growing pauses.

    `patience` is in seconds, over all attempts. Read-ahead is not retried: nobody waits for it, and
    the reader who comes to need its slots orders them anew.
    """

    def __init__(self, below: Source, patience: float) -> None:
        self._below = below
        self._patience = patience
        self.retries = 0

    @property
    def revision(self) -> Revision:
        """The revision that is brought."""
        return self._below.revision

    async def fill(self, order: Order) -> None:
        """Pass the order on until it succeeds, fails for good, or time is up."""
        if not order.urgent:
            await self._below.fill(order)
            return
        async for attempt in stamina.retry_context(
            on=_again,
            attempts=None,
            timeout=self._patience,
            wait_initial=0.1,  # a restarted web server is back after about this
            wait_max=5.0,
            wait_jitter=0.5,
        ):
            with attempt:
                if attempt.num > 1:
                    self.retries += 1
                    log.info("source.retry", attempt=attempt.num, slots=order.stop - order.first)
                await self._below.fill(order)
