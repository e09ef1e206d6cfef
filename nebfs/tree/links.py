"""Where things are that are named elsewhere: apps by other apps, and the space of datastores."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nebfs.catalog.snapshot import CloudSnapshot
from nebfs.model import App, Datastore, Owned
from nebfs.tree import places
from nebfs.tree.names import encode
from nebfs.tree.nodes import MarketplaceDirectory, Node
from nebfs.units import MIB


def everything(_: Owned) -> bool:
    """Say that somebody may use it."""
    return True


def path_to(
    app: App,
    name: str,
    snapshot: CloudSnapshot | None,
    marketplaces: Iterable[Node],
    usable: Callable[[Owned], bool] = everything,
) -> str:
    """Return the path from `app`'s directory to the app called `name`.

    As OpenNebula's own tools do, over all marketplaces and what is `usable` there, and the newest
    where names repeat; the app's own marketplace comes first. A name that nobody has gives a
    dangling link.
    """
    best: App | None = None
    for listing in snapshot.marketplaces if snapshot is not None else ():
        for offer in listing.offers:
            other = offer.app
            if (
                other.name == name
                and usable(other)
                and (
                    best is None
                    or (other.marketplace_id == app.marketplace_id, other.id)
                    > (best.marketplace_id == app.marketplace_id, best.id)
                )
            ):
                best = other
    for place in marketplaces if best is not None else ():
        if (
            best is not None
            and isinstance(place, MarketplaceDirectory)
            and place.listing.marketplace.id == best.marketplace_id
        ):
            called = places.names_by_id(place)[best.id]
            same = best.marketplace_id == app.marketplace_id
            return f"../{called}" if same else f"../../{place.name}/{called}"
    return f"../{encode(name)}"


def capacity(
    snapshot: CloudSnapshot | None,
    store: int | None,
    usable: Callable[[Owned], bool] = everything,
) -> tuple[int, int]:
    """Return the bytes that the datastore with the id `store` can hold, and those that are free; of
    all datastores that are `usable` together where there is none.
    """
    listed = [x.datastore for x in snapshot.datastores] if snapshot is not None else []
    listed = [one for one in listed if usable(one)]
    if store is not None:
        listed = [d for d in listed if d.id == store] or listed
    # Numbers below zero are damage, and nothing that df could show.
    total = sum(max(d.total_mb, 0) for d in listed)
    return total * MIB, min(sum(map(_free, listed)), total) * MIB


def _free(store: Datastore) -> int:
    """Return the MiB that may still be stored: an administrator may have set a limit."""
    limit = store.template.get("LIMIT_MB").strip()
    if not limit.isdecimal():
        return max(store.free_mb, 0)
    return max(min(store.free_mb, int(limit[:18]) - store.used_mb), 0)
