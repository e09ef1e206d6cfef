"""What every marketplace driver offers to the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from nebfs.fetcher.messages import Call
from nebfs.model import App, Content, Marketplace, Offer

__all__ = ["Call", "DeferringDriver", "DriverFactory", "MarketplaceDriver"]


class MarketplaceDriver(Protocol):
    """One kind of marketplace (MARKET_MAD). Built with plain values by a DriverFactory."""

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


@runtime_checkable
class DeferringDriver(MarketplaceDriver, Protocol):
    """One whose lists do not say which files an app has. Its offers may be `deferred`."""

    async def contents(self, marketplace: Marketplace, app: App) -> tuple[Content, ...]:
        """Return the files of `app`, whose offer was deferred. Raises NebfsError."""
        ...


class DriverFactory(Protocol):
    """How the registry builds a driver."""

    def __call__(self, *, call: Call, version: str, platform: str) -> MarketplaceDriver:
        """`version` is OpenNebula's own, for the User-Agent; empty without a front-end. `platform`
        is the variant to take where an app has several (OCI: ``linux/amd64``).
        """
        ...
