"""``iscsi_libvirt``: images are logical units of iSCSI targets, as they are.

SOURCE is the target's name, with ``/LUN`` where that is not 0 (libvirt's default, which is no disk
at many targets). ISCSI_HOST (``host[:port]``), ISCSI_USER, ISCSI_USAGE and ISCSI_IQN, which stands
for SOURCE, are the image's own or else the datastore's. As for a VM, CHAP is used where both
ISCSI_USER and ISCSI_USAGE are set; the password is a secret of libvirt's on the hosts, so nebfs has
it from its own file of credentials. OpenNebula does not know the length, and these images are
always persistent.
Source: OpenNebula 7.4, chapter "iSCSI - Libvirt Datastore" of its documentation, and its driver for
KVM (the disk's XML); libvirt's "Domain XML format", disks of type network.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nebfs.datastores.state import listed, trouble_of
from nebfs.fetcher.messages import Call
from nebfs.model import Content, Datastore, Holding, Image, ImageType, Locator, Trouble

TRANSPORT = "iscsi"
PORT = 3260

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
# More than the standard allows: OpenNebula's documentation has iqn.2014.01.192.168.50.61:test:x.
_UNIT = re.compile(r"((?:iqn|eui|naa)\.[!-.0-~]{1,219})(?:/([0-9]{1,5}))?", re.IGNORECASE)
_MAX_LUN = 16383  # what a flat LUN has room for (SAM-5)
_MAX_USER = 255


class IscsiDatastore:
    """Says where the units are; whether they are there is asked when they are listed."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],  # noqa: ARG002 - it has no directories
        call: Call | None = None,  # noqa: ARG002 - nothing is asked
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """See DriverFactory. `settings`: ``initiator``, the name by which targets know us; it may
        be missing.
        """
        self._initiator = str((settings or {}).get("initiator", ""))

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver."""
        return tuple(self._holding(datastore, image) for image in listed(datastore, images))

    def _holding(self, datastore: Datastore, image: Image) -> Holding:
        found = trouble_of(image, datastore) or _located(_Told(image, datastore))
        if isinstance(found, Trouble):
            return Holding(image, trouble=found)
        content = Content(
            Locator(TRANSPORT, found.address, found.options(self._initiator)),
            format="raw",
            media="cdrom" if image.type is ImageType.CDROM else "",
            version=f"{image.regtime}.{image.modtime}",
            # A VM may be started at any moment, and writes to this very unit.
            volatile=True,
        )
        return Holding(image, content)


@dataclass(frozen=True, slots=True)
class _Told:
    """What the image's template says, or else the datastore's."""

    image: Image
    datastore: Datastore

    def get(self, key: str) -> str:
        own = self.image.template.get(key).strip()
        return own or self.datastore.template.get(key).strip()


@dataclass(frozen=True, slots=True)
class _Unit:
    """A unit as the transport wants it; see its iscsi_places.py."""

    address: str
    user: str

    def options(self, initiator: str) -> tuple[tuple[str, str], ...]:
        options = {"user": self.user, "initiator": initiator}
        return tuple((name, text) for name, text in options.items() if text)


def _located(told: _Told) -> Trouble | _Unit:
    """Say where the unit is, or why that is not known, by the text alone."""
    host = told.get("ISCSI_HOST")
    if not host:
        return Trouble(errno.EIO, "neither the image nor its datastore says ISCSI_HOST")
    where = _HOST.fullmatch(host)
    port = int(where[2] or PORT) if where else 0
    if where is None or not 0 < port < 65536:
        return Trouble(errno.EIO, "ISCSI_HOST is not the host, or host:port, of one target")
    unit = _UNIT.fullmatch(told.get("ISCSI_IQN") or told.image.source.strip())
    lun = int(unit[2] or 0) if unit else 0
    if unit is None or lun > _MAX_LUN:
        return Trouble(
            errno.EIO, "OpenNebula's record of the image has no name of an iSCSI target, or no LUN"
        )
    user = told.get("ISCSI_USER") if told.get("ISCSI_USAGE") else ""
    if len(user) > _MAX_USER or not user.isprintable():
        return Trouble(errno.EIO, "ISCSI_USER is not a name that CHAP can have")
    return _Unit(f"iscsi://{where[1]}:{port}/{quote(unit[1], safe=':')}/{lun}", user)
