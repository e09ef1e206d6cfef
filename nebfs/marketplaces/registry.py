"""The drivers by OpenNebula's name for them (MARKET_MAD). A new driver is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import cast

import structlog

from nebfs.marketplaces.driver import Call, DriverFactory, MarketplaceDriver
from nebfs.marketplaces.unsupported import UnsupportedMarketplace

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a driver's class is; `install` says what to do when its library is missing."""

    module: str
    name: str
    install: str = ""


# Alphabetical. Imported when first used, so that nobody pays for a library that he does not need.
DRIVERS: Mapping[str, Entry] = {
    "docker_registry": Entry("nebfs.marketplaces.docker_registry", "DockerRegistryMarketplace"),
    "dockerhub": Entry("nebfs.marketplaces.dockerhub", "DockerHubMarketplace"),
    "http": Entry("nebfs.marketplaces.http", "HttpMarketplace"),
    "linuxcontainers": Entry("nebfs.marketplaces.linuxcontainers", "LinuxContainersMarketplace"),
    "one": Entry("nebfs.marketplaces.one", "OneMarketplace"),
    "s3": Entry("nebfs.marketplaces.s3", "S3Marketplace"),
    "turnkeylinux": Entry("nebfs.marketplaces.turnkeylinux", "TurnkeyLinuxMarketplace"),
}


ENTRY_POINTS = "nebfs.marketplaces"
"""The group in which other packages announce drivers: the name is a MARKET_MAD, the object a
DriverFactory. A name of ours cannot be taken over."""


def driver_for(
    name: str,
    *,
    call: Call,
    version: str,
    platform: str = "",
    drivers: Mapping[str, Entry] = DRIVERS,
) -> MarketplaceDriver:
    """Return the driver called `name`; for one that is not there, one that says so per app."""
    entry = drivers.get(name) or _announced(name)
    if entry is None:
        return UnsupportedMarketplace(name)
    try:
        factory = cast("DriverFactory", getattr(import_module(entry.module), entry.name))
    except ImportError as exc:
        log.warning("marketplace.driver_missing", driver=name, missing=exc.name, hint=entry.install)
        remedy = f"; {entry.install}" if entry.install else ""
        return UnsupportedMarketplace(name, f"the library {exc.name!r} is not installed{remedy}")
    return factory(call=call, version=version, platform=platform)


def _announced(name: str) -> Entry | None:
    """Return the driver that another installed package announces under `name`."""
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return Entry(point.module, point.attr)
    return None
