"""``http``: a private marketplace, a directory of hashed names behind a plain web server.

OpenNebula's database is the only index, so SOURCE is used as it was recorded even when BASE_URL
was changed since (files that were published before stay where they were).
Source: OpenNebula's marketplace driver of this name (7.4).
"""

from __future__ import annotations

from collections.abc import Sequence

from nebfs.errors import Unsupported
from nebfs.marketplaces.driver import Call
from nebfs.marketplaces.record import is_template, recorded_content, trouble_of
from nebfs.model import App, Marketplace, Offer


class HttpMarketplace:
    """Offers each app's SOURCE. It asks nobody: what there is to know is in the app's record."""

    def __init__(self, *, call: Call, version: str, platform: str = "") -> None:
        """They are every driver's; this one needs none."""

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """See MarketplaceDriver. Raises Unsupported without a front-end."""
        if apps is None:
            raise Unsupported(
                "a marketplace of type 'http' has no list of its own: mount it through OpenNebula",
                marketplace=marketplace.name,
            )
        return tuple(offer_of(app) for app in sorted(apps, key=lambda app: app.id))


def offer_of(app: App) -> Offer:
    """Return the app with what its record alone says."""
    trouble = trouble_of(app)
    if trouble is not None or is_template(app):
        return Offer(app, trouble=trouble)
    return Offer(app, (recorded_content(app),))
