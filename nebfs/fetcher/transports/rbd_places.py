"""What a locator of the transport ``rbd`` says: which image, and how its cluster is entered.

The address is ``rbd://CLUSTER/POOL/IMAGE[@SNAPSHOT]``, each part percent-encoded, so that ``/`` and
``@`` only separate. CLUSTER is the cluster's id (fsid) once that is known: whatever name its
monitors have, it is the same place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from urllib.parse import unquote, urlsplit

from nebfs.errors import Unsupported

FSID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Door:
    """How a cluster is entered. Everything may be empty: Ceph's own defaults are then used."""

    conf: str = ""
    """Path of a ceph.conf."""
    keyring: str = ""
    """Path of the file with the user's key; librados alone reads it."""
    user: str = ""
    """Without ``client.``."""
    monitors: str = ""
    """Addresses for a ceph.conf that has none, separated by spaces or commas."""

    @classmethod
    def of(cls, options: Mapping[str, object]) -> Door:
        """Read the options of a locator, or of a question. Raises Unsupported."""
        told = {field.name: options.get(field.name, "") for field in fields(cls)}
        for name, value in told.items():
            if not isinstance(value, str) or not value.isprintable():
                raise Unsupported("an option for the cluster cannot be used", option=name)
        return cls(**told)  # type: ignore[arg-type]  # each is text, as was just looked at

    @property
    def who(self) -> str:
        """The user as Ceph calls it."""
        return f"client.{self.user or 'admin'}"


@dataclass(frozen=True, slots=True)
class Place:
    """A pool, or an image in it, or a snapshot of that."""

    cluster: str
    pool: str
    image: str = ""
    snapshot: str = ""

    @classmethod
    def at(cls, address: str) -> Place:
        """Read an address. Raises Unsupported."""
        try:
            parts = urlsplit(address)
        except ValueError as exc:
            raise Unsupported("that is no address of an RBD image") from exc
        pool, _, rest = parts.path.removeprefix("/").partition("/")
        image, _, snapshot = rest.partition("@")
        if parts.scheme != "rbd" or not pool or "/" in rest:
            raise Unsupported("that is no address of an RBD image")
        return cls(parts.netloc, unquote(pool), unquote(image), unquote(snapshot))

    @property
    def shown(self) -> str:
        """The place in the words of the command ``rbd``."""
        image = f"{self.pool}/{self.image}" if self.image else self.pool
        return f"{image}@{self.snapshot}" if self.snapshot else image
