"""What is different between two snapshots. When they were taken is no difference."""

from __future__ import annotations

from dataclasses import replace

from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing, MarketplaceListing

Place = tuple[str, int]
"""``marketplace`` or ``datastore``, and its id."""


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


def _places(snapshot: CloudSnapshot) -> dict[Place, MarketplaceListing | DatastoreListing]:
    places: dict[Place, MarketplaceListing | DatastoreListing] = {
        ("marketplace", m.marketplace.id): replace(m, as_of=0.0) for m in snapshot.marketplaces
    }
    places.update(
        {("datastore", d.datastore.id): replace(d, as_of=0.0) for d in snapshot.datastores}
    )
    return places
