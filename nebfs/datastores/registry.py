"""The drivers by OpenNebula's name for them (DS_MAD). A new driver is one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import structlog

from nebfs.datastores.driver import DatastoreDriver, DriverFactory
from nebfs.datastores.mapped import MappedDatastore
from nebfs.datastores.mapping import Place
from nebfs.datastores.unsupported import UnsupportedDatastore
from nebfs.fetcher.messages import Call

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a driver's class is; `install` says what to do when its library is missing."""

    module: str
    name: str
    install: str = ""


# Alphabetical. Imported when first used, so that nobody pays for a library that he does not need.
DRIVERS: Mapping[str, Entry] = {
    "ceph": Entry("nebfs.datastores.ceph", "CephDatastore"),
    "dev": Entry("nebfs.datastores.dev", "DeviceDatastore"),
    "fs": Entry("nebfs.datastores.filesystem", "FilesystemDatastore"),
    "iscsi_libvirt": Entry("nebfs.datastores.iscsi_libvirt", "IscsiDatastore"),
    "lvm": Entry("nebfs.datastores.lvm", "LvmDatastore"),
    "netapp": Entry("nebfs.datastores.netapp", "NetappDatastore"),
    "purefa": Entry("nebfs.datastores.purefa", "PurefaDatastore"),
    "restic": Entry("nebfs.datastores.restic", "ResticDatastore"),
    "rsync": Entry("nebfs.datastores.rsync", "RsyncDatastore"),
    "vcenter": Entry("nebfs.datastores.vcenter", "VcenterDatastore"),
    "virtiofs": Entry("nebfs.datastores.virtiofs", "VirtiofsDatastore"),
}


class DatastoreDrivers:
    """The drivers of one mount, each built once: they hold the limits on threads."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str] | None = None,
        call: Call | None = None,
        drivers: Mapping[str, Entry] = DRIVERS,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        mappings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings`: driver -> what it alone is told, in the form that it says. `mappings`: driver
        -> where its images are, instead of what nebfs knows about it; see mapping.py. Raises
        ValueError for a mapping that cannot be read.
        """
        self._mappings = {driver: Place.of(text) for driver, text in (mappings or {}).items()}
        self._settings = dict(settings or {})
        self._paths = dict(paths or {})
        self._call = call
        self._drivers = drivers
        self._built: dict[str, DatastoreDriver] = {}

    def __call__(self, name: str) -> DatastoreDriver:
        """Return the driver called `name`; for one that is not there, one that says so."""
        if name not in self._built:
            if name in self._mappings:
                place, ssh = self._mappings[name], self._settings.get("fs")
                self._built[name] = MappedDatastore(place, call=self._call, settings=ssh)
            elif name in self._drivers:
                self._built[name] = self._build(name, self._drivers[name])
            else:
                return UnsupportedDatastore(name)
        return self._built[name]

    def _build(self, name: str, entry: Entry) -> DatastoreDriver:
        try:
            factory = cast("DriverFactory", getattr(import_module(entry.module), entry.name))
        except ImportError as exc:
            log.warning(
                "datastore.driver_missing", driver=name, missing=exc.name, hint=entry.install
            )
            remedy = f"; {entry.install}" if entry.install else ""
            return UnsupportedDatastore(name, f"the library {exc.name!r} is not installed{remedy}")
        settings = self._settings.get(name, {})
        return factory(paths=self._paths, call=self._call, settings=settings)
