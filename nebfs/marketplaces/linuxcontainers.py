"""``linuxcontainers``: a server of container images that speaks simplestreams.

OpenNebula records the root filesystem's archive only, and builds a disk of it at import: its MD5
is of its own options and verifies nothing. The files as published are offered here, with the
checksums of the server's index, and found by the path in SOURCE. A build is on the server for some
days: after that SOURCE stands for the newest build of the same image.
Source: OpenNebula's marketplace driver of this name (7.4).
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, unquote

import structlog

from nebfs.errors import BadAnswer, Missing, Refused
from nebfs.marketplaces.answers import decoded, document, endpoint_of
from nebfs.marketplaces.container_app import app_of_product
from nebfs.marketplaces.driver import Call
from nebfs.marketplaces.identity import numbered
from nebfs.marketplaces.record import is_template, trouble_of
from nebfs.marketplaces.simplestreams import (
    Product,
    Version,
    by_directory,
    read_index,
    read_products,
)
from nebfs.model import App, Content, Locator, Marketplace, Offer, Trouble
from nebfs.units import MIB

log = structlog.get_logger()

DEFAULT_ENDPOINT = "https://images.linuxcontainers.org/"
SCHEMES = frozenset({"lxd"})

_INDEX = "streams/v1/index.json"
_IMAGES = "streams/v1/images.json"
# The public list is some megabytes. This leaves room for a larger one, and bounds memory.
_MAX_INDEX = 4 * MIB
_MAX_LISTS = 64 * MIB
_JSON = "application/json"

# Label and format of each file that is offered, and the ftypes that it may have: the first that
# is there. The containers' metadata is the same under its old and its new name.
_FILES = (
    ("rootfs", "tar", ("root.tar.xz",)),
    ("rootfs", "squashfs", ("squashfs",)),
    ("metadata", "tar", ("incus.tar.xz", "lxd.tar.xz")),
    ("combined", "tar", ("incus_combined.tar.gz", "lxd_combined.tar.gz")),
    ("disk", "qcow2", ("disk-kvm.img",)),
    ("disk1", "qcow2", ("disk1.img",)),
    ("uefi1", "qcow2", ("uefi1.img",)),
)
# A SOURCE has some eight parts; what is longer is no path of these servers.
_MAX_PARTS = 32


class LinuxContainersMarketplace:
    """Asks the server for its index and the lists that it names, and joins them with the apps."""

    def __init__(
        self,
        *,
        call: Call,
        version: str,  # noqa: ARG002 - of every driver
        platform: str = "",
    ) -> None:
        """Images for `platform` have plain names where the driver lists by itself."""
        self._call = call
        self._platform = platform

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """See MarketplaceDriver. Raises Unsupported when ENDPOINT is not an HTTP address."""
        base = endpoint_of(marketplace, DEFAULT_ENDPOINT)
        bodies = await self._lists(base)
        return await decoded(_joined, bodies, base, marketplace, apps, self._platform)

    async def _lists(self, base: str) -> list[bytes]:
        bodies: list[bytes] = []
        room = _MAX_LISTS
        for path in await self._paths(base):
            body = await document(self._call, base + quote(path), accept=_JSON, max_body=room)
            bodies.append(body)
            room -= len(body)
        return bodies

    async def _paths(self, base: str) -> tuple[str, ...]:
        try:
            body = await document(self._call, base + _INDEX, accept=_JSON, max_body=_MAX_INDEX)
            return await decoded(read_index, body)
        except (Missing, Refused, BadAnswer) as exc:
            # OpenNebula never asks for the index: there are servers without one. (Object stores
            # say 403 for what is not there.)
            log.info("linuxcontainers.no_index", reason=str(exc))
            return (_IMAGES,)


def _joined(
    bodies: Sequence[bytes],
    base: str,
    marketplace: Marketplace,
    apps: Sequence[App] | None,
    platform: str,
) -> tuple[Offer, ...]:
    products: dict[str, Product] = {}
    for body in bodies:
        for product in read_products(body):
            products.setdefault(product.id, product)
    if not products:
        # Nothing of it says that every app is gone.
        raise BadAnswer(
            "the marketplace's list has no image that can be used", documents=len(bodies)
        )
    if apps is None:
        numbers = numbered(products)
        own = [
            _offer(
                app_of_product(one, numbers[one.id], marketplace, base, platform),
                one,
                one.newest,
                base,
            )
            for one in products.values()
        ]
        return tuple(sorted(own, key=lambda offer: offer.app.id))
    places = by_directory(products.values())
    return tuple(_found(app, places, base) for app in sorted(apps, key=lambda app: app.id))


def _found(app: App, places: Mapping[str, Product], base: str) -> Offer:
    """Return the offer of an app of the front-end: its image by the path in its SOURCE."""
    trouble = trouble_of(app, SCHEMES)
    if trouble is not None or is_template(app):
        return Offer(app, trouble=trouble)
    directories, serial = _recorded(app.source)
    product = next((places[one] for one in directories if one in places), None)
    if product is None:
        reason = "the marketplace does not list this image any more"
        return Offer(app, trouble=Trouble(errno.EIO, reason))
    return _offer(app, product, product.version(serial) or product.newest, base)


def _recorded(source: str) -> tuple[list[str], str]:
    """Return the directories that `source` can mean, the longest path first, and its serial.

    How much of the path belongs to the server's address is not told. Without a slash at the end of
    ENDPOINT, OpenNebula writes the address and the path as one word: ``http://hostimages/...``.
    """
    path = unquote(source.partition("://")[2].partition("?")[0])
    parts = [part for part in path.split("/") if part][-_MAX_PARTS:]
    if len(parts) < 2:
        return [], ""
    *places, serial, _ = parts
    found = []
    for at, part in enumerate(places):
        rest = "/".join(places[at + 1 :])
        found.append(f"{part}/{rest}" if rest else part)
        if part.endswith("images") and part != "images":
            found.append(f"images/{rest}")
    return found, serial


def _offer(app: App, product: Product, version: Version, base: str) -> Offer:
    contents = tuple(_contents(version, base))
    if not contents:
        reason = "the marketplace lists no file of this image that nebfs knows"
        return Offer(app, trouble=Trouble(errno.EIO, reason))
    return Offer(app, contents, published=_published(product, version))


def _contents(version: Version, base: str) -> Iterator[Content]:
    for label, form, kinds in _FILES:
        item = version.item(*kinds)
        if item is not None:
            yield Content(
                # Serials hold a colon, which not every proxy takes in a path as it is.
                locator=Locator("http", base + quote(item.path)),
                label=label,
                format=form,
                checksums=item.checksums,
                version=version.serial,
            )


def _published(product: Product, version: Version) -> str:
    """Return what the index says about the image, as JSON: this one build of it."""
    facts = {
        "product": product.id,
        "os": product.os,
        "release": product.release,
        "release_title": product.title,
        "arch": product.arch,
        "variant": product.variant,
        "serial": version.serial,
        "items": [
            {
                "ftype": item.kind,
                "path": item.path,
                "size": item.size,
                **{one.algorithm: one.digest for one in item.checksums},
            }
            for item in version.items
        ],
    }
    return json.dumps(facts, ensure_ascii=False)
