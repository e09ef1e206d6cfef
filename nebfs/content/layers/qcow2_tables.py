"""The tables of a qcow2 image: where each cluster of the disk inside is. Source: QEMU's qcow2.txt.

L1 leads to L2 tables of one cluster each, and they to clusters. Both are read when they are needed,
as any bytes of the file, and kept up to a limit. A unit is a cluster or, with extended L2 entries,
one of its 32 subclusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache

from nebfs.content.layers.qcow2_header import Header
from nebfs.content.stack import Reader
from nebfs.errors import Damaged
from nebfs.units import MIB

BENEATH, ZERO, DATA, COMPRESSED = range(4)
"""What a unit is: nothing of its own, zeros, bytes in the file, a compressed cluster."""

KEPT = 8 * MIB
"""Bytes of tables in memory of one open file: with clusters of 64 KiB enough for 64 GiB of disk."""

L1_CHUNK = 32 << 10
"""Bytes of an L1 table that are read at once: it may have 32 MiB, of which most readers need one
entry."""

SUBCLUSTERS = 32

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62

Table = Any
"""A numpy array of unsigned 64-bit numbers; with extended entries of pairs of them."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring units of one kind. `start` and `length` are bytes of the disk inside. `host` is
    where the bytes are in the file; of a compressed cluster, its whole entry.
    """

    kind: int
    start: int
    length: int
    host: int = 0


class Tables:
    """Looks up where things are. `file` is the image itself."""

    def __init__(self, file: Reader, header: Header) -> None:
        self._file = file
        self._header = header
        self._bits = header.cluster_bits
        self._cluster = 1 << self._bits
        self._entry = 16 if header.extended_l2 else 8
        self._covered_bits = self._bits + self._bits - self._entry.bit_length() + 1
        """Of the part of the disk that one L2 table covers."""
        self.unit = self._cluster // SUBCLUSTERS if header.extended_l2 else self._cluster
        size = max(KEPT, 4 * self._cluster)
        self._l2: LRUCache[int, Table] = LRUCache(size, getsizeof=lambda table: int(table.nbytes))
        self._l1: LRUCache[int, Table] = LRUCache(MIB, getsizeof=lambda table: int(table.nbytes))

    # --- getting tables -----------------------------------------------------------------------

    def missing(self, offset: int, length: int) -> list[int]:
        """Return which L2 tables (by number) are needed for these bytes and are not in memory."""
        first, last = offset >> self._covered_bits, (offset + length - 1) >> self._covered_bits
        return [number for number in range(first, last + 1) if number not in self._l2]

    async def load(self, number: int) -> None:
        """Bring an L2 table into memory. Raises Damaged, and what reading the file raises."""
        entry = await self._l1_entry(number)
        at = entry & _OFFSET
        count = self._cluster // 8
        if at == 0:
            table = np.zeros(count, np.uint64)
        else:
            if at % self._cluster or at + self._cluster > self._file.size:
                raise Damaged("an L2 table of the qcow2 image is not where one can be", at=at)
            raw = await self._file.pread(at, self._cluster)
            table = np.frombuffer(raw, ">u8").astype(np.uint64)
        self._l2[number] = table.reshape(-1, 2) if self._entry == 16 else table

    async def _l1_entry(self, number: int) -> int:
        chunk, index = divmod(number, L1_CHUNK // 8)
        table = self._l1.get(chunk)
        if table is None:
            at = self._header.l1_offset + chunk * L1_CHUNK
            length = min(L1_CHUNK, self._header.l1_entries * 8 - chunk * L1_CHUNK)
            if length <= 0 or at + length > self._file.size:
                raise Damaged("the L1 table of the qcow2 image is cut off")
            table = np.frombuffer(bytes(await self._file.pread(at, length)), ">u8")
            self._l1[chunk] = table
        return int(table[index])

    # --- looking up ---------------------------------------------------------------------------

    def single(self, offset: int) -> Run | None:
        """Return what the unit at `offset` is; None when its table is not in memory.

        Raises Damaged. The run begins at the unit and may be longer than what is left of the disk.
        """
        table = self._l2.get(offset >> self._covered_bits)
        if table is None:
            return None
        index = (offset >> self._bits) & (len(table) - 1)
        start = offset - offset % self.unit
        if self._entry == 16:
            sub = (offset & (self._cluster - 1)) // self.unit
            kinds, hosts = self._extended(table[index : index + 1])
            return Run(int(kinds[sub]), start, self.unit, int(hosts[sub]))
        entry = int(table[index])
        if entry & _COMPRESSED:
            return Run(COMPRESSED, start, self.unit, entry)
        if entry & 1:
            self._check_zero()
            return Run(ZERO, start, self.unit)
        host = entry & _OFFSET
        if host & (self._cluster - 1):
            raise Damaged("a cluster of the qcow2 image is not where one can be", at=host)
        return Run(DATA if host else BENEATH, start, self.unit, host)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """Return what is at these bytes, in order, cut at their ends. All tables are in memory.

        Raises Damaged.
        """
        unit = self.unit
        first, stop = offset // unit, -(-(offset + length) // unit)
        kinds, hosts = self._units(first, stop)
        # A run goes on while the kind stays, and the bytes follow each other in the file.
        same = kinds[1:] == kinds[:-1]
        follows = (kinds[1:] != DATA) | (hosts[1:] == hosts[:-1] + np.uint64(unit))
        breaks = np.flatnonzero(~(same & follows) | (kinds[1:] == COMPRESSED)) + 1
        end = offset + length
        begins = [0, *breaks.tolist()]
        for begin, after in zip(begins, [*begins[1:], stop - first], strict=True):
            start = max((first + begin) * unit, offset)
            until = min((first + after) * unit, end)
            kind = int(kinds[begin])
            host = int(hosts[begin])
            if kind == DATA:
                host += start - (first + begin) * unit
            yield Run(kind, start, until - start, host)

    def _units(self, first: int, stop: int) -> tuple[Any, Any]:
        """Return the kinds of units, and where they are; Raises Damaged."""
        per_table = 1 << (self._covered_bits - self.unit.bit_length() + 1)
        kinds, hosts = [], []
        while first < stop:
            number, index = divmod(first, per_table)
            until = min(stop - number * per_table, per_table)
            some = self._table_units(self._l2[number], index, until)
            kinds.append(some[0])
            hosts.append(some[1])
            first = number * per_table + until
        if len(kinds) == 1:
            return kinds[0], hosts[0]
        return np.concatenate(kinds), np.concatenate(hosts)

    def _table_units(self, table: Table, index: int, until: int) -> tuple[Any, Any]:
        if self._entry == 16:
            first = index // SUBCLUSTERS
            kinds, hosts = self._extended(table[first : -(-until // SUBCLUSTERS)])
            skipped = first * SUBCLUSTERS
            return kinds[index - skipped : until - skipped], hosts[
                index - skipped : until - skipped
            ]
        entries = table[index:until]
        hosts = entries & np.uint64(_OFFSET)
        compressed = (entries & np.uint64(_COMPRESSED)) != 0
        zero = ((entries & np.uint64(1)) != 0) & ~compressed
        kinds = np.where(
            compressed, COMPRESSED, np.where(zero, ZERO, np.where(hosts, DATA, BENEATH))
        )
        if zero.any():
            self._check_zero()
        self._check_hosts(hosts[kinds == DATA])
        return kinds, np.where(compressed, entries, hosts)

    def _extended(self, entries: Table) -> tuple[Any, Any]:
        """Return kinds and places of the subclusters of extended entries. Raises Damaged."""
        first, bitmap = entries[:, 0], entries[:, 1]
        bits = np.arange(SUBCLUSTERS, dtype=np.uint64)
        allocated = (bitmap[:, None] >> bits) & np.uint64(1) != 0
        zero = (bitmap[:, None] >> (bits + np.uint64(SUBCLUSTERS))) & np.uint64(1) != 0
        compressed = (first & np.uint64(_COMPRESSED)) != 0
        hosts = first & np.uint64(_OFFSET)
        kinds = np.where(zero, ZERO, np.where(allocated, DATA, BENEATH))
        kinds[compressed] = COMPRESSED
        wrong = (allocated & zero).any(axis=1) | (allocated.any(axis=1) & (hosts == 0))
        if (wrong & ~compressed).any():
            raise Damaged("an entry of an L2 table of the qcow2 image contradicts itself")
        self._check_hosts(hosts[~compressed])
        places = hosts[:, None] + bits * np.uint64(self.unit)
        places[compressed] = first[compressed][:, None]
        return kinds.reshape(-1), places.reshape(-1)

    def _check_zero(self) -> None:
        if self._header.version < 3:
            raise Damaged("a qcow2 image of version 2 has a cluster of zeros")

    def _check_hosts(self, hosts: Any) -> None:
        if (hosts & np.uint64(self._cluster - 1)).any():
            raise Damaged("a cluster of the qcow2 image is not where one can be")
