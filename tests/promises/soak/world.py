"""The cloud that is soaked: eight images in four places that can fail, and their versions.

Every version of every image stays in a directory of its own, published and as a raw disk: what
readers compare with. A directory of `versions` is ``IMAGE/VERSION.published`` and ``.raw``.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nebfs.demo.catalogue import attributes
from nebfs.demo.cloud import Cloud
from nebfs.demo.demonstration import PASSWORD
from nebfs.demo.records import (
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketplaceRecord,
    UserRecord,
    ZoneRecord,
)
from nebfs.demo.s3 import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY
from nebfs.demo.server import DemonstrationServers, serve
from tests.faults.valve import Valve, Valves
from tests.fetcher.sshd import USER, Sshd, keygen
from tests.nginx import Nginx

MIB = 1 << 20
EPOCH = 1_767_225_600
WEB, OBJECTS, HERE, FAR = "web", "objects", "here", "far"
MARKETS, STORES = {WEB: 100, OBJECTS: 101}, {HERE: 1, FAR: 2}
FRONTEND = "frontend"
THEIRS = "/nowhere/far"
"""Where the front-end says that the images of FAR are."""

SAYS = ("500", "503", "429")


@dataclass(frozen=True, slots=True)
class Kind:
    """One image: where, and in which format."""

    place: str
    format: str

    @property
    def claim(self) -> str:
        """What OpenNebula says of the format: nothing of how it is packed."""
        return "raw" if self.format == "gz" else self.format


KINDS = (
    Kind(WEB, "raw"),
    Kind(WEB, "qcow2"),
    Kind(OBJECTS, "raw"),
    Kind(OBJECTS, "gz"),
    Kind(HERE, "raw"),
    Kind(HERE, "qcow2"),
    Kind(FAR, "raw"),
    Kind(FAR, "qcow2"),
)


@dataclass(slots=True)
class World:
    """Everything that nebfs is mounted over."""

    home: Path
    seed: int
    size: int
    """Bytes of each disk."""
    cloud: Cloud
    servers: DemonstrationServers
    nginx: Nginx
    sshd: Sshd
    valves: dict[str, Valve]
    version: list[int] = field(default_factory=lambda: [0] * len(KINDS))

    @property
    def source(self) -> str:
        """The front-end's address, behind its valve."""
        return f"http://127.0.0.1:{self.valves[FRONTEND].port}/RPC2"

    @property
    def configuration(self) -> Path:
        """The settings that a mount of this needs."""
        path = self.home / "nebfs.toml"
        far = f"sftp://{USER}@127.0.0.1:{self.valves[FAR].port}{self.home}/far"
        path.write_text(
            f'[datastores]\nssh_identity_file = "{self.home}/key"\n'
            f'ssh_known_hosts_file = "{self.home}/known"\n'
            f'[datastores.paths]\n"{THEIRS}" = "{far}"\n'
        )
        return path

    @property
    def versions(self) -> Path:
        """Where all versions of all images are."""
        return self.home / "versions"

    def says(self, status: str, *, on: bool) -> None:
        """Let the web server answer everything with `status`, or no more."""
        mark = self.home / f"says-{status}"
        mark.touch() if on else mark.unlink(missing_ok=True)

    def replace(self, number: int) -> None:
        """Publish the next version of an image."""
        self.version[number] += 1
        self._publish(number, self._make(number))

    def _make(self, number: int) -> Path:
        """Make the current version of an image; return the published file."""
        kind, version = KINDS[number], self.version[number]
        directory = self.versions / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        new = directory / "new"
        noise = random.Random(f"{self.seed}/{number}/{version}")
        with new.open("wb") as file:
            for at in range(0, self.size, MIB):
                hole = kind.format != "raw" and noise.random() < 0.2
                file.seek(at) if hole else file.write(noise.randbytes(MIB))
            file.truncate(self.size)
        raw, published = (directory / f"{version}.{end}" for end in ("raw", "published"))
        made = directory / "made"
        if kind.format == "raw":
            os.link(new, made)
        elif kind.format == "gz":
            with new.open("rb") as plain, gzip.open(made, "wb", compresslevel=1) as packed:
                shutil.copyfileobj(plain, packed, MIB)
        else:
            subprocess.run(["qemu-img", "convert", "-O", "qcow2", new, made], check=True)
        # Complete, and before anybody can see this version in the mount.
        new.rename(raw)
        made.rename(published)
        # nginx makes ETags from seconds.
        os.utime(published, (EPOCH + version, EPOCH + version))
        return published

    def _publish(self, number: int, file: Path) -> None:
        kind, version = KINDS[number], self.version[number]
        if kind.place == WEB:
            _put(file, self.nginx.root / f"{number}.{kind.format}")
        elif kind.place == HERE:
            _put(file, self.home / "here" / str(number))
        elif kind.place == FAR:
            _put(file, self.home / "far" / str(number))
        with self.cloud.lock:
            if kind.place == OBJECTS:
                self.cloud.objects[f"/images/marketapp-{number}"] = file
            if kind.place in MARKETS:
                record = self.cloud.apps[number]
                record.md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
                record.version = f"{version}.0"
            else:
                self.cloud.images[number].modtime = EPOCH + version


