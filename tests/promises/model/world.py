"""The cloud of the model: records of a front-end, bytes on the network and on this machine's disk.

Every change is made here and in the reference together.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from nebfs.demo.catalogue import attributes
from nebfs.demo.cloud import Cloud
from nebfs.demo.frontend import FrontEnd
from nebfs.demo.records import (
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketplaceRecord,
    UserRecord,
    ZoneRecord,
)
from nebfs.model import Permissions
from tests.promises.model.reference import ENCODED, Place, Reference, Thing, Version
from tests.promises.model.web import FILES, SERVICE, Network

PASSWORD = "correct horse"
FORMATS = {"raw": "raw", "gz": "raw", "qcow2": "qcow2"}
OPEN, CLOSED = Permissions(6, 4, 4), Permissions(6, 0, 0)


class World:
    """What there is. `files` and `service` are where bytes and lists of apps are asked for."""

    def __init__(self, home: Path, seed: int, files: str = FILES, service: str = SERVICE) -> None:
        self.home = home
        self.reference = Reference()
        self.cloud = Cloud()
        self.network = Network(FrontEnd(self.cloud), random.Random(seed))
        self._files = files
        self._service = service
        self._ids = iter(range(10, 1_000_000))
        self._mtime = 1_700_000_000_000_000_000
        self._market_records: dict[int, MarketplaceRecord] = {}
        self._store_records: dict[int, DatastoreRecord] = {}
        self.cloud.zones[0] = ZoneRecord(
            0, "OpenNebula", template=attributes(ENDPOINT="http://one.model/RPC2")
        )
        self.cloud.users["alice"] = UserRecord(
            2, "alice", PASSWORD, uses_all_apps=False, uses_all_datastores=False
        )
        for number, name, driver in ((100, "public", "one"), (101, "private", "http")):
            self.add_marketplace(number, name, driver)
        for number, name in ((200, "default"), (201, "alpine")):
            self.add_datastore(number, name)

    # --- places ------------------------------------------------------------------------------

    def add_marketplace(self, number: int, name: str, driver: str) -> None:
        record = MarketplaceRecord(
            number,
            name,
            driver=driver,
            permissions=OPEN,
            template=attributes(
                BASE_URL=f"{self._files}/", ENDPOINT=self._service, MARKET_MAD=driver
            ),
        )
        self._market_records[number] = record
        self.appear(number)

    def add_datastore(self, number: int, name: str) -> None:
        base = self.home / "datastores" / str(number)
        base.mkdir(parents=True)
        record = DatastoreRecord(
            number,
            name,
            base_path=str(base),
            permissions=OPEN,
            template=attributes(DS_MAD="fs", TM_MAD="local", TYPE="IMAGE_DS"),
        )
        self._store_records[number] = record
        self.appear(number)

    def appear(self, number: int) -> None:
        with self.cloud.lock:
            if number in self._market_records:
                record = self._market_records[number]
                self.cloud.marketplaces[number] = record
                place = Place(number, record.name, asks=record.driver == "one")
                self.reference.marketplaces[number] = place
            else:
                store = self._store_records[number]
                self.cloud.datastores[number] = store
                self.reference.datastores[number] = Place(number, store.name)
        self._let_those_in(number)

    def vanish(self, number: int) -> None:
        with self.cloud.lock:
            self.cloud.marketplaces.pop(number, None)
            self.cloud.datastores.pop(number, None)
        self.reference.marketplaces.pop(number, None)
        self.reference.datastores.pop(number, None)
        self._let_those_in(number)

    def _let_those_in(self, number: int) -> None:
        """What is in a place that is away is away with it: else it would keep its place shown."""
        for thing in self.things:
            if thing.home == number:
                self.let(thing, seen=thing.seen)

    def is_there(self, number: int) -> bool:
        return number in self.reference.marketplaces or number in self.reference.datastores

    @property
    def places(self) -> list[int]:
        return [*self._market_records, *self._store_records]

    # --- apps --------------------------------------------------------------------------------

    def address(self, thing: Thing) -> str:
        return f"{self._files}/{thing.id}"

    def add_app(self, name: str, home: int, kind: str, size: int, *, with_md5: bool) -> Thing:
        version = self.reference.versions.make(kind, size)
        thing = Thing(next(self._ids), name, home, version, with_md5=with_md5, recorded=version)
        with self.cloud.lock:
            self.cloud.apps[thing.id] = AppRecord(
                thing.id,
                name,
                marketplace_id=home,
                marketplace=self._market_records[home].name,
                permissions=OPEN,
                regtime=1_700_000_000,
                source=self.address(thing),
                size_mb=1,
                template=attributes(TYPE="IMAGE"),
            )
            self._record(thing)
        self._publish(thing, version)
        self.reference.apps[thing.id] = thing
        self.let(thing, seen=True)
        return thing

    def _record(self, thing: Thing) -> None:
        assert thing.recorded is not None
        record = self.cloud.apps[thing.id]
        record.md5 = thing.recorded.md5 if thing.with_md5 else ""
        record.version = f"1.{thing.revision}"
        record.format = FORMATS[thing.recorded.kind]

    def _publish(self, thing: Thing, version: Version) -> None:
        self.network.published[self.address(thing)] = version

    def replace_app(
        self, thing: Thing, size: int, now: float, *, silently: bool, kind: str | None = None
    ) -> None:
        """Publish other bytes. Not `silently`: with a new record."""
        version = self.reference.versions.make(kind or thing.current.kind, size)
        thing.replace(version, now)
        self._publish(thing, version)
        if not silently:
            thing.recorded = version
            thing.revision += 1
            with self.cloud.lock:
                self._record(thing)

    # --- images ------------------------------------------------------------------------------

    def path(self, thing: Thing) -> Path:
        return self.home / "datastores" / str(thing.home) / f"{thing.id:032x}"

    def add_image(self, name: str, home: int, kind: str, size: int) -> Thing:
        version = self.reference.versions.make(kind, size)
        thing = Thing(next(self._ids), name, home, version, recorded=version)
        self._write(thing, version, in_place=False)
        with self.cloud.lock:
            self.cloud.images[thing.id] = ImageRecord(
                thing.id,
                name,
                datastore_id=home,
                datastore=self._store_records[home].name,
                permissions=OPEN,
                regtime=1_700_000_000,
                source=str(self.path(thing)),
                size_mb=1,
                format=FORMATS[kind],
                template=attributes(DEV_PREFIX="vd"),
            )
        self.reference.images[thing.id] = thing
        self.let(thing, seen=True)
        return thing

    def replace_image(self, thing: Thing, size: int, now: float, *, in_place: bool) -> None:
        """Write other bytes: into the same file, or another one in its place."""
        version = self.reference.versions.make(thing.current.kind, size)
        self._write(thing, version, in_place=in_place)
        thing.replace(version, now)

    def _write(self, thing: Thing, version: Version, *, in_place: bool) -> None:
        path = self.path(thing)
        if in_place:
            with path.open("r+b") as file:
                file.write(version.data)
                file.truncate()
        else:
            fresh = path.with_suffix(".new")
            fresh.write_bytes(version.data)
            fresh.replace(path)
        # The kernel's own clock stands still for milliseconds: two versions would look the same.
        self._mtime += 1_000_000_000
        os.utime(path, ns=(self._mtime, self._mtime))

    # --- both --------------------------------------------------------------------------------

    def record_of(self, thing: Thing) -> AppRecord | ImageRecord:
        found = self.cloud.apps.get(thing.id)
        return found if found is not None else self.cloud.images[thing.id]

    def rename(self, thing: Thing, name: str) -> None:
        with self.cloud.lock:
            self.record_of(thing).name = thing.name = name

    def let(self, thing: Thing, *, seen: bool) -> None:
        """Give or take the user's right to use it."""
        thing.seen = seen
        with self.cloud.lock:
            there = self.is_there(thing.home)
            self.record_of(thing).permissions = OPEN if seen and there else CLOSED

    def remove(self, thing: Thing) -> None:
        """Delete it, and its bytes with it."""
        with self.cloud.lock:
            if self.reference.apps.pop(thing.id, None) is not None:
                del self.cloud.apps[thing.id]
                del self.network.published[self.address(thing)]
            else:
                del self.reference.images[thing.id]
                del self.cloud.images[thing.id]
                self.path(thing).unlink()
        thing.missing = True

    def refuse(self, *, refused: bool) -> None:
        """Change the user's password, or change it back."""
        self.cloud.set_password("alice", "another" if refused else PASSWORD)

    @property
    def refuses(self) -> bool:
        return self.cloud.users["alice"].password != PASSWORD

    @property
    def things(self) -> list[Thing]:
        return [*self.reference.apps.values(), *self.reference.images.values()]


NAMES = sorted(ENCODED)
