"""Datastores that nebfs has no driver for: every image is listed, and says why it has no bytes."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from nebfs.datastores.state import listed
from nebfs.model import Datastore, Holding, Image, Trouble


class UnsupportedDatastore:
    """Stands in for the driver called `name`, which is missing because of `reason`."""

    def __init__(self, name: str, reason: str = "") -> None:
        if name:
            self._reason = f"nebfs has no driver for datastores of type {name!r}"
            self._reason += f": {reason}" if reason else ""
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
