"""The files of a backup that is kept in increments: which disk, at which moment, over which file.

Each run of a backup leaves ``disk.<D>.<INC>`` for each disk of the VM, where INC is the increment's
id (0 in a backup of mode full), and ``vm.xml``, base64 of the VM's document. The first run holds
whole disks; each later one a qcow2 file with what has changed since the run before. What its header
calls its backing file is the socket of a server that is gone, or a path of some earlier restore:
only the order of the increments counts. Older ones are merged into the first that is kept.

Native backups of Ceph are streams, ``disk.<D>.rbd2`` and ``disk.<D>.<INC>.rbdiff``: as they are.
Source: OpenNebula 7.4, its backup actions and ``increment_flatten``.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from nebfs.content.layers.qcow2_header import names_backing
from nebfs.datastores.entries import Entry
from nebfs.datastores.snapshots import revision_of
from nebfs.model import Content, Image, Locator, Part, Trouble

_DISK = re.compile(r"disk\.(?P<disk>[0-9]{1,9})\.(?P<run>[0-9]{1,9})")
_STREAM = re.compile(r"disk\.[0-9]{1,9}(?:\.[0-9]{1,9})?\.(?P<format>rbd2|rbdiff)")
_OTHER = re.compile(r"disk\.[A-Za-z0-9._-]{1,100}")
_DOCUMENT = "vm.xml"

Locate = Callable[[str], Locator]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a backup. `source` is its id at the place where it is kept."""

    number: int
    source: str
    full: bool
    date: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What there is of a run: the entries of its directory, or the errno of looking for them."""

    run: Run
    entries: tuple[Entry, ...] = ()
    failed: int = 0


def runs_of(image: Image) -> tuple[Run, ...]:
    """Return the runs of a backup, the oldest first."""
    if not image.increments:
        return (Run(0, image.source, full=True, date=image.regtime),)
    ordered = sorted(image.increments, key=lambda one: one.id)
    return tuple(
        Run(one.id, one.source, full=one.full or number == 0, date=one.date)
        for number, one in enumerate(ordered)
    )


def parts_of(image: Image, kept: Sequence[Kept], locate: Locate) -> tuple[Part, ...]:
    """Return the files of a backup: each disk at each run, and what else was kept."""
    disks = sorted({number for one in kept for number in _disks(one)})
    parts: dict[str, Part] = {}
    for disk in disks:
        moments = _moments if image.increments else _whole
        for part in moments(disk, kept, locate):
            parts[part.name] = part
    for part in _others(kept, locate, several=len(kept) > 1):
        parts.setdefault(part.name, part)
    if all(one.failed == 0 for one in kept):
        for disk in image.disk_ids:
            if not any(name.startswith(f"disk.{disk}.") for name in parts):
                lost = Trouble(errno.EIO, "the backup has no file of this disk")
                parts[f"disk.{disk}"] = Part(f"disk.{disk}", trouble=lost)
    return tuple(parts.values())


def _disks(kept: Kept) -> dict[int, Entry]:
    """Return the disks that a run has, by number; the name with the run's own number counts."""
    found: dict[int, Entry] = {}
    for entry in kept.entries:
        name = _DISK.fullmatch(entry.name)
        if name is None:
            continue
        disk = int(name["disk"])
        if disk not in found or int(name["run"]) == kept.run.number:
            found[disk] = entry
    return found


def _whole(disk: int, kept: Sequence[Kept], locate: Locate) -> Iterator[Part]:
    """A disk of a full backup: its file. One that names a backing file is no use as it is."""
    for one in kept:
        file = _disks(one).get(disk)
        if file is None:
            continue
        trouble = _unreadable(file)
        if trouble is not None:
            yield Part(file.name, trouble=trouble, date=one.run.date)
        else:
            content = _content(file, one.run, locate, None, raw=names_backing(file.head))
            yield Part(file.name, content, date=one.run.date)


