"""Where the blocks of a disk are in its file: what VMDK, VDI, VHD and VHDX have in common.

All four cut the disk into blocks of one size and have a table that says, for each of them, where
its bytes are in the file, or that there are none. A Layout reads one format's table, a part of it
at a time, and says it in one way; a BlockMap keeps the parts that were read (some MiB of memory,
however large the table is) and looks blocks up in them.

All that tables say is somebody's input. What cannot be so is marked as BROKEN when a part is read,
and Damaged for whoever reads such a block: the others of the disk are still good.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import trio
from cachetools import LRUCache

from nebfs.content.layers.unpacking import UnpackBlock
from nebfs.content.stack import Reader
from nebfs.errors import Damaged
from nebfs.units import KIB, MIB

SECTOR: Final = 512

SLICE: Final = 64 * KIB
"""Bytes of a table that are read at once. The table of a VHDX disk of 64 TiB has 512 MiB, of which
most readers need one entry; two of these slices are one slot of the cache."""

ZERO, DATA, PACKED, UNKNOWN = range(4)
"""What a run is: zeros; bytes in the file; a compressed block, or part of one; or its slice is not
in memory."""

HOLE: Final = (1 << 64) - 1
"""The place of a block of which nothing is stored: zeros."""
BROKEN: Final = (1 << 64) - 2
"""The place of a block whose entry cannot be."""

Places: TypeAlias = npt.NDArray[np.uint64]


class Slice(NamedTuple):
    """A part of a table: for each block its place in the file, or HOLE or BROKEN. `rooms`: of
    compressed blocks, how many bytes at that place can be theirs.
    """

    hosts: Places
    rooms: Places | None = None


EMPTY: Final = Slice(np.zeros(0, np.uint64))
"""Stands for a slice of nothing but holes."""


class Layout(Protocol):
    """One image's table, as its format has it. Sizes are bytes."""

    @property
    def kind(self) -> str:
        """The name of the format, for messages."""
        ...

    @property
    def size(self) -> int:
        """Of the disk."""
        ...

    @property
    def block(self) -> int:
        """Of one block; the last one of the disk may be cut short."""
        ...

    @property
    def per_slice(self) -> int:
        """How many blocks a slice tells of."""
        ...

    @property
    def unpack(self) -> UnpackBlock | None:
        """What unpacks a block, if they are compressed."""
        ...

    async def load(self, file: Reader, number: int) -> Slice:
        """Read a slice, counted from 0; it has an entry for each of its blocks, or is EMPTY.

        Raises Damaged, and what reading the file raises.
        """
        ...


class Run(NamedTuple):
    """A part of the disk that is of one kind. `start` and `length`: bytes of the disk. `host`:
    where its bytes are in the file, at most `room` of them if they are compressed; of an unknown
    one, its slice.
    """

    kind: int
    start: int
    length: int
    host: int = 0
    room: int = 0


def overlap(hosts: Places, length: int, areas: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Tell of each place whether `length` bytes from there on touch one of the `areas` (start and
    stop): those that the format itself needs, which no block can have.
    """
    found = np.zeros(len(hosts), np.bool_)
    for start, stop in areas:
        found |= (hosts < np.uint64(stop)) & (hosts + np.uint64(length) > np.uint64(start))
    return found


_KEPT: Final[LRUCache[tuple[int, int], Slice]] = LRUCache(
    32 * MIB,
    getsizeof=lambda table: (
        table.hosts.nbytes + (0 if table.rooms is None else table.rooms.nbytes) + 300
    ),  # what Python needs besides
)
"""The slices of all open images together: enough for 4 TiB of disks in blocks of 1 MiB."""

_numbers = itertools.count()


class BlockMap:
    """Looks up what is where. `file` is the whole image."""

    def __init__(self, file: Reader, layout: Layout) -> None:
        self._file = file
        self._layout = layout
        self._number = next(_numbers)
        self._block = layout.block
        self._covered = layout.block * layout.per_slice
        self._coming: dict[int, trio.Event] = {}

    async def load(self, number: int, held: dict[int, Slice]) -> None:
        """Bring a slice, and hold it for one read, whatever others need the memory for meanwhile.

        It is read once for all who want it. Whoever has waited in vain for another one's reading,
        which failed or was given up, reads for himself.
        """
        coming = self._coming.get(number)
        if coming is not None:
            await coming.wait()
        table = _KEPT.get((self._number, number))
        if table is None:
            ended = self._coming[number] = trio.Event()
            try:
                table = await self._layout.load(self._file, number)
                _KEPT[self._number, number] = table
            finally:
                if self._coming.get(number) is ended:
                    del self._coming[number]
                ended.set()
        held[number] = table

    def forget(self) -> None:
        """Give back the memory."""
        for key in [key for key in _KEPT if key[0] == self._number]:
            del _KEPT[key]

    def runs(self, offset: int, length: int, held: dict[int, Slice]) -> list[Run]:
        """Return what is at these bytes of the disk, in order. `held`: slices, besides those kept.

        Raises Damaged.
        """
        runs: list[Run] = []
        end = offset + length
        while offset < end:
            number = offset // self._covered
            base = number * self._covered
            stop = min(end, base + self._covered)
            table = held.get(number)
            if table is None:
                table = _KEPT.get((self._number, number))
            if table is None:
                runs.append(Run(UNKNOWN, offset, stop - offset, number))
            elif table is EMPTY:
                runs.append(Run(ZERO, offset, stop - offset))
            elif table.rooms is None:
                self._plain(table.hosts, base, offset, stop, runs)
            else:
                self._packed(table, base, offset, stop, runs)
            offset = stop
        return runs

    def _plain(self, hosts: Places, base: int, offset: int, end: int, runs: list[Run]) -> None:
        """Add what is at `offset` to `end`, of the slice that begins at `base`, to `runs`."""
        block = self._block
        first = (offset - base) // block
        stop = -(-(end - base) // block)
        start = offset
        after = base + first * block
        run_host = following = -1
        for host in hosts[first:stop].tolist():
            if host != following:
                if run_host >= 0:
                    runs.append(self._run(run_host, start, after))
                    start = after
                run_host = host if host >= BROKEN or after >= offset else host + offset - after
                if host == BROKEN:
                    raise Damaged(
                        f"a block of the {self._layout.kind} image is where none can be", at=after
                    )
            following = host if host == HOLE else host + block
            after += block
        runs.append(self._run(run_host, start, end))

    def _run(self, host: int, start: int, end: int) -> Run:
        if host == HOLE:
            return Run(ZERO, start, end - start)
        if host + end - start > self._file.size:
            raise Damaged(
                f"the {self._layout.kind} image is cut off: a block is beyond its end", at=host
            )
        return Run(DATA, start, end - start, host)

    def _packed(self, table: Slice, base: int, offset: int, end: int, runs: list[Run]) -> None:
        """As _plain, of compressed blocks: each is a run by itself."""
        block = self._block
        first = (offset - base) // block
        stop = -(-(end - base) // block)
        assert table.rooms is not None  # noqa: S101 - that is what makes it packed
        rooms = table.rooms[first:stop].tolist()
        at = base + first * block
        for host, room in zip(table.hosts[first:stop].tolist(), rooms, strict=True):
            start, until = max(at, offset), min(at + block, end)
            if host == BROKEN:
                raise Damaged(
                    f"a block of the {self._layout.kind} image is where none can be", at=at
                )
            if host == HOLE:
                runs.append(Run(ZERO, start, until - start))
            else:
                runs.append(Run(PACKED, start, until - start, host, room))
            at += block
