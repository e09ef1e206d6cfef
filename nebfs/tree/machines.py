"""The inside of a system datastore: a directory for each VM that does not run, with its disks."""

from __future__ import annotations

from functools import partial

from nebfs.catalog.snapshot import DatastoreListing
from nebfs.content.formats import claimed
from nebfs.model import Content, MachineDisk, Parked
from nebfs.tree import attributes
from nebfs.tree.images import Answers, content_file
from nebfs.tree.names import distinct, encode
from nebfs.tree.nodes import ContentFile, MachineDirectory, Node


def directories(listing: DatastoreListing) -> dict[str, Node]:
    """Return the directories of VMs, by name: the id and what somebody called it."""
    parked = {one.machine.id: one for one in listing.parked}
    names = distinct((i, encode(f"{i}-{one.machine.name}"), "") for i, one in parked.items())
    return {
        names[i]: MachineDirectory(
            name=names[i],
            key=("vm", i),
            parked=one,
            attributes=partial(attributes.of_machine, one.machine),
        )
        for i, one in sorted(parked.items())
    }


def files(directory: MachineDirectory, answers: Answers) -> dict[str, ContentFile]:
    """Return the disks of a VM, by name."""
    parked = directory.parked
    entries: dict[str, ContentFile] = {}
    for part, name in zip(parked.disks, _names(parked), strict=True):
        entries[name] = content_file(
            name,
            part.content,
            part.trouble,
            answers,
            key=("vm-disk", parked.machine.id, name),
            date=part.date,
            shown=partial(attributes.of_machine, parked.machine),
        )
    return entries


def _names(parked: Parked) -> list[str]:
    """Return what each disk is called: ``disk.0.qcow2``. Their numbers differ, and so do these."""
    records = {f"disk.{disk.id}": disk for disk in parked.machine.disks}
    return [
        f"{part.name}.{_extension(part.content, records.get(part.name))}" for part in parked.disks
    ]


def _extension(content: Content | None, disk: MachineDisk | None) -> str:
    if content is not None:
        return content.view or claimed(content.format, content.media).extension
    if disk is None:
        return "raw"
    media = "cdrom" if disk.type.upper().endswith("CDROM") else ""
    return claimed(disk.format, media).extension
