"""What exists, at one moment: the only thing that the tree reads.

A snapshot is whole: a place that failed is in it with its last good listing, or with the reason why
there is none. "Not in the snapshot" therefore means "not there, or not for this user".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nebfs.model import Datastore, Holding, Marketplace, Offer, Parked, User, Zone

MARKETPLACE: Final = "marketplace"
DATASTORE: Final = "datastore"

Place = tuple[str, int]
"""MARKETPLACE or DATASTORE, and its id."""


@dataclass(frozen=True, slots=True)
class MarketplaceListing:
    """A marketplace and its apps, by ascending id.

    `as_of` is when the place last answered, in seconds since the epoch; 0.0: never. `trouble` says
    what is wrong with the place now, in words; empty: nothing.
    """

    marketplace: Marketplace
    offers: tuple[Offer, ...] = ()
    as_of: float = 0.0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class DatastoreListing:
    """A datastore and its images, by ascending id. `as_of`, `trouble`: see MarketplaceListing.
    `parked` are the VMs at rest whose disks a system datastore has, if they are to be shown.
    """

    datastore: Datastore
    holdings: tuple[Holding, ...] = ()
    as_of: float = 0.0
    trouble: str = ""
    parked: tuple[Parked, ...] = ()


@dataclass(frozen=True, slots=True)
class CloudSnapshot:
    """Everything that a mount shows, as `source` (an address without credentials) told it.

    `taken` is when the survey of all ended, in seconds since the epoch; a place may have been asked
    by itself since, and its own date tells that. `trouble` says why there is no
    newer snapshot than this one; empty while there is nothing wrong. Without a front-end `version`
    is empty and `user` None. Places are in ascending order of their ids.
    """

    source: str
    taken: float
    version: str = ""
    user: User | None = None
    zones: tuple[Zone, ...] = ()
    marketplaces: tuple[MarketplaceListing, ...] = ()
    datastores: tuple[DatastoreListing, ...] = ()
    trouble: str = ""
