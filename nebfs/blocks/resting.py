"""Looking into a cache directory without taking part in it: what is there, and how much of it.

For commands that work without a daemon, and for objects that nobody has open. Everything here is
read only, and blocking. A daemon may be writing meanwhile: what is seen was true a moment ago.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nebfs.blocks.blockfile import SLOT_SIZE, slot_sum
from nebfs.blocks.index import HEADER_SIZE, SLOT, SLOT_RECORD, Header, Verdict
from nebfs.blocks.store import seed_of

STATE = 14
"""Where, in a slot's record of 16 bytes, its state begins; see index.py."""


@dataclass(frozen=True, slots=True)
class Resting:
    """One object as its index describes it. `used` is in seconds since the epoch."""

    key: str
    size: int
    source: str
    verdict: Verdict
    used: float
    disk_bytes: int
    states: bytes
    """One byte for each slot: 1 where it is here."""

    @property
    def cached(self) -> int:
        """How many bytes of the object are here."""
        here = self.states.count(1) * SLOT_SIZE
        if self.states and self.states[-1] == 1:
            here -= len(self.states) * SLOT_SIZE - self.size
        return here


def paths(directory: Path, key: str) -> tuple[Path, Path]:
    """Return where the data and the index of an object are."""
    shelf = directory / "objects" / key[:2]
    return shelf / f"{key}.dat", shelf / f"{key}.idx"


def look(directory: Path, key: str) -> Resting | None:
    """Return what is known of an object; None when it is not there, or cannot be understood."""
    data, index = paths(directory, key)
    try:
        with index.open("rb") as file:
            header = Header.decode(file.read(HEADER_SIZE))
            if header is None or header.slot_size != SLOT_SIZE:
                return None
            found = os.fstat(file.fileno())
            # Before it is read: memory for as much as the header says would be asked for.
            if found.st_size < HEADER_SIZE + header.slots * SLOT_RECORD:
                return None
            records = file.read(header.slots * SLOT_RECORD)
            used = found.st_mtime
        disk = data.stat()
    except OSError:
        return None
    if len(records) != header.slots * SLOT_RECORD or disk.st_size != header.size:
        return None
    return Resting(
        key=key,
        size=header.size,
        source=header.source,
        verdict=header.verdict,
        used=used,
        disk_bytes=disk.st_blocks * 512,
        states=records[STATE::SLOT_RECORD],
    )


def differing(directory: Path, key: str, first: int, stop: int) -> tuple[int, list[int]]:
    """Return how many bytes are said to be in these slots, and which slots are not what their
    checksums say.

    The disk is asked, not what the kernel remembers of it. Raises OSError.
    """
    data, index = paths(directory, key)
    with data.open("rb", buffering=0) as file, index.open("rb", buffering=0) as records:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        raw = os.pread(
            records.fileno(), (stop - first) * SLOT_RECORD, HEADER_SIZE + first * SLOT_RECORD
        )
        start, end = first * SLOT_SIZE, min(stop * SLOT_SIZE, size)
        os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)
        read, wrong = 0, []
        for slot in range(first, first + len(raw) // SLOT_RECORD):
            digest, length, _, state = SLOT.unpack_from(raw, (slot - first) * SLOT_RECORD)
            if state != 1:
                continue
            found = os.pread(fd, length, slot * SLOT_SIZE)
            read += length
            if slot_sum(found, seed_of(key), slot) != digest:
                wrong.append(slot)
        return read, wrong


def look_at_all(directory: Path) -> Iterator[Resting]:
    """Yield every object that can be understood. Raises OSError when there is no such directory."""
    for shelf in sorted(os.scandir(directory / "objects"), key=lambda entry: entry.name):
        for name in sorted(os.listdir(shelf.path)):
            key, _, kind = name.partition(".")
            if kind == "idx" and (found := look(directory, key)) is not None:
                yield found
