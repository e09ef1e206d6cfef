"""What one session of OpenNebula may use, as ids: what a mount shows to whoever has that session.

Asked of the front-end by the same lists that a survey asks for. Who may use an object enters its
place, too, as he would in a mount of his own (see homes.py); what is known about the place itself
is for those who may use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nebfs.catalog.lists import Failed, FrontEnd, objects_of
from nebfs.model import App, Datastore, Image, Marketplace, Owned, VirtualMachine

Kind = type[Owned]


@dataclass(frozen=True, slots=True)
class Usable:
    """`used` are the ids of what may be used, by kind. `homes` are the places in which there is
    something of that, or that may be used themselves: id -> the newest REGTIME in it, in seconds.
    `taken` is when the front-end said so, in seconds since the epoch.
    """

    used: Mapping[Kind, frozenset[int]]
    homes: Mapping[Kind, Mapping[int, int]]
    taken: float

    def may_use(self, kind: Kind, number: int) -> bool:
        """Whether the session may use the object, or the place."""
        return number in self.used[kind]

    def may_enter(self, kind: Kind, number: int) -> bool:
        """Whether there is anything for the session in the marketplace or datastore."""
        return number in self.homes[kind]

    def newest(self, kind: Kind, number: int) -> int:
        """Return the newest REGTIME of what the session may use in a place; 0: there is none."""
        return self.homes[kind].get(number, 0)


async def usable_by(
    front_end: FrontEnd, before: Usable | None, *, machines: bool, now: float
) -> Usable:
    """Ask `front_end` what its session may use. Raises what it raises.

    While it does not tell its VMs, those that it told `before` stay.
    """
    lists = await objects_of(front_end, machines=machines)
    markets = dict.fromkeys((place.id for place in lists.marketplaces), 0)
    stores = dict.fromkeys((place.id for place in lists.datastores), 0)
    for app in lists.apps:
        markets[app.marketplace_id] = max(markets.get(app.marketplace_id, 0), app.regtime)
    for image in lists.images:
        stores[image.datastore_id] = max(stores.get(image.datastore_id, 0), image.regtime)
    if isinstance(lists.machines, Failed):
        parked = before.used[VirtualMachine] if before is not None else frozenset()
    else:
        parked = _ids(lists.machines)
        for machine in lists.machines:
            stores.setdefault(machine.datastore_id, 0)
    return Usable(
        used={
            Marketplace: _ids(lists.marketplaces),
            App: _ids(lists.apps),
            Datastore: _ids(lists.datastores),
            Image: _ids(lists.images),
            VirtualMachine: parked,
        },
        homes={Marketplace: markets, Datastore: stores},
        taken=now,
    )


def _ids(items: Iterable[Owned]) -> frozenset[int]:
    return frozenset(item.id for item in items)
