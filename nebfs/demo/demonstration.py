"""The cloud that `nebfs demo` shows: every kind of marketplace, four datastores, hostile names.

Everything a mount must cope with is there once: an app of several files, apps that are templates,
objects that are LOCKED or in ERROR, two objects of one name, a driver that nebfs does not support,
names such as ``..`` that no directory can hold. The ids are written out because tests use them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from nebfs.demo.catalogue import PUBLIC, add_public_apps, attributes, base64_text
from nebfs.demo.cloud import Cloud
from nebfs.demo.containers import add_containers
from nebfs.demo.images import EPOCH, DemonstrationImages, MadeImage, make_images
from nebfs.demo.objects import add_objects
from nebfs.demo.records import (
    PRIVATE,
    AppRecord,
    DatastoreRecord,
    ImageRecord,
    MarketplaceRecord,
    Record,
    UserRecord,
    ZoneRecord,
)
from nebfs.demo.registry_images import add_registries
from nebfs.model import (
    AppState,
    DatastoreType,
    ImageState,
    ImageType,
    Permissions,
)

PRIVATE_HTTP = 100
"""Marketplaces: 0 (PUBLIC) and 1 are a fresh cloud's own, an administrator's begin at 100."""
SYSTEM, DEFAULT, FILES, ADDON = 0, 1, 2, 100
"""The datastores' ids. ADDON is of a kind that others have added to their OpenNebula."""

PASSWORD = "opennebula"  # noqa: S105 - of a cloud that lives on loopback for minutes


def demonstration_cloud(root: Path) -> Cloud:
    """Build the cloud; its images and datastores are below `root`. UserError: a tool is missing."""
    root = root.absolute()
    images = make_images(root / "images")
    cloud = Cloud()
    cloud.zones[0] = ZoneRecord(0, "OpenNebula", template=attributes(ENDPOINT="{front_end}/RPC2"))
    _add_users(cloud)
    _add_marketplaces(cloud, root)
    _add_datastores(cloud, root)
    add_public_apps(cloud, images)
    add_containers(cloud, root / "containers", images.qcow2)
    _add_private_apps(cloud, images)
    add_objects(cloud, images)
    add_registries(cloud, root / "registry")
    _add_images(cloud, images)
    return cloud


def _add_users(cloud: Cloud) -> None:
    for user in (
        UserRecord(0, "oneadmin", PASSWORD, gid=0, gname="oneadmin", groups=(0,)),
        UserRecord(2, "alice", "alicepass"),
        # In no VDC and under no ACL rule: sees what the permission bits give to others.
        UserRecord(
            *(4, "carol", "carolpass", 101, "guests", (101,)),
            uses_all_apps=False,
            uses_all_datastores=False,
        ),
    ):
        cloud.users[user.name] = user


def _add_marketplaces(cloud: Cloud, root: Path) -> None:
    everybody = Permissions(7, 4, 4)
    for record in (
        MarketplaceRecord(
            PUBLIC,
            "OpenNebula Public",
            permissions=everybody,
            driver="one",
            template=attributes(
                DESCRIPTION="OpenNebula Systems MarketPlace",
                ENDPOINT="{appliances}/",
                MARKET_MAD="one",
            ),
        ),
        MarketplaceRecord(
            PRIVATE_HTTP,
            "Private HTTP",
            driver="http",
            total_mb=258020,
            free_mb=228895,
            used_mb=29125,
            template=attributes(
                BASE_URL="{files}/market/", MARKET_MAD="http", PUBLIC_DIR=f"{root}/market"
            ),
        ),
    ):
        cloud.marketplaces[record.id] = record


def _add_datastores(cloud: Cloud, root: Path) -> None:
    usable = Permissions(6, 4, 0)
    for number, name, driver, transfer, kind in (
        (SYSTEM, "system", "-", "local", DatastoreType.SYSTEM),
        (DEFAULT, "default", "fs", "local", DatastoreType.IMAGE),
        (FILES, "files", "fs", "local", DatastoreType.FILE),
        (ADDON, "add-on", "storpool", "storpool", DatastoreType.IMAGE),
    ):
        # oned puts the double slash there.
        base = f"{root}//datastores/{number}"
        Path(base).mkdir(parents=True, exist_ok=True)
        extra = {"BRIDGE_LIST": "bridge"} if driver == "storpool" else {}
        capacity = (0, 0, 0) if kind is DatastoreType.SYSTEM else (258020, 74764, 29135)
        cloud.datastores[number] = DatastoreRecord(
            number,
            name,
            permissions=usable,
            driver=driver,
            transfer=transfer,
            base_path=base,
            type=kind,
            disk_type=2 if driver == "storpool" else 0,
            total_mb=capacity[0],
            free_mb=capacity[1],
            used_mb=capacity[2],
            template=attributes(
                DS_MAD=driver,
                TM_MAD=transfer,
                TYPE={0: "IMAGE_DS", 1: "SYSTEM_DS", 2: "FILE_DS"}[int(kind)],
                **extra,
            ),
        )