def _moments(disk: int, kept: Sequence[Kept], locate: Locate) -> Iterator[Part]:
    """A disk at each run of an incremental backup."""
    below: Content | Trouble | None = None
    had = False
    for one in kept:
        run = one.run
        name = f"disk.{disk}.{run.number}"
        if one.failed:
            below = _lost(one)
            yield Part(name, trouble=below, date=run.date)
            continue
        file = _disks(one).get(disk)
        if file is None:
            # Before its first file the VM may not have had it; that file tells.
            below = Trouble(errno.EIO, f"its file of increment {run.number} is not there")
            if had:
                yield Part(name, trouble=below, date=run.date)
            continue
        had = True
        below = _next(file, run, below, locate)
        if isinstance(below, Trouble):
            yield Part(name, trouble=below, date=run.date)
        else:
            yield Part(name, below, date=run.date)


def _next(
    file: Entry, run: Run, below: Content | Trouble | None, locate: Locate
) -> Content | Trouble:
    """Return a disk at one run; `below` is what it was at the run before."""
    trouble = _unreadable(file)
    if trouble is not None:
        return trouble
    if run.full or not file.is_qcow2:
        return _content(file, run, locate, None, raw=file.is_qcow2, pinned=True)
    if isinstance(below, Content):
        return _content(file, run, locate, below, raw=True, pinned=True)
    if not names_backing(file.head):
        # A disk that the VM got later.
        return _content(file, run, locate, None, raw=True, pinned=True)
    return below or Trouble(errno.EIO, "there is no full backup beneath it")


def _others(kept: Sequence[Kept], locate: Locate, *, several: bool) -> Iterator[Part]:
    """Whatever else a run has kept, as it is."""
    for one in kept:
        for entry in one.entries:
            stream = _STREAM.fullmatch(entry.name)
            name, kind = entry.name, ""
            if stream is not None:
                kind = stream["format"]
            elif entry.name == _DOCUMENT:
                name, kind = (f"vm.{one.run.number}" if several else "vm"), "xml"
            elif _DISK.fullmatch(entry.name) or not _OTHER.fullmatch(entry.name):
                continue
            elif several:
                name = f"{entry.name}.{one.run.number}"
            if entry.kind != "file":
                continue
            trouble = _unreadable(entry)
            if trouble is not None:
                yield Part(name, trouble=trouble, date=one.run.date)
            else:
                content = _content(entry, one.run, locate, None, raw=False, kind=kind)
                yield Part(name, content, date=one.run.date)


def _content(
    file: Entry,
    run: Run,
    locate: Locate,
    backing: Content | None,
    *,
    raw: bool,
    kind: str = "",
    pinned: bool = False,
) -> Content:
    return Content(
        locate(file.path),
        format=kind or ("qcow2" if file.is_qcow2 else "raw"),
        # Merging older increments makes another file under the same name.
        version=f"{run.number}.{'full' if run.full else 'increment'}",
        # What is put together must be of one time. A file by itself is asked about when the backup
        # is opened: one that has been touched since it was listed can be read.
        revision=revision_of(file) if pinned else None,
        allocated=file.allocated,
        view="raw" if raw else "",
        backing=backing,
    )


def _unreadable(file: Entry) -> Trouble | None:
    if file.kind != "file":
        return Trouble(errno.EOPNOTSUPP, f"a {file.kind} is where its file should be")
    if file.failed:
        return Trouble(file.failed, "its file may not be read")
    return None


def _lost(kept: Kept) -> Trouble:
    match kept.failed:
        case errno.ENOENT | errno.ENOTDIR:
            text = "is not where it is kept"
        case errno.EACCES | errno.EPERM:
            text = "may not be entered"
        case errno.EOVERFLOW:
            text = "has too many files"
        case other:
            text = f"cannot be looked at (error {other})"
    number = errno.EACCES if kept.failed in {errno.EACCES, errno.EPERM} else errno.EIO
    return Trouble(number, f"the directory of increment {kept.run.number} {text}")
