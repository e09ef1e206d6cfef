"""The directories of marketplaces and datastores, made from their listings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing, MarketplaceListing
from nebfs.content.formats import claimed
from nebfs.model import Holding, ImageType
from nebfs.tree import attributes
from nebfs.tree.names import distinct, encode, with_extension
from nebfs.tree.nodes import (
    SOON,
    AppDirectory,
    ContentFile,
    DatastoreDirectory,
    MarketplaceDirectory,
    Node,
)

_FILES = {ImageType.KERNEL, ImageType.RAMDISK, ImageType.CONTEXT}
"""What a files datastore holds are plain files, not disks: no format is put behind their names."""


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
    names = distinct((i, encode(offer.app.name), "") for i, offer in offers.items())
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


def images(listing: DatastoreListing) -> dict[str, Node]:
    """Return the image files of a datastore, by name."""
    holdings = {holding.image.id: holding for holding in listing.holdings}
    names = distinct((i, *_image_name(holding)) for i, holding in holdings.items())
    return {
        names[i]: _image(holding, names[i])
        for i, holding in sorted(holdings.items(), key=lambda item: names[item[0]])
    }


def _image_name(holding: Holding) -> tuple[str, str]:
    image = holding.image
    stem = encode(image.name)
    if image.type in _FILES:
        return stem, ""
    media = "cdrom" if image.type is ImageType.CDROM else ""
    return with_extension(stem, claimed(image.format, media).extension)


def _image(holding: Holding, name: str) -> ContentFile:
    image, content = holding.image, holding.content
    revision = content.revision if content is not None else None
    written = int(revision.modified) / 1e9 if revision is not None and revision.modified else 0.0
    return ContentFile(
        name=name,
        key=("image", image.id, revision),
        content=content,
        revision=revision,
        trouble=holding.trouble,
        mtime=written or float(image.modtime or image.regtime),
        timeout=SOON if holding.trouble is not None else 300.0,
        attributes=partial(attributes.of_image, image),
    )
