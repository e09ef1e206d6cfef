"""Trying again what is temporary, within the time that a reader is willing to wait.

Our own loop, as the libraries for it measure their time-out on the machine's clock, not on trio's:
a test of sixty seconds of outage would take sixty seconds.
"""

from __future__ import annotations

import random

import structlog
import trio

from nebfs.content.stack import Order, Source
from nebfs.errors import CacheFault, FetcherDied, NebfsError
from nebfs.model import Revision

log = structlog.get_logger()

FIRST_PAUSE = 0.1
"""Seconds: a connection that was closed for being idle is worth asking again at once."""

LONGEST_PAUSE = 5.0
"""Seconds: the most that a reader waits in vain after its place is back."""


def worth_retrying(exc: NebfsError) -> bool:
    """Whether asking again can help.

    Not after a cache fault, as the cache decides where the bytes go instead, and not after a
    request that has ended the fetcher twice.
    """
    return exc.temporary and not isinstance(exc, (CacheFault, FetcherDied))


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
        until = trio.current_time() + self._patience
        pause = FIRST_PAUSE
        while True:
            try:
                await self._below.fill(order)
            except NebfsError as exc:
                # Spread, so that many readers do not come back all at once.
                wait = exc.retry_after or pause * random.uniform(1.0, 1.5)  # noqa: S311
                late = trio.current_time() + wait >= until
                if late or not order.urgent or not worth_retrying(exc):
                    raise
                self.retries += 1
                log.info("source.retry", after=round(wait, 2), reason=str(exc))
                await trio.sleep(wait)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                return
