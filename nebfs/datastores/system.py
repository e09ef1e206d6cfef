"""System datastores: the disks of VMs that do not run, where an administrator wants to see them.

The files are in ``BASE_PATH/<VM's id>/`` on the host where the VM was last: here, if that is this
machine, if the datastore is mounted on it, or when the front-end took the files back (undeployed,
stopped). A VM may be started at any moment, so nothing of a disk is kept.
Source: OpenNebula's transfer drivers, 7.4.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import trio

from nebfs.datastores.machine_files import File, Strange, files_of
from nebfs.datastores.places import PathMap, plain
from nebfs.errors import Unreachable
from nebfs.model import (
    Content,
    Datastore,
    Holding,
    Locator,
    MachineDisk,
    Parked,
    Part,
    Trouble,
    VirtualMachine,
    shown_line,
)

T = TypeVar("T")

_THREADS = 4  # for each datastore: a dead NFS server holds no more, and not those of the others
_BATCH = 64  # VMs; each has some files to look at

_DISK_TROUBLE = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.EREMOTEIO})
_NOT_HERE = frozenset({errno.ENOENT, errno.ENOTDIR})

_Looked = tuple[tuple[File, ...], str] | Trouble | OSError
"""The files and what is beneath them, or why there are none; an OSError is the disk's."""


class SystemDatastore:
    """Looks at the files of VMs, in worker threads that are abandoned when a disk hangs."""

    def __init__(self, *, paths: Mapping[str, str]) -> None:
        """`paths`: path prefix as the front-end says it -> the same place on this machine."""
        self._map = PathMap(paths)
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def parked(
        self,
        datastore: Datastore,
        machines: Sequence[VirtualMachine],
        images: Mapping[int, Holding],
    ) -> tuple[Parked, ...]:
        """Return the disks of `machines`, which are at rest, by ascending id. `images` are those
        that disks may build on, by id. Raises Unreachable when the disk gives an I/O error for all.
        """
        ordered = sorted(machines, key=lambda machine: machine.id)
        limiter = self._limiters.setdefault(datastore.id, trio.CapacityLimiter(_THREADS))
        looked: dict[tuple[int, int], _Looked] = {}

        async def batch(some: Sequence[VirtualMachine]) -> None:
            work = partial(self._look, datastore, some)
            looked.update(
                await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
            )

        async with trio.open_nursery() as nursery:
            for start in range(0, len(ordered), _BATCH):
                nursery.start_soon(batch, ordered[start : start + _BATCH])
        failed = [one for one in looked.values() if isinstance(one, OSError)]
        if failed and len(failed) == len(looked):
            raise Unreachable("the datastore's disk gives errors", n=failed[0].errno)
        return tuple(
            Parked(m, tuple(_part(d, looked[m.id, d.id], images) for d in m.disks)) for m in ordered
        )

    def _look(
        self, datastore: Datastore, machines: Sequence[VirtualMachine]
    ) -> dict[tuple[int, int], _Looked]:
        """Look at the files of each disk. Blocks."""
        theirs = plain(datastore.base_path)
        base = self._map.local(theirs)
        host, _ = self._map.remote(theirs)
        found: dict[tuple[int, int], _Looked] = {}
        for machine in machines:
            for disk in machine.disks:
                found[machine.id, disk.id] = _looked_at(base, machine, disk, elsewhere=bool(host))
        return found


def _looked_at(
    base: str, machine: VirtualMachine, disk: MachineDisk, *, elsewhere: bool
) -> _Looked:
    if base in {"", "/"}:
        return Trouble(errno.EIO, "the datastore has no usable BASE_PATH")
    chained = disk.format.lower() == "qcow2"
    try:
        return files_of(f"{base}/{machine.id}", disk.id, chained=chained)
    except Strange as exc:
        return Trouble(exc.errno, str(exc))
    except OSError as exc:
        number = exc.errno or errno.EIO
        if number in _DISK_TROUBLE:
            return exc
        if number in _NOT_HERE:
            return _not_here(machine, disk, elsewhere=elsewhere)
        if number in {errno.EACCES, errno.EPERM}:
            return Trouble(errno.EACCES, "nebfs's own user may not look at the VM's files")
        return Trouble(errno.EIO, f"its file cannot be looked at (error {number})")


