"""Where redirects led to: asked directly for a while, and found out by one request for all.

Object stores sign the addresses that they redirect to, and a signature expires for everybody at
once: of the requests that notice it, one asks the first place again, and the others wait for where
it is led to. A place that redirects is often the one that counts (a registry limits how often).
"""

from __future__ import annotations

import asyncio

from cachetools import TTLCache

from nebfs.fetcher.transports.http_connections import Target
from nebfs.model import Locator

REMEMBERED = 1024
REMEMBERED_SECONDS = 300
"""For how many locators, and how long, the end of a redirect is asked directly: shorter than the
signed addresses of object stores live (15 minutes and more)."""

STALE = frozenset((401, 403, 404, 410))
"""What a place answers when the address that a redirect led to does not hold any more."""

Turn = asyncio.Future[None]
"""Is to be done when whoever asks for all has been led somewhere, or has failed."""


class Redirects:
    """What is known of the redirects of each locator."""

    def __init__(self) -> None:
        self._led: TTLCache[Locator, Target] = TTLCache(REMEMBERED, REMEMBERED_SECONDS)
        self._turns: dict[Locator, Turn] = {}

    def known(self, locator: Locator) -> Target | None:
        """Return where `locator` led to lately, or None."""
        return self._led.get(locator)

    def led(self, locator: Locator, target: Target, turn: Turn | None = None) -> None:
        """Remember that `locator` leads to `target`; whoever waits for that `turn` goes there."""
        self._led[locator] = target
        self.end(locator, turn)

    async def again(self, locator: Locator, stale: Target) -> tuple[Target | None, Turn | None]:
        """After `stale` has failed: return where another request was led to, or whose turn it is.

        With a turn, the caller asks the first place for all, and must `end` it. With neither, the
        one who did has failed: each finds out for itself why. Nobody waits longer than that one
        request takes until its answer begins.
        """
        while (known := self._led.get(locator)) is None or known is stale:
            self._led.pop(locator, None)
            turn = self._turns.get(locator)
            if turn is None:
                turn = self._turns[locator] = asyncio.get_running_loop().create_future()
                return None, turn
            await asyncio.wait([turn])
            if not turn.cancelled() and self._led.get(locator) is None:
                return None, None
        return known, None

    def end(self, locator: Locator, turn: Turn | None, *, given_up: bool = False) -> None:
        """End a turn, if there is one. When it was `given_up`, another one who waits takes it."""
        if turn is None or turn.done():
            return
        del self._turns[locator]
        if given_up:
            turn.cancel()
        else:
            turn.set_result(None)