def _put(file: Path, place: Path) -> None:
    """Put a copy there at once: who has the old one open keeps it."""
    shutil.copy2(file, place.with_name("new"))
    place.with_name("new").rename(place)


@contextlib.contextmanager
def world(home: Path, seed: int, size: int) -> Iterator[World]:
    """Build it all below `home`, and take it down."""
    for made in ("web", "here", "far"):
        (home / made).mkdir()
    key = keygen(home / "key")
    said = "".join(f"if (-f {home}/says-{s}) {{ return {s}; }}" for s in SAYS)
    cloud = _cloud(home)
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(serve(cloud))
        nginx = stack.enter_context(Nginx(home / "web", said + "add_header Retry-After 1 always;"))
        sshd = Sshd(home / "sshd", key)
        stack.callback(sshd.stop)
        valves = Valves()
        stack.callback(valves.close)
        ports = {
            FRONTEND: int(servers.frontend_url.rpartition(":")[2].partition("/")[0]),
            WEB: nginx.port,
            OBJECTS: int(servers.objects_url.rpartition(":")[2]),
            FAR: sshd.port,
        }
        found = {name: valves.valve(port) for name, port in ports.items()}
        known = sshd.known.replace(f":{sshd.port} ", f":{found[FAR].port} ")
        (home / "known").write_text(known)
        made = World(home, seed, size, cloud, servers, nginx, sshd, found)
        _fill(made)
        yield made
    assert servers.failures() == []


def _cloud(home: Path) -> Cloud:
    cloud = Cloud()
    cloud.zones[0] = ZoneRecord(0, "OpenNebula", template=attributes(ENDPOINT="{front_end}/RPC2"))
    user = UserRecord(0, "oneadmin", PASSWORD, gid=0, gname="oneadmin", groups=(0,))
    cloud.users[user.name] = user
    for name, base in ((HERE, f"{home}/here"), (FAR, THEIRS)):
        cloud.datastores[STORES[name]] = DatastoreRecord(
            STORES[name],
            name,
            base_path=base,
            template=attributes(DS_MAD="fs", TM_MAD="local", TYPE="IMAGE_DS"),
        )
    return cloud


def _fill(made: World) -> None:
    """Add what can be named only now that the valves have their ports: marketplaces, objects."""
    web, objects = (f"http://127.0.0.1:{made.valves[name].port}" for name in (WEB, OBJECTS))
    add = made.cloud.marketplaces
    add[MARKETS[WEB]] = MarketplaceRecord(
        MARKETS[WEB],
        WEB,
        template=attributes(BASE_URL=f"{web}/", MARKET_MAD="http", PUBLIC_DIR="/nowhere"),
    )
    add[MARKETS[OBJECTS]] = MarketplaceRecord(
        MARKETS[OBJECTS],
        OBJECTS,
        driver="s3",
        template=attributes(
            ACCESS_KEY_ID=ACCESS_KEY_ID,
            AWS="no",
            BUCKET="images",
            ENDPOINT=objects,
            FORCE_PATH_STYLE="YES",
            MARKET_MAD="s3",
            REGION=REGION,
            SECRET_ACCESS_KEY=SECRET_ACCESS_KEY,
        ),
    )
    for number, kind in enumerate(KINDS):
        size_mb = made.size // MIB
        if kind.place in MARKETS:
            source = {
                WEB: f"{web}/{number}.{kind.format}",
                OBJECTS: f"s3://images/marketapp-{number}",
            }[kind.place]
            record = AppRecord(
                number,
                f"image {number}",
                marketplace_id=MARKETS[kind.place],
                source=source,
                size_mb=size_mb,
                format=kind.claim,
                template=attributes(TYPE="IMAGE"),
            )
            made.cloud.add_app(record)
        else:
            base = f"{made.home}/here" if kind.place == HERE else THEIRS
            record = ImageRecord(
                number,
                f"image {number}",
                datastore_id=STORES[kind.place],
                source=f"{base}/{number}",
                size_mb=size_mb,
                format=kind.claim,
                template=attributes(DEV_PREFIX="vd"),
            )
            made.cloud.add_image(record)
        made._publish(number, made._make(number))
