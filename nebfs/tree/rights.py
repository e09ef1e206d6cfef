"""What other users of this machine may open, where the permissions of OpenNebula are to decide.

An app, an image or a VM's disks belong to somebody in OpenNebula, and have USE bits for owner,
group and others. They are shown as the owner, the group and the mode of everything that is below
its name, and the kernel checks them (default_permissions). Who OpenNebula's users and groups are
on this machine is told by a table; whoever it does not name is nobody here.

Two differences are accounted for. In OpenNebula whoever may do something as "other" may do it as
owner and as group, too; the kernel looks at one class alone. And an owner or group who is nobody
here is replaced by who mounts, who sees everything anyway, and by its group, whose members are
only others to OpenNebula. Rights by OpenNebula's ACL rules do not fit into a mode: they are not
there for other users. Names, lengths and dates are seen by everybody: a directory has one listing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from nebfs.catalog.snapshot import CloudSnapshot
from nebfs.model import App, Image, Owned, VirtualMachine
from nebfs.tree.nodes import Node, StatusDocument

Key = tuple[type[Owned], int]

USE = 4
"""The bit of ``oneimage chmod`` that reading takes."""

OWNER, GROUP, OTHER = 0o700, 0o070, 0o007


@dataclass(frozen=True, slots=True)
class Shown:
    """Whose something is on this machine, and the classes of its mode that may have any bits."""

    uid: int
    gid: int
    mask: int


class Rights:
    """The rights of the newest snapshot, by object."""

    def __init__(
        self, uids: Mapping[str, int], gids: Mapping[str, int], owner: tuple[int, int]
    ) -> None:
        """`uids` and `gids` by OpenNebula's names; `owner` is uid and gid of who mounts."""
        self._uids = uids
        self._gids = gids
        self._everybody = Shown(*owner, OWNER | GROUP | OTHER)
        self._nobody = Shown(*owner, OWNER)
        self._shown: dict[Key, Shown] = {}

    def take(self, snapshot: CloudSnapshot) -> frozenset[Key]:
        """Take up a new snapshot; return the objects whose rights are different now."""
        before, self._shown = self._shown, {key_of(x): self._of(x) for x in _objects(snapshot)}
        return frozenset(
            key
            for key in before.keys() | self._shown.keys()
            if before.get(key) != self._shown.get(key)
        )

    def of(self, node: Node) -> Shown:
        """Return what is shown of a node's rights. What is gone is nobody's."""
        key = object_of(node)
        if key is None:
            return self._nobody if isinstance(node, StatusDocument) else self._everybody
        return self._shown.get(key, self._nobody)

    def _of(self, item: Owned) -> Shown:
        uid, gid = self._uids.get(item.uname), self._gids.get(item.gname)
        bits = item.permissions
        others = bool(bits.other & USE)
        mask = OTHER if others else 0
        if others or (gid is not None and bits.group & USE):
            mask |= GROUP
        # Who mounts is shown what OpenNebula shows to him, whatever the owner may.
        if others or uid is None or bits.owner & USE:
            mask |= OWNER
        return Shown(
            self._nobody.uid if uid is None else uid, self._nobody.gid if gid is None else gid, mask
        )


def item_of(node: Node) -> Owned | None:
    """Return which object or place a node shows, or is a part of; None: no such thing.

    Attributes are made of the object itself (see attributes.py), by every file that makes nodes.
    What is inside a directory of a host has none, and is behind a directory that has.
    """
    made = node.attributes
    if isinstance(made, partial) and made.args and isinstance(made.args[0], Owned):
        return made.args[0]
    return None


def object_of(node: Node) -> Key | None:
    """Return which app, image or VM a node shows, or is a part of; None: no such thing."""
    item = item_of(node)
    return key_of(item) if isinstance(item, RESTRICTED) else None


def key_of(item: Owned) -> Key:
    """Return what tells an object from all others."""
    return type(item), item.id


RESTRICTED = (App, Image, VirtualMachine)


def _objects(snapshot: CloudSnapshot) -> Iterator[Owned]:
    for market in snapshot.marketplaces:
        for offer in market.offers:
            yield offer.app
    for store in snapshot.datastores:
        for holding in store.holdings:
            yield holding.image
        for parked in store.parked:
            yield parked.machine
