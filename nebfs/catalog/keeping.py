"""What stays of a place that does not answer: all that the last good listing still says truly.

The front-end did answer, so its list of objects is new, and so are their states and who may see
them: an object that is gone from it, or was disabled since, must not live on in an old listing.
Only where the bytes are is taken from the old one, for objects whose record is still the same.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import replace

from nebfs.datastores.state import listed
from nebfs.datastores.state import trouble_of as trouble_of_image
from nebfs.marketplaces.record import is_template, withheld
from nebfs.model import (
    App,
    Datastore,
    Holding,
    Image,
    Offer,
    Parked,
    Part,
    Trouble,
    VirtualMachine,
)


def kept_offers(
    apps: Sequence[App] | None, before: Iterable[Offer], reason: str
) -> tuple[Offer, ...]:
    """Return offers for `apps` (None: there is no front-end) while their marketplace is away."""
    if apps is None:
        return tuple(before)
    known = {offer.app.id: offer for offer in before}
    missing = Trouble(errno.EIO, f"its marketplace does not answer: {reason}")
    return tuple(
        _kept_offer(app, known.get(app.id), missing) for app in sorted(apps, key=lambda app: app.id)
    )


def _kept_offer(app: App, old: Offer | None, missing: Trouble) -> Offer:
    same = old is not None and _about_bytes(old.app) == _about_bytes(app)
    published = old.published if old is not None and same else ""
    trouble = withheld(app)
    if trouble is not None or is_template(app):
        return Offer(app, trouble=trouble, published=published)
    if old is not None and same and (old.contents or old.deferred):
        return replace(old, app=app, trouble=None)
    return Offer(app, trouble=missing, published=published)


def _about_bytes(app: App) -> tuple[object, ...]:
    return (
        app.type,
        app.source,
        app.md5,
        app.version,
        app.format,
        app.app_template,
        app.unreadable,
    )


def kept_holdings(
    datastore: Datastore, images: Sequence[Image], before: Iterable[Holding], reason: str
) -> tuple[Holding, ...]:
    """Return holdings for `images` while their datastore is away."""
    known = {holding.image.id: holding for holding in before}
    missing = Trouble(errno.EIO, f"its datastore does not answer: {reason}")
    return tuple(
        _kept_holding(image, datastore, known.get(image.id), missing)
        for image in listed(datastore, images)
    )


def _kept_holding(
    image: Image, datastore: Datastore, old: Holding | None, missing: Trouble
) -> Holding:
    trouble = trouble_of_image(image, datastore)
    if trouble is not None:
        return Holding(image, trouble=trouble)
    if old is not None and old.trouble is None and _about_file(old.image) == _about_file(image):
        return replace(old, image=image)
    return Holding(image, trouble=missing)


def _about_file(image: Image) -> tuple[object, ...]:
    return (
        image.type,
        image.source,
        image.format,
        image.regtime,
        image.modtime,
        image.snapshots,
        image.current_base,
        image.next_snapshot,
        image.increments,
    )


def kept_parked(
    machines: Sequence[VirtualMachine] | None, before: Iterable[Parked], reason: str
) -> tuple[Parked, ...]:
    """Return the disks of `machines` (None: the front-end does not tell which are at rest) while
    their datastore is away.
    """
    if machines is None:
        return tuple(before)
    known = {parked.machine.id: parked for parked in before}
    missing = Trouble(errno.EIO, f"its datastore does not answer: {reason}")
    return tuple(
        old
        if (old := known.get(machine.id)) is not None and old.machine == machine
        else Parked(machine, tuple(Part(f"disk.{d.id}", trouble=missing) for d in machine.disks))
        for machine in sorted(machines, key=lambda machine: machine.id)
    )
