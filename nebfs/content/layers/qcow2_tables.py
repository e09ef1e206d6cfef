"""The tables of a qcow2 image: what each part of the disk inside is, and where.

L1 leads to L2 tables of one cluster each, and these to clusters (QEMU's docs/interop/qcow2.txt).
Both are read when they are needed, and in slices, so that a look at one place costs little in any
image. Everything in them is somebody's input: what cannot be so is Damaged, as it is for QEMU.

A unit is what a table can tell apart: a cluster or, with extended L2 entries, one of its 32
subclusters.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import trio
from cachetools import LRUCache

from nebfs.content.layers.qcow2_header import Header
from nebfs.content.stack import Reader
from nebfs.errors import Damaged
from nebfs.units import KIB, MIB

BENEATH, DATA, ZERO, COMPRESSED, UNKNOWN = range(5)
"""What a run is: nothing of this file's own; bytes in the file; zeros; a compressed cluster, or
part of one; or its table is not in memory."""

SLICE: Final = 64 * KIB
"""Bytes of a table that are read at once: a table has up to 2 MiB (L2) or 32 MiB (L1), of which
most readers need one entry. QEMU reads them so, too."""

Table: TypeAlias = npt.NDArray[np.uint64]
Key: TypeAlias = tuple[int, int]
"""Which image, and which slice: of L2 tables counted from 0, of L1 from -1 downwards."""

_KEPT: Final[LRUCache[Key, Table]] = LRUCache(
    64 * MIB,
    # What Python needs besides: it is the greater part where clusters have 512 bytes.
    getsizeof=lambda table: table.nbytes + 300,
)
"""The tables of all open images together: enough for 512 GiB of disks in clusters of 64 KiB."""

_numbers = itertools.count()

_OFFSET: Final = 0x00FFFFFFFFFFFE00
_COMPRESSED: Final = 1 << 62
_ZERO: Final = 1

_SUBCLUSTERS: Final = 32
_ALL: Final = (1 << 32) - 1
_BITS: Final = np.arange(_SUBCLUSTERS, dtype=np.uint64)

_FEW: Final = 64
"""Entries up to which arrays take longer than a loop: 70 us for any number, and 0.4 us for each."""

_HOLE: Final[Table] = np.zeros(0, np.uint64)
"""Stands for a slice of an L2 table that does not exist."""


class Run(NamedTuple):
    """A part of the disk that is of one kind. `start` and `length`: bytes of the disk. `host`:
    where its bytes are in the file; of a compressed cluster, its entry; of an unknown one, its
    slice.
    """

    kind: int
    start: int
    length: int
    host: int = 0


class Tables:
    """Looks up what is where. `file` is the whole image."""

    def __init__(self, file: Reader, header: Header) -> None:
        """Raises Damaged when L1 is not within the file."""
        self._file = file
        self._number = next(_numbers)
        self._version = header.version
        self._bits = header.cluster_bits
        self._cluster = 1 << self._bits
        self._extended = header.extended_l2
        self._unit_bits = self._bits - (5 if self._extended else 0)
        width = 4 if self._extended else 3  # bits of the bytes of an entry
        slice_size = min(SLICE, self._cluster)
        self._entries = slice_size >> width
        self._covered_bits = self._bits + self._entries.bit_length() - 1
        """Bits of the part of the disk that a slice covers."""
        self._per_table = self._cluster // slice_size
        self._slice = slice_size
        table_bits = self._bits + self._bits - width
        self._l1 = header.l1_offset
        self._l1_size = -(-header.size // (1 << table_bits)) * 8
        if self._l1 + self._l1_size > file.size:
            raise Damaged("the L1 table of the qcow2 image is cut off")
        self._coming: dict[int, trio.Event] = {}
        self._last = -1
        self._last_table = _HOLE

    # --- getting tables -----------------------------------------------------------------------

    def _look(self, number: int) -> Table | None:
        """Return a slice of the L2 tables if it is in memory, or if L1 says that there is none."""
        table = _KEPT.get((self._number, number))
        if table is not None:
            return table
        chunk, index = self._place_in_l1(number)
        l1 = _KEPT.get((self._number, chunk))
        if l1 is not None and not l1.item(index) & _OFFSET:
            return _HOLE
        return None

    def _place_in_l1(self, number: int) -> tuple[int, int]:
        chunk, index = divmod(number // self._per_table, SLICE // 8)
        return -1 - chunk, index

    async def load(self, number: int, held: dict[Key, Table]) -> None:
        """Bring a slice of the L2 tables, and hold it for one read, whatever others need the memory
        for meanwhile. Raises Damaged, and what reading the file raises.
        """
        held[self._number, number] = await self._load(number)

    async def _load(self, number: int) -> Table:
        chunk, index = self._place_in_l1(number)
        start = (-1 - chunk) * SLICE
        l1 = await self._get(chunk, self._l1 + start, min(SLICE, self._l1_size - start))
        at = l1.item(index) & _OFFSET
        if not at:
            return _HOLE
        if at % self._cluster:
            raise Damaged("an L2 table of the qcow2 image is not at the start of a cluster", at=at)
        at += number % self._per_table * self._slice
        return await self._get(number, at, self._slice)

    async def _get(self, number: int, at: int, length: int) -> Table:
        """Return a slice that is at `at` in the file: read once for all who want it.

        Whoever has waited in vain for another one's reading, which failed or was given up, reads
        for himself: so he waits twice as long as a read takes at most.
        """
        coming = self._coming.get(number)
        if coming is not None:
            await coming.wait()
        table = _KEPT.get((self._number, number))
        if table is not None:
            return table
        if at + length > self._file.size:
            raise Damaged("a table of the qcow2 image is not within its file", at=at)
        ended = self._coming[number] = trio.Event()
        try:
            raw = await self._file.pread(at, length)
            # A copy in the order of this machine's bytes: what was read is not ours to keep.
            table = np.frombuffer(raw, ">u8").astype(np.uint64)
            _KEPT[self._number, number] = table
        finally:
            if self._coming.get(number) is ended:
                del self._coming[number]
            ended.set()
        return table

    def forget(self) -> None:
        """Give back the memory."""
        for key in [key for key in _KEPT if key[0] == self._number]:
            del _KEPT[key]
        self._last = -1

    # --- looking up ---------------------------------------------------------------------------

    def runs(self, offset: int, length: int, held: dict[Key, Table]) -> list[Run]:
        """Return what is at these bytes of the disk, in order. `held`: tables, besides those kept.

        Raises Damaged.
        """
        runs: list[Run] = []
        end = offset + length
        while offset < end:
            number = offset >> self._covered_bits
            stop = min(end, (number + 1) << self._covered_bits)
            if number == self._last:
                table: Table | None = self._last_table
            else:
                table = held.get((self._number, number))
                if table is None:
                    table = self._look(number)
                if table is not None:
                    self._last, self._last_table = number, table
            if table is None:
                runs.append(Run(UNKNOWN, offset, stop - offset, number))
            elif table is _HOLE:
                runs.append(Run(BENEATH, offset, stop - offset))
            elif (stop - 1) >> self._bits == offset >> self._bits:
                runs.extend(self._in_cluster(table, offset, stop - offset))
            else:
                runs.extend(self._in_slice(table, offset, stop))
            offset = stop
        return runs

    def _in_cluster(self, table: Table, offset: int, length: int) -> Sequence[Run]:
        """Look at bytes within one cluster, as short reads are: without arrays it is 10 times
        faster.
        """
        index = offset >> self._bits & self._entries - 1
        entry = table.item(2 * index if self._extended else index)
        if entry & _COMPRESSED:
            return (Run(COMPRESSED, offset, length, entry),)
        host = entry & _OFFSET
        self._check(host)
        if self._extended:
            bitmap = table.item(2 * index + 1)
            if bitmap not in {0, _ALL, _ALL << 32} or (bitmap == _ALL and not host):
                return self._in_slice(table, offset, offset + length)
            kind = BENEATH if bitmap == 0 else DATA if bitmap == _ALL else ZERO
        elif entry & _ZERO:
            self._check_version()
            kind = ZERO
        else:
            kind = DATA if host else BENEATH
        return (Run(kind, offset, length, host + (offset & self._cluster - 1)),)

    def _in_slice(self, table: Table, offset: int, end: int) -> list[Run]:
        base = offset >> self._covered_bits << self._covered_bits
        first = offset - base >> self._bits
        stop = (end - base - 1 >> self._bits) + 1
        if self._extended:
            kinds, hosts = self._subclusters(table[2 * first : 2 * stop].reshape(-1, 2))
        elif stop - first <= _FEW:
            return self._in_few(
                table[first:stop].tolist(), base + (first << self._bits), offset, end
            )
        else:
            kinds, hosts = self._clusters(table[first:stop])
        # A run ends where the kind changes, or where its bytes go on elsewhere in the file.
        goes_on = kinds[1:] == kinds[:-1]
        goes_on &= (kinds[1:] != DATA) | (hosts[1:] - hosts[:-1] == np.uint64(1 << self._unit_bits))
        goes_on &= kinds[1:] != COMPRESSED
        if self._extended:
            # All subclusters of a compressed cluster are one.
            goes_on |= (kinds[1:] == COMPRESSED) & (np.arange(1, len(kinds)) % _SUBCLUSTERS != 0)
        begins = [0, *(np.flatnonzero(~goes_on) + 1).tolist()]
        base += first << self._bits
        runs = []
        stops = itertools.chain(begins[1:], (len(kinds),))
        for kind, host, begin, after in zip(
            kinds[begins].tolist(), hosts[begins].tolist(), begins, stops, strict=True
        ):
            at = base + (begin << self._unit_bits)
            start, until = max(at, offset), min(base + (after << self._unit_bits), end)
            if start < until:
                place = host + start - at if kind == DATA else host
                runs.append(Run(kind, start, until - start, place))
        return runs

    def _in_few(self, entries: list[int], base: int, offset: int, end: int) -> list[Run]:
        """Look at bytes from `offset` to `end` in these clusters, which begin at `base`."""
        runs: list[Run] = []
        last, begun, next_host = UNKNOWN, offset, 0
        at = place = base
        for entry in entries:
            host = entry & _OFFSET
            if entry & _COMPRESSED:
                kind, host = COMPRESSED, entry
            else:
                self._check(host)
                if entry & _ZERO:
                    self._check_version()
                    kind = ZERO
                else:
                    kind = DATA if host else BENEATH
            # A run ends where the kind changes, or where its bytes go on elsewhere in the file.
            if kind != last or kind == COMPRESSED or (kind == DATA and host != next_host):
                if last != UNKNOWN:
                    runs.append(Run(last, begun, at - begun, place))
                last, begun, place = kind, max(at, offset), host
                if kind == DATA:
                    place += begun - at
            next_host = host + self._cluster
            at += self._cluster
        runs.append(Run(last, begun, end - begun, place))
        return runs

    def _clusters(self, entries: Table) -> tuple[npt.NDArray[np.uint8], Table]:
        """Return the kind and the place of each entry. Raises Damaged."""
        hosts = entries & np.uint64(_OFFSET)
        kinds = (hosts != 0).astype(np.uint8)  # BENEATH or DATA
        together = int(np.bitwise_or.reduce(entries))
        if together & _ZERO:
            kinds[(entries & np.uint64(_ZERO)) != 0] = ZERO
        hosts = self._with_compressed(together, entries, hosts, kinds)
        if together & _ZERO and (kinds == ZERO).any():
            self._check_version()
        return kinds, hosts

    def _subclusters(self, entries: Table) -> tuple[npt.NDArray[np.uint8], Table]:
        """Return the kind and the place of each subcluster of extended entries. Raises Damaged."""
        first, bitmaps = entries[:, 0], entries[:, 1]
        kinds = np.zeros((len(entries), _SUBCLUSTERS), np.uint8)
        allocated = (bitmaps[:, None] >> _BITS & np.uint64(1)) != 0
        zero = (bitmaps[:, None] >> _BITS + np.uint64(_SUBCLUSTERS) & np.uint64(1)) != 0
        kinds[allocated] = DATA
        kinds[zero] = ZERO
        hosts = first & np.uint64(_OFFSET)
        wrong = (allocated & zero).any(axis=1) | (allocated.any(axis=1) & (hosts == 0))
        if (wrong & ((first & np.uint64(_COMPRESSED)) == 0)).any():
            raise Damaged("an entry of an L2 table of the qcow2 image contradicts itself")
        hosts = self._with_compressed(int(np.bitwise_or.reduce(first)), first, hosts, kinds)
        places = hosts[:, None] + (_BITS << np.uint64(self._unit_bits)) * (kinds == DATA)
        return kinds.reshape(-1), places.reshape(-1)

    def _with_compressed(
        self, together: int, entries: Table, hosts: Table, kinds: npt.NDArray[np.uint8]
    ) -> Table:
        """Return `hosts` with the entries of compressed clusters, and mark these in `kinds`. Their
        other bits mean something else. Raises Damaged. `together`: all entries, ORed.
        """
        if not together & _COMPRESSED:
            self._check(together & _OFFSET)
            return hosts
        compressed = (entries & np.uint64(_COMPRESSED)) != 0
        self._check(int(np.bitwise_or.reduce(hosts[~compressed])))
        kinds[compressed] = COMPRESSED
        return np.where(compressed, entries, hosts)

    def _check(self, host: int) -> None:
        """Raise Damaged if a place, or several ORed, is not the start of a cluster."""
        if host & self._cluster - 1:
            raise Damaged("an L2 entry of the qcow2 image leads to no cluster")

    def _check_version(self) -> None:
        if self._version < 3:
            raise Damaged("a qcow2 image of version 2 has a cluster of zeros")
