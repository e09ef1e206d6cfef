"""Every app in a marketplace, every image in a datastore: also those whose place is not shown.

OpenNebula may show an app to somebody who may not see its marketplace. Such an object carries its
place's id and name itself; a place made of those, without a driver, gives it a directory.
"""

from __future__ import annotations

from collections.abc import Sequence

from nebfs.marketplaces import numbered
from nebfs.model import (
    App,
    Datastore,
    Image,
    Marketplace,
    Permissions,
    Template,
    kind_and_url,
    without_credentials,
)

_READABLE = Permissions(4, 4, 4)


def apps_by_marketplace(
    marketplaces: Sequence[Marketplace], apps: Sequence[App]
) -> list[tuple[Marketplace, list[App]]]:
    """Return each marketplace with its apps, by ascending id of the marketplace."""
    homes = {one.id: one for one in marketplaces}
    members: dict[int, list[App]] = {number: [] for number in homes}
    names: dict[int, str] = {}
    for app in apps:
        members.setdefault(app.marketplace_id, []).append(app)
        if app.marketplace:
            names.setdefault(app.marketplace_id, app.marketplace)
    for number in members.keys() - homes.keys():
        name = names.get(number) or _nameless("marketplace", number)
        homes[number] = Marketplace(number, name, permissions=_READABLE)
    return [(homes[number], members[number]) for number in sorted(homes)]


def images_by_datastore(
    datastores: Sequence[Datastore], images: Sequence[Image]
) -> list[tuple[Datastore, list[Image]]]:
    """Return each datastore with its images, by ascending id of the datastore."""
    homes = {one.id: one for one in datastores}
    members: dict[int, list[Image]] = {number: [] for number in homes}
    names: dict[int, str] = {}
    for image in images:
        members.setdefault(image.datastore_id, []).append(image)
        if image.datastore:
            names.setdefault(image.datastore_id, image.datastore)
    for number in members.keys() - homes.keys():
        name = names.get(number) or _nameless("datastore", number)
        homes[number] = Datastore(number, name, permissions=_READABLE)
    return [(homes[number], members[number]) for number in sorted(homes)]


def marketplaces_at(urls: Sequence[str]) -> tuple[Marketplace, ...]:
    """Return a marketplace for each address; for a mount without a front-end.

    An address alone is of type ``one``; ``linuxcontainers+https://...`` says another one.
    """
    endpoints = {url.rstrip("/"): None for url in urls}
    found = [_marketplace_at(url, number) for url, number in numbered(endpoints).items()]
    return tuple(sorted(found, key=lambda marketplace: marketplace.id))


def _marketplace_at(url: str, number: int) -> Marketplace:
    kind, endpoint = kind_and_url(url)
    # A URL's scheme has no underscores, and OpenNebula's names have no hyphens.
    driver = kind.lower().replace("-", "_") or "one"
    where = "BASE_URL" if driver == "docker_registry" else "ENDPOINT"
    return Marketplace(
        number,
        without_credentials(endpoint).partition("://")[2],
        permissions=_READABLE,
        driver=driver,
        template=Template(((where, endpoint), ("MARKET_MAD", driver))),
    )


def _nameless(kind: str, number: int) -> str:
    return f"{kind} {number}" if number >= 0 else f"unknown {kind}"
