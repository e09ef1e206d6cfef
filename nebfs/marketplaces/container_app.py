"""The app that OpenNebula would make of a container image, for a mount without a front-end.

Source: OpenNebula's own drivers for linuxcontainers and turnkeylinux: which attributes they write.
Names that would be the same for several images say what differs.
"""

from __future__ import annotations

from datetime import datetime

from nebfs.marketplaces.own_app import ARCHITECTURES, own_app, packed
from nebfs.marketplaces.simplestreams import Product
from nebfs.marketplaces.turnkey_index import DIRECTORY, Archive
from nebfs.model import App, Marketplace, without_credentials

# Debian's and thus simplestreams' names for what container tools call otherwise.
_OF_PLATFORM = {"386": "i386", "arm": "armhf", "ppc64le": "ppc64el"}
_DEFINITION = 'DRIVER="raw"\n'


def app_of_product(
    product: Product, number: int, marketplace: Marketplace, base: str, platform: str
) -> App:
    """Return the newest version of `product` as an app with the id `number`.

    `base` is the server's address; an image of another architecture than that of `platform`, or of
    a variant, says so in its name.
    """
    version = product.newest
    architecture = ARCHITECTURES.get(product.arch, product.arch)
    own = (platform.split("/")[1:2] or ["amd64"])[0]
    marks = [architecture] if product.arch != _OF_PLATFORM.get(own, own) else []
    marks += [product.variant] if product.variant != "default" else []
    name = f"{product.os}_{product.release}" if product.os and product.release else product.id
    return _app(
        number,
        f"{name} ({', '.join(marks)})" if marks and name != product.id else name,
        marketplace,
        base + (version.item("root.tar.xz") or version.items[0]).path,
        import_id=product.id,
        architecture=architecture,
        version=version.serial,
        regtime=_moment(version.serial),
        publisher=without_credentials(base).partition("://")[2].rstrip("/"),
        description=f"{product.os} {product.title or product.release}".strip(),
    )


def app_of_archive(archive: Archive, number: int, marketplace: Marketplace, base: str) -> App:
    """Return an archive of TurnKey Linux as an app with the id `number`."""
    return _app(
        number,
        f"{archive.app} (Debian {archive.debian})",
        marketplace,
        f"{base}{DIRECTORY}{archive.name}",
        import_id=f"debian-{archive.debian}-turnkey-{archive.app}",
        architecture="x86_64",
        version=archive.version,
        publisher="turnkeylinux.org",
        description=f"Based on debian-{archive.debian}",
    )


def _app(
    number: int,
    name: str,
    marketplace: Marketplace,
    url: str,
    *,
    import_id: str,
    architecture: str,
    version: str,
    publisher: str,
    description: str,
    regtime: int = 0,
) -> App:
    shown = without_credentials(url)
    attributes = (
        ("APPTEMPLATE64", packed(_DEFINITION)),
        ("ARCHITECTURE", architecture),
        ("DESCRIPTION", description),
        ("HYPERVISOR", "lxc"),
        ("IMPORT_ID", import_id),
        ("LINK", shown),
        ("PUBLISHER", publisher),
        ("VERSION", version),
    )
    return own_app(
        number,
        name,
        marketplace,
        attributes,
        # Who may be asked with which password is in the marketplace, and not in its apps.
        source=f"lxd://{shown}",
        format="tar",
        version=version,
        description=description,
        regtime=regtime,
        app_template=_DEFINITION,
    )


def _moment(serial: str) -> int:
    """Return the time that a serial of LXC's servers says (UTC), in seconds since the epoch, or 0.

    ``20261121_05:24``
    """
    try:
        return int(datetime.strptime(f"{serial}+0000", "%Y%m%d_%H:%M%z").timestamp())
    except ValueError:
        return 0
