"""Marketplaces that nebfs has no driver for: every app is listed, and says why it has no bytes."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from nebfs.errors import Unsupported
from nebfs.marketplaces.record import is_template
from nebfs.model import App, Marketplace, Offer, Trouble


class UnsupportedMarketplace:
    """Stands in for the driver called `name`, which is missing because of `reason`."""

    def __init__(self, name: str, reason: str = "") -> None:
        if name:
            self._reason = f"nebfs has no driver for marketplaces of type {name!r}"
            self._reason += f": {reason}" if reason else ""
        else:
            # OpenNebula may show an app to somebody who may not see its marketplace.
            self._reason = (
                "this user may not see the app's marketplace, so its type is not known; ask for"
                " USE on the marketplace"
            )

    async def offers(
        self,
        marketplace: Marketplace,
        apps: Sequence[App] | None,
    ) -> tuple[Offer, ...]:
        """List `apps`. A template app has no bytes in any marketplace, so it has no trouble."""
        if apps is None:
            raise Unsupported(self._reason, marketplace=marketplace.name)
        missing = Trouble(errno.EOPNOTSUPP, self._reason)
        return tuple(
            Offer(app, trouble=self._trouble(app, missing))
            for app in sorted(apps, key=lambda app: app.id)
        )

    @staticmethod
    def _trouble(app: App, missing: Trouble) -> Trouble | None:
        if app.unreadable:
            return Trouble(errno.EIO, app.unreadable)
        return None if is_template(app) else missing
