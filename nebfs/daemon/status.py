"""What a running daemon says about itself, on the control socket and in .nebfs/status.json."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import nebfs
from nebfs.catalog.snapshot import DatastoreListing, MarketplaceListing
from nebfs.daemon.wiring import House
from nebfs.model import Datastore, Marketplace


class Status:
    """Collects the facts. Cheap enough to be asked once a second."""

    def __init__(self, house: House, mountpoint: Path) -> None:
        self._house = house
        self._mountpoint = mountpoint
        self.started = time.time()

    def facts(self) -> dict[str, object]:
        """Return everything.

        The commands rely on this:

        * ``healthy`` (bool): False as soon as anything that is shown under ``places`` is in
          trouble;
        * ``places``: a list of ``{"kind": "marketplace" | "datastore", "id", "name", "healthy":
          bool, "trouble": text, "objects": int, "age": seconds since its list was taken, or
          null}``;
        * ``trouble`` (text): what is wrong with the whole, such as refused credentials, or empty;
        * ``rates``: ``served`` and ``fetched`` (bytes per second) and ``hit_rate`` (0 to 1, or
          null) over the last seconds, or empty; on the control socket alone;
        * ``callers``: with ``others = "sessions"`` the other users of this machine of whom it is
          known what they may see: a list of ``{"uid", "user": text (in OpenNebula), "age": seconds
          since the front-end said so, "trouble": text}``; else null;
        * ``cache``: ``{"used": bytes, "limit": bytes, "hits": int, "misses": int}`` and more.
        """
        house = self._house
        places = self.places()
        counters = house.operations.counters
        store, memory = house.store.statistics(), house.memory.statistics()
        denied = house.catalog.denied
        snapshot = house.catalog.current
        trouble = denied or (snapshot.trouble if snapshot is not None else "never listed")
        return {
            "version": nebfs.__version__,
            "mountpoint": str(self._mountpoint),
            "source": house.source,
            "pid": os.getpid(),
            "uptime": time.time() - self.started,
            "healthy": not trouble and all(place["healthy"] for place in places),
            "trouble": trouble,
            "as_of": snapshot.taken if snapshot is not None else None,
            "places": places,
            "cache": {
                **asdict(store),
                "directory": str(getattr(house.store, "directory", "")),
                "hits": counters.warm_reads,
                "misses": counters.cold_reads,
                "memory": asdict(memory),
            },
            "fetcher": asdict(house.fetcher.statistics()),
            "reads": {"reads": counters.reads, **asdict(counters)},
            "slow_operations": house.operations.slow.counted,
            "open_files": len(house.operations.handles),
            "open_objects": house.library.open_objects,
            "inodes": len(house.tree.inodes),
            "callers": _callers(house),
        }

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong with the whole, and nothing with any place."""
        snapshot = self._house.catalog.current
        if snapshot is None or snapshot.trouble or self._house.catalog.denied:
            return False
        listings: tuple[MarketplaceListing | DatastoreListing, ...] = (
            *snapshot.marketplaces,
            *snapshot.datastores,
        )
        return not any(one.trouble for one in listings)

    @staticmethod
    def age_of(moment: float) -> float | None:
        """Return how long ago a moment (seconds since the epoch) was; None where it is 0: never."""
        return time.time() - moment if moment else None

    def line(self) -> str:
        """Return in one line what is served, and what is wrong with it."""
        facts = self.facts()
        said = f"{facts['source']} at {facts['mountpoint']}"
        troubles = [str(facts["trouble"])] if facts["trouble"] else []
        troubles += [f"{p['name']}: {p['trouble']}" for p in self.places() if p["trouble"]]
        return f"{said}: {'; '.join(troubles)}"[:500] if troubles else said

    def document(self) -> bytes:
        """Return the facts as .nebfs/status.json shows them."""
        return (json.dumps(self.facts(), indent=2) + "\n").encode()

    def places(self) -> list[dict[str, object]]:
        """Return every marketplace and datastore, and how it is."""
        snapshot = self._house.catalog.current
        if snapshot is None:
            return []
        return [
            _place("marketplace", m.marketplace, m, len(m.offers)) for m in snapshot.marketplaces
        ] + [_place("datastore", d.datastore, d, len(d.holdings)) for d in snapshot.datastores]


def _callers(house: House) -> list[dict[str, object]] | None:
    return None if house.callers is None else [asdict(one) for one in house.callers.facts()]


def _place(
    kind: str,
    place: Marketplace | Datastore,
    listing: MarketplaceListing | DatastoreListing,
    objects: int,
) -> dict[str, object]:
    return {
        "kind": kind,
        "id": place.id,
        "name": place.name,
        "healthy": not listing.trouble,
        "trouble": listing.trouble,
        "objects": objects,
        "age": Status.age_of(listing.as_of),
    }
