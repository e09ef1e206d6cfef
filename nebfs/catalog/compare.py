"""What is different between two snapshots. When they were taken is no difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nebfs.catalog.snapshot import (
    DATASTORE,
    MARKETPLACE,
    CloudSnapshot,
    DatastoreListing,
    MarketplaceListing,
    Place,
)


@dataclass(frozen=True, slots=True)
class Changes:
    """Apps, images or VMs of one place that came, went, or are not what they were: their ids and
    names, by ascending id.
    """

    added: tuple[tuple[int, str], ...] = ()
    removed: tuple[tuple[int, str], ...] = ()
    changed: tuple[tuple[int, str], ...] = ()


def differs(old: CloudSnapshot | None, new: CloudSnapshot) -> bool:
    """Whether anything but times has changed. Thousands of apps take milliseconds: use a thread."""
    if old is None:
        return True
    without_places = replace(old, marketplaces=(), datastores=(), taken=0.0) != replace(
        new, marketplaces=(), datastores=(), taken=0.0
    )
    return without_places or bool(changed_places(old, new))


def changed_places(old: CloudSnapshot | None, new: CloudSnapshot) -> frozenset[Place]:
    """Return the places whose listings differ, with those that have come or gone.

    A place's own record counts: its capacity, for one, is what ``df`` shows.
    """
    before = _places(old) if old is not None else {}
    after = _places(new)
    return frozenset(
        place for place in before.keys() | after.keys() if before.get(place) != after.get(place)
    )


def changes(old: CloudSnapshot | None, new: CloudSnapshot) -> dict[Place, Changes]:
    """Return what is different in the listings of `new`, place by place, and in those that are gone
    since `old`.
    """
    before = _places(old) if old is not None else {}
    after = _places(new)
    return {
        place: _between(_objects(before.get(place)), _objects(after.get(place)))
        for place in before.keys() | after.keys()
    }


def _between(
    old: Mapping[int, tuple[str, object]], new: Mapping[int, tuple[str, object]]
) -> Changes:
    return Changes(
        added=tuple((n, new[n][0]) for n in sorted(new.keys() - old.keys())),
        removed=tuple((n, old[n][0]) for n in sorted(old.keys() - new.keys())),
        changed=tuple((n, new[n][0]) for n in sorted(new.keys() & old.keys()) if old[n] != new[n]),
    )


def _objects(
    listing: MarketplaceListing | DatastoreListing | None,
) -> dict[int, tuple[str, object]]:
    """Return the name of each object of a listing and all that is known of it, by its id. A system
    datastore has VMs, and no images.
    """
    match listing:
        case MarketplaceListing():
            return {one.app.id: (one.app.name, one) for one in listing.offers}
        case DatastoreListing(parked=()):
            return {one.image.id: (one.image.name, one) for one in listing.holdings}
        case DatastoreListing():
            return {one.machine.id: (one.machine.name, one) for one in listing.parked}
        case _:
            return {}


def _places(snapshot: CloudSnapshot) -> dict[Place, MarketplaceListing | DatastoreListing]:
    places: dict[Place, MarketplaceListing | DatastoreListing] = {
        (MARKETPLACE, m.marketplace.id): replace(m, as_of=0.0) for m in snapshot.marketplaces
    }
    places.update({(DATASTORE, d.datastore.id): replace(d, as_of=0.0) for d in snapshot.datastores})
    return places
