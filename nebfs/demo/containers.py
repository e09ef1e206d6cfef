"""The marketplaces of container images: a simplestreams server and a mirror of TurnKey Linux.

Both are nothing but files on the demonstration's file server. One recorded build has expired since,
one archive was replaced, one image is gone for good: OpenNebula's records of public places are
older than the places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from nebfs.demo.archives import make_archives
from nebfs.demo.catalogue import attributes, base64_text
from nebfs.demo.cloud import Cloud, JsonObject, digests
from nebfs.demo.images import EPOCH, MadeImage
from nebfs.demo.records import SHARED, AppRecord, MarketplaceRecord
from nebfs.model import Permissions

CONTAINERS, TURNKEY = 1, 104
"""The marketplaces' ids: 1 is one of a fresh cloud's own."""

MIRROR = "/turnkeylinux/images/proxmox/"
"""Where a mirror of TurnKey Linux has its archives for containers."""

ALPINE = "images/alpine/3.20/amd64/default/20260101_13:00"
DEBIAN = "images/debian/bookworm/amd64/default/20260103_05:24"
CORE = "debian-12-turnkey-core_18.1-1_amd64.tar.gz"
WORDPRESS = "debian-11-turnkey-wordpress_17.2-1_amd64.tar.gz"

_EXPIRED = "images/debian/bookworm/amd64/default/20260101_05:24"
_GONE = "images/debian/jessie/amd64/default/20260101_05:24"
_REPLACED = "debian-11-turnkey-wordpress_17.1-1_amd64.tar.gz"


def add_containers(cloud: Cloud, directory: Path, disk: MadeImage) -> None:
    """Add both marketplaces, their apps and what they publish; files are made in `directory`.

    `disk` is the disk of the one image that has one.
    """
    for number, name, driver, endpoint in (
        (CONTAINERS, "Linux Containers", "linuxcontainers", "{files}/"),
        (TURNKEY, "TurnKey Linux", "turnkeylinux", "{files}"),
    ):
        cloud.marketplaces[number] = MarketplaceRecord(
            number,
            name,
            permissions=Permissions(7, 4, 4) if number == CONTAINERS else Permissions(6, 0, 0),
            driver=driver,
            template=attributes(ENDPOINT=endpoint, MARKET_MAD=driver),
        )
    for path, file in {**image_server(directory, disk.path), **mirror(directory)}.items():
        cloud.published[path] = file
    for number, name, path in (
        (40, "alpine_3.20", f"{ALPINE}/rootfs.tar.xz"),
        (41, "debian_bookworm", f"{_EXPIRED}/rootfs.tar.xz"),
        (42, "debian_jessie", f"{_GONE}/rootfs.tar.xz"),
    ):
        _add_app(cloud, number, name, CONTAINERS, f"{{files}}/{path}", 2048)
    for number, name, archive in ((60, "core", CORE), (61, "wordpress", _REPLACED)):
        # OpenNebula's driver puts the double slashes there.
        _add_app(cloud, number, f"{name} - LXD", TURNKEY, f"{{files}}/{MIRROR}/{archive}", 5120)


def image_server(directory: Path, disk: Path) -> dict[str, Path]:
    """Return what a simplestreams server publishes, as files in `directory`, by URL path."""
    made = make_archives(directory / "archives")
    alpine = {
        "rootfs.tar.xz": made / "alpine.tar.xz",
        "incus.tar.xz": made / "incus.tar.xz",
        "disk.qcow2": disk,
    }
    squashfs = made / "alpine.squashfs"
    if squashfs.exists():
        alpine["rootfs.squashfs"] = squashfs
    debian = {"rootfs.tar.xz": made / "debian.tar.xz", "incus.tar.xz": made / "incus.tar.xz"}
    products = dict((_product(ALPINE, alpine), _product(DEBIAN, debian)))
    index = {"datatype": "image-downloads", "path": "streams/v1/images.json"}
    documents = {
        "index": {"format": "index:1.0", "index": {"images": {**index, "products": [*products]}}},
        "images": {
            "content_id": "images",
            "datatype": "image-downloads",
            "format": "products:1.0",
            "products": products,
        },
    }
    published = {f"/{ALPINE}/{name}": file for name, file in alpine.items()}
    published |= {f"/{DEBIAN}/{name}": file for name, file in debian.items()}
    for name, document in documents.items():
        file = directory / f"{name}.json"
        _write(file, json.dumps(document, indent=1).encode())
        published[f"/streams/v1/{name}.json"] = file
    return published


def mirror(directory: Path) -> dict[str, Path]:
    """Return what a mirror of TurnKey Linux publishes, as files in `directory`, by URL path.

    Under MIRROR itself is the page; one of the archives has no text of checksums.
    """
    made = make_archives(directory / "archives")
    _write(made / f"{CORE}.hash", _hashes(CORE, made / "core.tar.gz").encode())
    files = {
        CORE: made / "core.tar.gz",
        f"{CORE}.hash": made / f"{CORE}.hash",
        WORDPRESS: made / "wordpress.tar.gz",
    }
    links = "".join(f'<a href="{name}">{name}</a>  2026-01-01 00:00\n' for name in files)
    title = f"Index of {MIRROR}"
    page = f"<html><head><title>{title}</title></head><body><pre>{links}</pre></body></html>\n"
    _write(directory / "mirror.html", page.encode())
    return {f"{MIRROR}{name}": file for name, file in files.items()} | {
        MIRROR: directory / "mirror.html"
    }


def _add_app(
    cloud: Cloud, number: int, name: str, marketplace: int, url: str, size_mb: int
) -> None:
    """Add the record that the monitoring of these marketplaces makes of an image."""
    cloud.add_app(
        AppRecord(
            number,
            name,
            permissions=SHARED,
            marketplace_id=marketplace,
            regtime=EPOCH,
            source=f"lxd://{url}?size={size_mb}&filesystem=ext4&format=raw",
            # Of the driver's options and a date, in truth: of no bytes that anybody has.
            md5=hashlib.md5(url.encode(), usedforsecurity=False).hexdigest(),
            size_mb=size_mb,
            format="raw",
            version="1.0",
            description="Downloaded from {files}/",
            app_template64=base64_text('DRIVER="raw"\n'),
            template=attributes(
                APPTEMPLATE64=base64_text('DRIVER="raw"\n'),
                ARCHITECTURE="x86_64",
                HYPERVISOR="lxc",
                IMPORT_ID="-1",
                LINK=url,
                VERSION="1.0",
            ),
        )
    )


_FTYPES = {
    "rootfs.tar.xz": "root.tar.xz",
    "rootfs.squashfs": "squashfs",
    "incus.tar.xz": "incus.tar.xz",
    "disk.qcow2": "disk-kvm.img",
}


def _product(directory: str, files: Mapping[str, Path]) -> tuple[str, JsonObject]:
    """Return a product of one build: its key and its entry."""
    _, system, release, arch, variant, serial = directory.split("/")
    items = {
        _FTYPES[name]: {
            "ftype": _FTYPES[name],
            "path": f"{directory}/{name}",
            "size": file.stat().st_size,
            "sha256": digests(file)[1],
        }
        for name, file in files.items()
    }
    return f"{system}:{release}:{arch}:{variant}", {
        "aliases": f"{system}/{release}/{variant},{system}/{release}",
        "arch": arch,
        "os": system.capitalize(),
        "release": release,
        "release_title": release,
        "variant": variant,
        "versions": {serial: {"items": items}},
    }


def _hashes(name: str, file: Path) -> str:
    """Return the signed text beside an archive. Its signature is of nobody."""
    data = file.read_bytes()
    lines = [
        f"    $ {algorithm}sum {name}\n      {hashlib.new(algorithm, data).hexdigest()}  {name}\n"
        for algorithm in ("sha256", "sha512")
    ]
    return "\n".join(
        (
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n",
            "To ensure the image has not been corrupted in transit, verify it:\n",
            *lines,
            "-----BEGIN PGP SIGNATURE-----\n",
            base64_text("made by `nebfs demo`, which has no key"),
            "-----END PGP SIGNATURE-----\n",
        )
    )


def _write(file: Path, content: bytes) -> None:
    """Write what is not there yet: a file that stays as it is keeps its validators."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_bytes() != content:
        part = file.with_name(f"{file.name}.part")
        part.write_bytes(content)
        part.replace(file)
