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


@dataclass(frozen=True, slots=True)
class Kind:
    """A form in which the guest's disk is stored: its name's ending, and how it is made of it."""

    ending: str
    driver: str
    """What OpenNebula calls it (FORMAT)."""
    words: tuple[str, ...] = ()
    """Of qemu-img, after ``convert -f raw``; none for what qemu-img does not make."""


KINDS = {
    "raw": Kind("raw", "raw"),
    "qcow2": Kind("qcow2", "qcow2", ("-O", "qcow2")),
    "qcow2 zlib": Kind("qcow2", "qcow2", ("-c", "-O", "qcow2")),
    "qcow2 zstd": Kind("qcow2", "qcow2", ("-c", "-O", "qcow2", "-o", "compression_type=zstd")),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a form of the disk is below the mount."""

    root: Path
    place: str
    kind: str

    @property
    def published(self) -> Path:
        """The file as it was published or stored."""
        return self._within(self.root / PLACES[self.place], KINDS[self.kind].ending)

    @property
    def inside(self) -> Path:
        """The disk inside of it, as the raw face shows it."""
        return self._within(self.root / "raw" / PLACES[self.place], "raw")

    def _within(self, directory: Path, ending: str) -> Path:
        name = f"guest {self.kind}"
        if PLACES[self.place].startswith("marketplaces/"):
            directory /= name
        return directory / f"{name}.{ending}"


def make_forms(home: Path, guest: Guest) -> dict[str, Path]:
    """Make a file of each form; return them by the form's name."""
    forms = {"raw": guest.disk}
    for name, kind in KINDS.items():
        if kind.words:
            forms[name] = home / f"{name}.{kind.ending}"
            words = ["qemu-img", "convert", "-q", "-f", "raw", *kind.words, guest.disk, forms[name]]
            subprocess.run(words, check=True, timeout=60)
    return forms


def add_disks(cloud: Cloud, forms: dict[str, Path]) -> None:
    """Let every place of PLACES have every form."""
    for offset, (name, file) in enumerate(forms.items()):
        title, kind = f"guest {name}", KINDS[name]
        md5, sha256 = digests(file)
        size = file.stat().st_size
        made = MadeImage(file, size, forms["raw"].stat().st_size, md5, sha256, kind.driver)
        published = f"guest-{offset}.{kind.ending}"
        _publish_disks(cloud, 1000 + offset, title, "OS", [(published, made)])
        cloud.published[f"/market/{published}"] = file
        _add_app(cloud, 1100 + offset, title, PRIVATE_HTTP, f"{{files}}/market/{published}", made)
        key = f"{BUCKET}/marketapp-{1200 + offset}"
        cloud.objects[f"/{key}"] = file
        _add_app(cloud, 1200 + offset, title, PRIVATE_S3, f"s3://{key}", made)
        source = Path(cloud.datastores[DEFAULT].base_path) / f"{offset:032x}"
        os.link(file, source)
        cloud.add_image(
            ImageRecord(
                1000 + offset,
                title,
                datastore_id=DEFAULT,
                type=ImageType.OS,
                source=os.fspath(source),
                format=kind.driver,
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
