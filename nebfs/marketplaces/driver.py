"""What every marketplace driver offers to the catalog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from nebfs.fetcher.messages import CallAnswer, CallRequest
from nebfs.model import App, Marketplace, Offer

Call = Callable[[CallRequest], Awaitable[CallAnswer]]
"""Sends one request of the control plane (``Fetcher.call``)."""


class MarketplaceDriver(Protocol):
    """One kind of marketplace (MARKET_MAD). Built with plain values: `call` and `version`."""

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """Return one offer for each of `apps`, by ascending id: where its bytes are, or why not.

        `apps` are what the front-end lists in this marketplace; None where there is no front-end,
        and then the driver lists by itself or raises Unsupported. One bad app is that app's
        trouble. Raises Unreachable, BadAnswer, Refused, Missing or FetcherDied when the
        marketplace itself fails: then nothing is known, which never means that nothing is there.
        """
        ...


class DriverFactory(Protocol):
    """How the registry builds a driver."""

    def __call__(self, *, call: Call, version: str) -> MarketplaceDriver:
        """`version` is OpenNebula's own, for the User-Agent; empty without a front-end."""
        ...
