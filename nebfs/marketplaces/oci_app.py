"""The app that OpenNebula would make of a container image, for a mount without a front-end.

Source: the attributes that OpenNebula's ``dockerhub`` and ``docker_registry`` apps had (6.8).
"""

from __future__ import annotations

from nebfs.marketplaces.appliance_app import NO_VERSION
from nebfs.marketplaces.oci_names import source_of
from nebfs.marketplaces.own_app import own_app
from nebfs.model import App, Marketplace, without_credentials

_MAX_DIGITS = 9
"""Of a size in MiB: as much as a number of OpenNebula's can hold."""


def app_of(
    name: str,
    number: int,
    marketplace: Marketplace,
    image: str,
    *,
    description: str = "",
    created: int = 0,
    publisher: str = "",
) -> App:
    """Return the image `image`, as ``docker pull`` would name it, as an app with the id `number`.

    SIZE is of the disk that OpenNebula would build, as the marketplace's IMAGE_SIZE_MB says.
    """
    source = source_of(image, marketplace)
    size = marketplace.template.get("IMAGE_SIZE_MB").strip() or "2048"
    pairs = (
        ("DESCRIPTION", description),
        ("IMPORT_ID", "-1"),
        ("LINK", without_credentials(source)),
        ("PUBLISHER", publisher),
    )
    return own_app(
        number,
        name,
        marketplace,
        pairs,
        source=source,
        size_mb=int(size) if size.isascii() and size.isdigit() and len(size) <= _MAX_DIGITS else 0,
        format=marketplace.template.get("FORMAT").strip() or "raw",
        version=NO_VERSION,
        description=description,
        regtime=created,
    )
