"""A cloud that has the guest's disk in its marketplaces and datastores, and a mount of it.

The servers are the demonstration's, on loopback, and real ones (Ceph, an iSCSI target, an object
store) where a test asks for all places; the mount is a kernel's, and what reads from it is real.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nebfs.demo.catalogue import _publish_disks, base64_text
from nebfs.demo.cloud import Cloud, digests
from nebfs.demo.demonstration import DEFAULT, PRIVATE_HTTP
from nebfs.demo.images import MadeImage
from nebfs.demo.objects import BUCKET, PRIVATE_S3
from nebfs.demo.records import AppRecord, ImageRecord
from nebfs.model import ImageType, Template
from tests.hypervisors.guest import Guest

PLACES = {
    "one": "marketplaces/OpenNebula Public",
    "http": "marketplaces/Private HTTP",
    "s3": "marketplaces/Private S3",
    "fs": "datastores/default",
}
"""The kind of each marketplace and datastore that every run has, and where the mount shows it."""


AS_PUBLISHED, INSIDE = "as published", "raw face"
REFUSED = "refused: `Read-only file system`"


@dataclass(frozen=True, slots=True)
class Kind:
    """A form in which the guest's disk is stored: its name's ending, and how it is made of it."""

    ending: str
    qemu: str
    """What QEMU and OpenNebula (FORMAT) call it."""
    words: tuple[str, ...] = ()
    """Of qemu-img, after ``convert -f raw``; none for what qemu-img does not make."""
    packer: str = ""
    """What packs it then."""

    @property
    def faces(self) -> tuple[str, ...]:
        """Those that QEMU can read."""
        return (INSIDE,) if self.packer else (AS_PUBLISHED, INSIDE)


KINDS = {
    "raw": Kind("raw", "raw"),
    "qcow2": Kind("qcow2", "qcow2", ("-O", "qcow2")),
    "qcow2, zlib": Kind("qcow2", "qcow2", ("-c", "-O", "qcow2")),
    "qcow2, zstd": Kind("qcow2", "qcow2", ("-c", "-O", "qcow2", "-o", "compression_type=zstd")),
    "vmdk": Kind("vmdk", "vmdk", ("-O", "vmdk")),
    "vmdk, streamOptimized": Kind(
        "vmdk", "vmdk", ("-O", "vmdk", "-o", "subformat=streamOptimized")
    ),
    "vdi": Kind("vdi", "vdi", ("-O", "vdi")),
    # Else it is rounded up to whole cylinders.
    "vhd": Kind("vhd", "vpc", ("-O", "vpc", "-o", "force_size=on")),
    "vhdx": Kind("vhdx", "vhdx", ("-O", "vhdx")),
    "raw, gzip": Kind("raw.gz", "raw", packer="gzip"),
    "raw, bzip2": Kind("raw.bz2", "raw", packer="bzip2"),
    "raw, xz": Kind("raw.xz", "raw", packer="xz"),
    "raw, zstd": Kind("raw.zst", "raw", packer="zstd"),
    "qcow2, gzip": Kind("qcow2.gz", "qcow2", ("-O", "qcow2"), packer="gzip"),
}


@dataclass(frozen=True, slots=True)
class Disk:
    """A file of the mount, and what QEMU is to take it for."""

    path: Path
    form: str

    def drive(self, words: str) -> str:
        """Return the value of QEMU's -drive."""
        return f"file={self.path},format={self.form},{words}"


def disk_of(root: Path, place: str, kind: str, face: str) -> Disk:
    """Return where a form of the guest's disk is below the mount at `root`."""
    inside = face == INSIDE
    directory = root / "raw" / PLACES[place] if inside else root / PLACES[place]
    name = title(kind)
    if PLACES[place].startswith("marketplaces/"):
        directory /= name
    ending = "raw" if inside else KINDS[kind].ending
    return Disk(directory / f"{name}.{ending}", "raw" if inside else KINDS[kind].qemu)


def title(kind: str) -> str:
    """Return the name of the app or image. A comma would have to be doubled for QEMU's -drive."""
    return f"guest {kind.replace(',', '')}"


def make_forms(home: Path, guest: Guest) -> dict[str, Path]:
    """Make a file of each form; return them by the form's name."""
    forms = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        made = guest.disk
        if kind.words:
            made = home / f"{number}.{kind.qemu}"
            # "unsafe": nobody waits for the disk.
            convert = ("qemu-img", "convert", "-q", "-t", "unsafe", "-f", "raw")
            words = [*convert, *kind.words, guest.disk, made]
            subprocess.run(words, check=True, timeout=60)
        if kind.packer:
            unpacked, made = made, home / f"{number}.{kind.ending}"
            with open(made, "wb") as file:
                words = [kind.packer, "-1", "-c", unpacked]
                subprocess.run(words, stdout=file, check=True, timeout=60)
        forms[name] = made
    return forms


def add_disks(cloud: Cloud, forms: dict[str, Path]) -> None:
    """Let every place of PLACES have every form."""
    for offset, (name, file) in enumerate(forms.items()):
        named, kind = title(name), KINDS[name]
        md5, sha256 = digests(file)
        size = file.stat().st_size
        made = MadeImage(file, size, forms["raw"].stat().st_size, md5, sha256, kind.qemu)
        published = f"guest-{offset}.{kind.ending}"
        _publish_disks(cloud, 1000 + offset, named, "OS", [(published, made)])
        cloud.published[f"/market/{published}"] = file
        _add_app(cloud, 1100 + offset, named, PRIVATE_HTTP, f"{{files}}/market/{published}", made)
        key = f"{BUCKET}/marketapp-{1200 + offset}"
        cloud.objects[f"/{key}"] = file
        _add_app(cloud, 1200 + offset, named, PRIVATE_S3, f"s3://{key}", made)
        source = Path(cloud.datastores[DEFAULT].base_path) / f"{offset:032x}"
        os.link(file, source)
        cloud.add_image(
            ImageRecord(
                1000 + offset,
                named,
                datastore_id=DEFAULT,
                type=ImageType.OS,
                source=os.fspath(source),
                format=kind.qemu,
                size_mb=made.size_mb,
            )
        )


def _add_app(
    cloud: Cloud, number: int, name: str, market: int, source: str, made: MadeImage
) -> None:
    definition = base64_text('DEV_PREFIX="vd"\nTYPE="OS"\n')
    cloud.add_app(
        AppRecord(
            number,
            name,
            marketplace_id=market,
            source=source,
            md5=made.md5,
            size_mb=made.size_mb,
            format=made.format,
            app_template64=definition,
            template=Template((("APPTEMPLATE64", definition), ("TYPE", "IMAGE"))),
        )
    )
