"""Datastores that nebfs has no driver for: every image is listed, and says why it has no bytes."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from nebfs.datastores.state import listed
from nebfs.model import Datastore, Holding, Image, Trouble

_NOTHING_BEHIND = {
    "dummy": "have nothing behind them: OpenNebula is tested with them, and writes no bytes",
    "interactive": (
        "keep no bytes: a backup product took them from the hypervisor, and only it has them"
    ),
}
"""What nobody can read, with any driver."""


class UnsupportedDatastore:
    """Stands in for the driver called `name`, which is missing because of `reason`."""

    def __init__(self, name: str, reason: str = "") -> None:
        if name in _NOTHING_BEHIND:
            self._reason = f"datastores of type {name!r} {_NOTHING_BEHIND[name]}"
        elif name:
            self._reason = f"nebfs has no driver for datastores of type {name!r}"
            told = "where its images are can be said in [datastores.mappings]"
            self._reason += f": {reason}" if reason else f"; {told}"
        else:
            # OpenNebula may show an image to somebody who may not see its datastore.
            self._reason = (
                "this user may not see the image's datastore, so its type is not known; ask for"
                " USE on the datastore"
            )

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver."""
        missing = Trouble(errno.EOPNOTSUPP, self._reason)
        return tuple(
            Holding(
                image,
                trouble=Trouble(errno.EIO, image.unreadable) if image.unreadable else missing,
            )
            for image in listed(datastore, images)
        )
