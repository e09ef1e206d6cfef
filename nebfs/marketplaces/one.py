"""``one``: the appliance service of OpenNebula's public marketplace, and private ones like it.

OpenNebula records only an appliance's first file and its MD5. The service's JSON also knows the
SHA-256, the exact virtual size and the other files, so the two are joined by IMPORT_ID.
Source: the appmarket server, and OpenNebula's marketplace driver of this name (7.4).
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import structlog

from nebfs.marketplaces.answers import decoded, document, endpoint_of
from nebfs.marketplaces.appliance_app import NO_VERSION, app_of
from nebfs.marketplaces.appliances import Appliance, ApplianceFile, read_catalogue
from nebfs.marketplaces.driver import Call
from nebfs.marketplaces.http import offer_of
from nebfs.marketplaces.identity import numbered
from nebfs.marketplaces.record import media_named
from nebfs.model import App, Content, Locator, Marketplace, Offer, Trouble
from nebfs.units import MIB

log = structlog.get_logger()

DEFAULT_ENDPOINT = "https://marketplace.opennebula.io/"

# The public catalogue is about 1 MB: this leaves room for a much larger one, and bounds memory.
_MAX_CATALOGUE = 64 * MIB
_APPLIANCE_IN_URL = re.compile(r"/appliance/([^/?#]+)(?:/download(?:/\d*)?)?/*$")
_NOT_FOR_A_HEADER = re.compile(r"[^0-9A-Za-z._+-]+")


class OneMarketplace:
    """Asks the service for its catalogue, which is one request, and joins it with the apps."""

    def __init__(
        self,
        *,
        call: Call,
        version: str,
        platform: str = "",  # noqa: ARG002 - of every driver
    ) -> None:
        """`version`: the service chooses the catalogue by it; without one it takes the newest."""
        self._call = call
        shown = _NOT_FOR_A_HEADER.sub("", version)
        # Also without a version: the service takes who is not OpenNebula for a browser.
        self._agent = f"OpenNebula {shown} (nebfs)" if shown else "OpenNebula (nebfs)"

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """See MarketplaceDriver. Raises Unsupported when ENDPOINT is not an HTTP address."""
        endpoint = endpoint_of(marketplace, DEFAULT_ENDPOINT).rstrip("/")
        body = await self._catalogue(endpoint)
        return await decoded(_joined, body, endpoint, marketplace, apps)

    async def _catalogue(self, endpoint: str) -> bytes:
        # The list says "no-store" and has no validators: there is nothing to ask conditionally by.
        return await document(
            self._call,
            f"{endpoint}/appliance",
            accept="application/json",
            max_body=_MAX_CATALOGUE,
            agent=self._agent,
            what="catalogue",
        )


def _joined(
    body: bytes, endpoint: str, marketplace: Marketplace, apps: Sequence[App] | None
) -> tuple[Offer, ...]:
    appliances = {appliance.id: appliance for appliance in read_catalogue(body)}
    if apps is None:
        numbers = numbered(appliances)
        apps = [
            app_of(one, numbers[one.id], marketplace, _download(endpoint, one.id, 0))
            for one in appliances.values()
        ]
    return tuple(
        _offer(app, appliances.get(_import_id(app)), endpoint)
        for app in sorted(apps, key=lambda app: app.id)
    )


def _import_id(app: App) -> str:
    known = app.template.get("IMPORT_ID")
    if known:
        return known
    found = _APPLIANCE_IN_URL.search(app.source)
    return found[1] if found else ""


def _offer(app: App, appliance: Appliance | None, endpoint: str) -> Offer:
    offer = offer_of(app)
    if appliance is None:  # removed from the catalogue; its bytes are often still there
        return offer
    offer = replace(offer, published=appliance.published)
    if not offer.contents or (appliance.version or NO_VERSION) != app.version:
        # Another version: what the catalogue says is about other bytes than the record's.
        return offer
    first = appliance.files[0] if appliance.files else ApplianceFile()
    if not first.offered:
        # The service would answer 404 or 500. EIO, since this is not for the reader to mend.
        reason = "the publisher lists no file for this app"
        return replace(offer, contents=(), trouble=Trouble(errno.EIO, reason))
    content = replace(
        offer.contents[0],
        media=media_named(first.type) or offer.contents[0].media,
        virtual_size=first.size,
        checksums=first.checksums or offer.contents[0].checksums,
    )
    return replace(offer, contents=(content, *_others(appliance, endpoint)))


def _others(appliance: Appliance, endpoint: str) -> Iterator[Content]:
    """Yield the files after the first, which OpenNebula does not know of."""
    taken: set[str] = set()
    for place, file in enumerate(appliance.files):
        if place == 0 or not file.offered:
            continue
        label = file.name or f"file{place}"
        while label in taken:
            label = f"{label}-{place}"
        taken.add(label)
        yield Content(
            locator=Locator("http", _download(endpoint, appliance.id, place)),
            label=label,
            format=file.format or appliance.format,
            media=media_named(file.type),
            virtual_size=file.size,
            checksums=file.checksums,
            version=appliance.version or NO_VERSION,
        )


def _download(endpoint: str, appliance: str, place: int) -> str:
    return f"{endpoint}/appliance/{appliance}/download/{place}"