# --- the private marketplace ---------------------------------------------------------------------


def _give_to_alice(record: Record) -> None:
    record.uid, record.gid, record.uname, record.gname = 2, 1, "alice", "users"


def _key(label: str) -> str:
    """Return the 32 hex digits under which OpenNebula's drivers store a file."""
    return hashlib.md5(label.encode(), usedforsecurity=False).hexdigest()


def _add_private_apps(cloud: Cloud, images: DemonstrationImages) -> None:
    def add(number: int, name: str, made: MadeImage | None) -> AppRecord:
        key = _key(f"{EPOCH}:{number}")
        definition = base64_text('DEV_PREFIX="vd"\nTYPE="OS"\n')
        record = AppRecord(
            number,
            name,
            marketplace_id=PRIVATE_HTTP,
            regtime=EPOCH + number,
            app_template64=definition,
            template=attributes(APPTEMPLATE64=definition, TYPE="IMAGE"),
        )
        if made is not None:
            cloud.published[f"/market/{key}"] = made.path
            record.source = f"{{files}}/market/{key}"
            record.md5, record.size_mb, record.format = made.md5, made.size_mb, made.format
        return cloud.add_app(record)

    add(20, "tiny raw app", images.raw).permissions = Permissions(6, 0, 4)
    add(21, "tiny qcow2 app", images.qcow2)
    add(22, "still uploading", None).state = AppState.LOCKED
    add(23, "failed upload", None)
    cloud.set_app_state(23, AppState.ERROR, "Error copying image to marketplace: disk full")
    add(24, "withdrawn", images.data).state = AppState.DISABLED
    # Names of apps are unique per owner only.
    add(25, "twin", images.data)
    _give_to_alice(add(26, "twin", images.kernel))


# --- the images of the datastores ----------------------------------------------------------------


def _add_images(cloud: Cloud, images: DemonstrationImages) -> None:
    def add(
        number: int,
        name: str,
        made: MadeImage | None,
        kind: ImageType = ImageType.OS,
        datastore: int = DEFAULT,
    ) -> ImageRecord:
        record = ImageRecord(
            number,
            name,
            permissions=PRIVATE,
            datastore_id=datastore,
            type=kind,
            regtime=EPOCH + number,
            modtime=EPOCH + number,
            size_mb=64,
            template=attributes(DEV_PREFIX="vd"),
        )
        if made is not None:
            record.size_mb, record.format = made.size_mb, made.format
            record.source = f"{cloud.datastores[datastore].base_path}/{_key(f'{EPOCH}:{number}')}"
            record.path = f"/var/tmp/{made.path.name}"  # noqa: S108 - a text, never opened
            _store(made.path, Path(record.source))
        return cloud.add_image(record)

    add(0, "tiny raw", images.raw).permissions = Permissions(6, 0, 4)
    add(1, "ttylinux", images.qcow2)
    add(2, "big sparse", images.sparse, ImageType.DATABLOCK)
    add(3, "boot.iso", images.iso, ImageType.CDROM).permissions = Permissions(6, 4, 4)
    add(4, "being copied", None).state = ImageState.LOCKED
    add(5, "failed copy", None)
    cloud.set_image_state(5, ImageState.ERROR, "Error copying image in the datastore: 404")
    add(6, "..", images.data)
    add(7, ".hidden 50%2F50", images.data)
    add(8, "twin", images.data, ImageType.DATABLOCK)
    _give_to_alice(add(9, "twin", images.kernel, ImageType.DATABLOCK))
    add(10, "vmlinuz-test", images.kernel, ImageType.KERNEL, FILES)
    block = add(20, "add-on disk", None, datastore=ADDON)
    block.source, block.format, block.disk_type = "one/ONE-img-20", "raw", 2


def _store(original: Path, place: Path) -> None:
    """Put an image where a datastore holds it, without taking its space a second time."""
    place.unlink(missing_ok=True)
    try:
        os.link(original, place)
    except OSError:  # another filesystem, or one without hard links
        shutil.copyfile(original, place)
