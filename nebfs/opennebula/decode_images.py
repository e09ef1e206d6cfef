"""DATASTORE and IMAGE documents.

Older versions: FSTYPE instead of FORMAT and FS before 6.0 (TEMPLATE/DRIVER then told the disk
format), no MODTIME before 7.0. BASE_PATH and SOURCE are kept as OpenNebula writes them, double
slashes and the ``-`` of some drivers included: the drivers know what theirs mean.
"""

from __future__ import annotations

from nebfs.model import (
    Datastore,
    DatastoreType,
    DiskType,
    Image,
    ImageState,
    ImageType,
    Increment,
    Snapshot,
)
from nebfs.opennebula.document import Node, objects

# What FSTYPE of a version before 6.0 holds when it names a disk format, not a file system.
_DISK_FORMATS = frozenset({"qcow2", "raw", "vmdk"})


def decode_datastores(document: str) -> tuple[Datastore, ...]:
    """Read a DATASTORE_POOL or a single DATASTORE, by ascending id.

    Their templates may hold passwords. Raises MalformedDocument.
    """
    found = (_datastore(node) for node in objects(document, "DATASTORE"))
    return tuple(sorted(found, key=lambda datastore: datastore.id))


def decode_images(document: str) -> tuple[Image, ...]:
    """Read an IMAGE_POOL or a single IMAGE, by ascending id. Raises MalformedDocument."""
    found = (_image(node) for node in objects(document, "IMAGE"))
    return tuple(sorted(found, key=lambda image: image.id))


def _datastore(node: Node) -> Datastore:
    return Datastore(
        **node.identity(),
        driver=node.text("DS_MAD"),
        transfer=node.text("TM_MAD"),
        base_path=node.text("BASE_PATH"),
        type=DatastoreType(node.number("TYPE", -1)),
        enabled=node.number("STATE") == 0,
        total_mb=node.number("TOTAL_MB"),
        free_mb=node.number("FREE_MB"),
        used_mb=node.number("USED_MB"),
        image_ids=node.ids("IMAGES"),
        template=node.template(),
    )


def _image(node: Node) -> Image:
    template = node.template()
    snapshots = node.node("SNAPSHOTS")
    format_, filesystem = node.text("FORMAT"), node.text("FS")
    if "FORMAT" not in node:
        fstype = node.text("FSTYPE")
        of_disk = fstype if fstype in _DISK_FORMATS else ""
        format_ = template.get("DRIVER") or of_disk
        filesystem = filesystem or ("" if of_disk else fstype)
    return Image(
        **node.identity(),
        datastore_id=node.number("DATASTORE_ID", -1),
        datastore=node.text("DATASTORE"),
        type=ImageType(node.number("TYPE", -1)),
        disk_type=DiskType(node.number("DISK_TYPE", -1)),
        state=ImageState(node.number("STATE", -1)),
        persistent=node.number("PERSISTENT") == 1,
        source=node.text("SOURCE"),
        path=node.text("PATH"),
        format=format_,
        filesystem=filesystem,
        size_mb=node.number("SIZE"),
        regtime=node.number("REGTIME"),
        modtime=node.number("MODTIME"),
        running_vms=node.number("RUNNING_VMS"),
        vm_ids=node.ids("VMS"),
        lock=node.lock(),
        snapshots=_snapshots(snapshots),
        current_base=-1 if snapshots is None else snapshots.number("CURRENT_BASE", -1),
        next_snapshot=0 if snapshots is None else snapshots.number("NEXT_SNAPSHOT"),
        increments=_increments(node.node("BACKUP_INCREMENTS")),
        disk_ids=node.ids("BACKUP_DISK_IDS"),
        template=template,
    )


def _snapshots(node: Node | None) -> tuple[Snapshot, ...]:
    if node is None:
        return ()
    found = (
        Snapshot(
            id=entry.object_id(),
            name=entry.text("NAME"),
            date=entry.number("DATE"),
            size_mb=entry.number("SIZE"),
            parent=entry.number("PARENT", -1),
            active=entry.text("ACTIVE") == "YES",
        )
        for entry in node.nodes("SNAPSHOT")
    )
    return tuple(sorted(found, key=lambda snapshot: snapshot.id))


def _increments(node: Node | None) -> tuple[Increment, ...]:
    if node is None:
        return ()
    found = (
        Increment(
            id=entry.object_id(),
            parent=entry.number("PARENT_ID", -1),
            full=entry.text("TYPE") == "FULL",
            date=entry.number("DATE"),
            source=entry.text("SOURCE"),
            size_mb=entry.number("SIZE"),
        )
        for entry in node.nodes("INCREMENT")
    )
    return tuple(sorted(found, key=lambda increment: increment.id))