def _not_here(machine: VirtualMachine, disk: MachineDisk, *, elsewhere: bool) -> Trouble:
    if disk.type.upper().startswith("RBD"):
        return Trouble(
            errno.EOPNOTSUPP, "the disk is in a Ceph pool: nebfs reads only files of VMs"
        )
    if elsewhere:
        return Trouble(
            errno.EOPNOTSUPP, "the VM's files are on another machine: mount its datastore here"
        )
    # Not ENOENT: rsync takes that for "vanished" and carries on without the disk.
    host = shown_line(machine.host) or "none"
    return Trouble(
        errno.EIO,
        f"its file is not on this machine; the host where the VM was last is {host}: mount the"
        " datastore here, and map it with [datastores.paths]",
    )


def _part(disk: MachineDisk, looked: _Looked, images: Mapping[int, Holding]) -> Part:
    name = f"disk.{disk.id}"
    made: Content | Trouble
    if isinstance(looked, OSError):
        made = Trouble(errno.EIO, f"its file cannot be looked at (error {looked.errno})")
    elif isinstance(looked, Trouble):
        made = looked
    else:
        made = _content(disk, *looked, images)
    if isinstance(made, Trouble):
        return Part(name, trouble=made)
    return Part(name, made, date=0)


def _content(
    disk: MachineDisk, files: Sequence[File], beneath: str, images: Mapping[int, Holding]
) -> Content | Trouble:
    content: Content | None = None
    if beneath:
        lowest = _of_image(disk, beneath, images)
        if isinstance(lowest, Trouble):
            return lowest
        content = lowest
    if not files:
        if content is None:
            return Trouble(errno.EIO, "its link says nothing")
        # It is the image itself: one file is shown as it is stored.
        return content if content.backing is not None else replace(content, view="")
    viewed = len(files) > 1 or content is not None
    for file in reversed(files):
        content = Content(
            Locator("file", file.path),
            format="qcow2" if file.qcow2 else _format(disk),
            media=_media(disk),
            revision=file.revision,
            allocated=file.allocated,
            view="raw" if viewed and file.qcow2 else "",
            backing=content,
            volatile=True,
        )
    assert content is not None  # noqa: S101 - there is one file at least
    return content


def _of_image(disk: MachineDisk, text: str, images: Mapping[int, Holding]) -> Content | Trouble:
    """Return what the disk's image is, if `text` names a file of it; never what is at `text`."""
    if text.startswith("/dev/"):
        return Trouble(errno.EOPNOTSUPP, "it is a block device: nebfs reads only files of VMs")
    holding = images.get(disk.image_id)
    if holding is None:
        return Trouble(errno.EACCES, "it builds on a file that is of no image which nebfs lists")
    image = f"image {disk.image_id} ({shown_line(holding.image.name)})"
    if holding.trouble is not None:
        return Trouble(
            holding.trouble.errno, f"it builds on {image}, of which: {holding.trouble.reason}"
        )
    layer = holding.content
    while layer is not None:
        if layer.locator.transport == "file" and _same_file(layer.locator.address, text):
            nested = layer.backing is not None or layer.format.lower() == "qcow2"
            return replace(layer, view="raw" if nested else "", volatile=True)
        layer = layer.backing
    return Trouble(errno.EACCES, f"it builds on a file that is none of {image}")


def _same_file(path: str, text: str) -> bool:
    """Whether `text` names `path`: by its last part, and the directory if that is of snapshots."""
    ours = path.split("/")
    theirs = [part for part in text.split("/") if part not in {"", "."}]
    count = 2 if len(ours) > 1 and ours[-2].endswith(".snap") else 1
    return ours[-count:] == theirs[-count:]


def _media(disk: MachineDisk) -> str:
    return "cdrom" if disk.type.upper().endswith("CDROM") else ""


def _format(disk: MachineDisk) -> str:
    # A record says qcow2 and the file is none: it is what its bytes are.
    return "raw" if disk.format.lower() in {"", "qcow2"} else disk.format
