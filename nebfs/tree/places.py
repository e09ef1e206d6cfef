"""The directories of marketplaces and datastores, and of apps, made from their listings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nebfs.catalog.snapshot import CloudSnapshot, MarketplaceListing
from nebfs.tree import attributes, images
from nebfs.tree.names import distinct, encode
from nebfs.tree.nodes import (
    AppDirectory,
    DatastoreDirectory,
    Directory,
    MarketplaceDirectory,
    Node,
)


def marketplaces(snapshot: CloudSnapshot) -> dict[str, MarketplaceDirectory]:
    """Return a directory for each marketplace, by name."""
    listings = {listing.marketplace.id: listing for listing in snapshot.marketplaces}
    names = distinct((i, encode(listing.marketplace.name), "") for i, listing in listings.items())
    return {
        names[i]: MarketplaceDirectory(
            name=names[i],
            key=("marketplace", i),
            listing=listing,
            mtime=_newest([offer.app.regtime for offer in listing.offers]),
            attributes=partial(attributes.of_marketplace, listing.marketplace),
        )
        for i, listing in sorted(listings.items())
    }


def datastores(snapshot: CloudSnapshot) -> dict[str, DatastoreDirectory]:
    """Return a directory for each datastore, by name."""
    listings = {listing.datastore.id: listing for listing in snapshot.datastores}
    names = distinct((i, encode(listing.datastore.name), "") for i, listing in listings.items())
    return {
        names[i]: DatastoreDirectory(
            name=names[i],
            key=("datastore", i),
            listing=listing,
            mtime=_newest([holding.image.regtime for holding in listing.holdings]),
            attributes=partial(attributes.of_datastore, listing.datastore),
        )
        for i, listing in sorted(listings.items())
    }


def _newest(times: Sequence[int]) -> float:
    return float(max(times, default=0))


def apps(listing: MarketplaceListing) -> dict[str, Node]:
    """Return the app directories of a marketplace, by name."""
    offers = {offer.app.id: offer for offer in listing.offers}
    names = _app_names(listing)
    return {
        names[i]: AppDirectory(
            name=names[i],
            key=("app", i),
            offer=offer,
            mtime=float(offer.app.regtime),
            attributes=partial(attributes.of_app, offer.app),
        )
        for i, offer in sorted(offers.items(), key=lambda item: names[item[0]])
    }


def names_by_id(place: Directory) -> dict[int, str]:
    """Return what each app or image is called in the directory of its place, by id."""
    match place:
        case MarketplaceDirectory():
            return _app_names(place.listing)
        case DatastoreDirectory():
            return images.names(place.listing)
    return {}


def _app_names(listing: MarketplaceListing) -> dict[int, str]:
    return distinct((offer.app.id, encode(offer.app.name), "") for offer in listing.offers)
