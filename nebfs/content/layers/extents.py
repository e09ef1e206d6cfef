"""A logical volume that is not active, read from the disks that it is on. Only linear ones.

Where each part of it is, is in the metadata of its group. Somebody may change that at any moment,
on another machine too, and give the place to another volume. So after each read it is looked
whether the metadata is still the same, before the bytes are believed: every change of it
replaces the header of the metadata area. Disks are read past this machine's page cache.

Source: LVM2's format of labels and of the header of a metadata area (lib/format_text/layout.h,
lib/label/label.h), seen on disks made with LVM 2.03.
"""

from __future__ import annotations

import os
import re
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import trio

from nebfs.content import lvm_report as report
from nebfs.content.layers import devices
from nebfs.content.layers.waiting import threads_of
from nebfs.content.stack import ReaderFacts
from nebfs.errors import BadAnswer, Busy, Changed, Missing, NebfsError, Unsupported
from nebfs.model import Revision

_TRIES = 5
"""How often a group may change under a read before that fails."""

_SECTOR = 512
_HEADER = 512  # bytes of a metadata area's header
_MAGIC = b" LVM2 x[5A%r0N*>"
_IGNORED = 1  # flag of a metadata area that is not kept up to date
_MOST_DISKS = 1024
_RANGE = re.compile(r"(/[^:\s]+):([0-9]{1,12})-([0-9]{1,12})", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    size: int
    fd: int
    at: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a volume's bytes are, as long as the header at `guard` (descriptor, offset) is this."""

    volume: report.Volume
    pieces: tuple[_Piece, ...]
    guard: tuple[int, int]
    header: bytes

    def holds(self) -> bool:
        fd, offset = self.guard
        return devices.read_fresh(fd, _HEADER, offset) == self.header

    def read(self, length: int, offset: int) -> bytes:
        found = bytearray()
        for piece in self.pieces:
            first = max(offset, piece.start)
            stop = min(offset + length, piece.start + piece.size)
            if first < stop:
                at = piece.at + first - piece.start
                data = devices.read_fresh(piece.fd, stop - first, at)
                if len(data) != stop - first:
                    raise Changed("a disk of the volume became shorter")
                found += data
        return bytes(found)


class Extents:
    """Reads one linear volume (``group/name``) for as long as it is the same one."""

    def __init__(self, volume: str, patience: float) -> None:
        """`patience`: seconds for each of LVM's commands. Use ``open``."""
        self._group, _, self._name = volume.partition("/")
        self._patience = patience
        self._fds: dict[int, int] = {}  # number of the device -> descriptor
        self._changing = threading.Lock()
        self._opening = threading.Lock()
        self._closed = False
        self._layout: _Layout | None = None
        self._last_error = ""
        self.size = 0
        self.revision = Revision(0)

    @classmethod
    async def open(cls, volume: str, revision: Revision, patience: float) -> Extents:
        """Find the volume; `patience` as for the class.

        Raises Missing, Unsupported (not linear), Changed or NebfsError.
        """
        self = cls(volume, patience)
        try:
            await trio.to_thread.run_sync(
                self.find, limiter=threads_of(self._group), abandon_on_cancel=True
            )
            difference = revision.differs_from(self.revision)
            if difference:
                raise Changed("the image's volume is another one now", what=difference)
        except BaseException:
            self.close()
            raise
        return self

    def find(self) -> None:
        """Look up where the volume is. Blocks."""
        self._layout = self._find(None)
        volume = self._layout.volume
        self.size = volume.size
        self.revision = Revision(volume.size, etag_of(volume))

    def read(self, length: int, offset: int) -> bytes:
        """Return `length` bytes at `offset`. Blocks. Raises Changed, Busy or NebfsError."""
        try:
            for _ in range(_TRIES):
                layout = self._layout
                assert layout is not None  # noqa: S101 - find() was there first
                data = layout.read(length, offset)
                if layout.holds():
                    return data
                with self._changing:
                    if self._layout is layout:
                        self._layout = self._find(layout.volume)
        except OSError as exc:
            raise NebfsError(f"cannot read the volume's disk: {exc.strerror}") from exc
        raise Busy("the volume group is being changed all the time", group=self._group)

    def _find(self, before: report.Volume | None) -> _Layout:
        try:
            for _ in range(_TRIES):
                disks = report.disks(self._group, self._patience)
                guard = self._guard(disks)
                header = devices.read_fresh(guard[0], _HEADER, guard[1])
                volume = report.volumes(self._group, self._patience).get(self._name)
                if devices.read_fresh(guard[0], _HEADER, guard[1]) == header:
                    break
            else:
                raise Busy("the volume group is being changed all the time", group=self._group)
            if volume is None:
                raise Missing("the image's volume is not there any more", volume=self._name)
            if before is not None and (before.uuid, before.size) != (volume.uuid, volume.size):
                raise Changed("the image's volume is another one now")
            pieces = tuple(self._pieces(volume, disks))
            return _Layout(volume, pieces, guard, header)
        except OSError as exc:
            raise NebfsError(f"cannot read the volume's disks: {exc.strerror}") from exc

    def _guard(self, disks: Mapping[str, report.Disk]) -> tuple[int, int]:
        """Return where the header of a metadata area of the group is."""
        if not disks:
            raise Missing("the volume group is not on this machine", group=self._group)
        for path in sorted(disks)[:_MOST_DISKS]:
            fd = self._disk(path)
            for offset in _metadata_areas(devices.read_fresh(fd, 4 * _SECTOR, 0)):
                if _is_in_use(devices.read_fresh(fd, _HEADER, offset)):
                    return fd, offset
        raise Unsupported("no disk of the volume group has its metadata", group=self._group)

    def _disk(self, path: str) -> int:
        fd = devices.open_device(path, fresh=True)
        number = os.fstat(fd).st_rdev
        with self._opening:
            if self._closed or number in self._fds:
                os.close(fd)
            if self._closed:
                raise Missing("the volume was closed meanwhile")
            return self._fds.setdefault(number, fd)

    def _pieces(self, volume: report.Volume, disks: Mapping[str, report.Disk]) -> Iterator[_Piece]:
        if volume.kind != "linear":
            raise Unsupported(f"the volume is not linear but {volume.kind}", volume=volume.name)
        if not volume.is_plain:
            raise Unsupported("the volume is a snapshot, or part of another", volume=volume.name)
        expected = 0
        for segment in volume.segments:
            where = _RANGE.fullmatch(segment.ranges)
            disk = disks.get(where[1]) if where is not None else None
            if where is None or disk is None:
                raise Unsupported("a disk of the volume is missing", volume=volume.name)
            first, last = int(where[2]), int(where[3])
            if segment.start != expected or (last - first + 1) * disk.extent != segment.size:
                raise BadAnswer("LVM's report about the volume contradicts itself")
            fd = self._disk(disk.path)
            yield _Piece(segment.start, segment.size, fd, disk.start + first * disk.extent)
            expected += segment.size
        if expected != volume.size:
            raise BadAnswer("LVM's report about the volume contradicts itself")

    def warm(self, offset: int, length: int) -> memoryview | None:  # noqa: ARG002 - never is
        """Nothing is believed without a look at the disk."""
        return None

    async def pread(self, offset: int, length: int) -> bytes:
        """Read in a thread. Raises as ``read``."""
        try:
            return await trio.to_thread.run_sync(
                self.read, length, offset, limiter=threads_of(self._group), abandon_on_cancel=True
            )
        except NebfsError as exc:
            self._last_error = str(exc)
            raise

    def facts(self) -> ReaderFacts:
        """Everything is here, and nothing was published about it."""
        return ReaderFacts(self.size, self.size, "", self._last_error, where="in place")

    def close(self) -> None:
        """Let go of the disks."""
        with self._opening:
            self._closed = True
            while self._fds:
                os.close(self._fds.popitem()[1])

    async def aclose(self) -> None:
        """Let go of the disks."""
        self.close()


def looked_up(volume: str, timeout: float) -> report.Volume:
    """Return what the metadata says about a volume (``group/name``). Blocks. Raises Missing too."""
    group, _, name = volume.partition("/")
    found = report.volumes(group, timeout).get(name)
    if found is None:
        raise Missing("the image's volume is not there any more", volume=volume)
    return found


def etag_of(volume: report.Volume) -> str:
    """Return what tells a volume from one that has taken its name."""
    return f"lv:{volume.uuid}"


def _metadata_areas(start: bytes) -> list[int]:
    """Return where metadata areas are on a disk that begins with `start` (four sectors)."""
    for sector in range(0, len(start), _SECTOR):
        label = start[sector : sector + _SECTOR]
        if label[:8] != b"LABELONE" or label[24:32] != b"LVM2 001":
            continue
        (at,) = struct.unpack_from("<I", label, 20)
        # The disk's identifier (32) and size (8), then two lists of (offset, size): of the data,
        # and of metadata areas. Each ends with zeros.
        lists: list[list[int]] = [[], []]
        position, number = at + 40, 0
        while number < 2 and position + 16 <= _SECTOR:
            offset, _ = struct.unpack_from("<QQ", label, position)
            position += 16
            if offset:
                lists[number].append(offset)
            else:
                number += 1
        return [offset for offset in lists[1] if offset < 1 << 62]
    return []


def _is_in_use(header: bytes) -> bool:
    """Whether `header` is of a metadata area that is written with every change."""
    if len(header) != _HEADER or header[4:20] != _MAGIC:
        return False
    offset, _, _, flags = struct.unpack_from("<QQII", header, 40)
    return offset != 0 and not flags & _IGNORED
