"""The index of one object on disk: a header that says whose slots these are, then the slots.

Header, 4096 bytes: magic, format version, slot size, object size, seed, verdict and its time, the
length of a JSON text that describes the source for people (never needed to read the object), the
text, zeros, and in the last 8 bytes the xxh3_64 of everything before them.

Slot, 16 bytes: xxh3_64 of the slot's bytes (seeded, see BlockFile), length, 0, state (0 absent,
1 present). A flipped bit in a slot makes it a miss: the checksum is compared before the slot's
bytes are served, and a slot of zeros has a checksum like any other.
"""

from __future__ import annotations

import array
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from xxhash import xxh3_64_intdigest

from nebfs.model import Filled

MAGIC = b"NEBFSIDX"
FORMAT = 1
HEADER_SIZE = 4096
_FIXED = struct.Struct("<8sIIQQBxxxdI")
SLOT = struct.Struct("<QIHH")
SLOT_RECORD = SLOT.size


class Verdict(IntEnum):
    """What comparing a whole object with its published checksum has shown."""

    UNKNOWN = 0
    VERIFIED = 1
    MISMATCH = 2


@dataclass(frozen=True, slots=True)
class Header:
    """What the index says about its object; `judged` is the time of the verdict."""

    size: int
    slot_size: int
    seed: int
    source: str = ""
    verdict: Verdict = Verdict.UNKNOWN
    judged: float = 0.0

    @property
    def slots(self) -> int:
        """How many slots the object has."""
        return -(-self.size // self.slot_size)

    def encode(self) -> bytes:
        """Return the 4096 bytes of the header; a description that is too long is left out."""
        text = json.dumps({"source": self.source}).encode()
        if len(text) > HEADER_SIZE - _FIXED.size - 8:
            text = b"{}"
        fixed = _FIXED.pack(
            MAGIC,
            FORMAT,
            self.slot_size,
            self.size,
            self.seed,
            self.verdict,
            self.judged,
            len(text),
        )
        body = (fixed + text).ljust(HEADER_SIZE - 8, b"\0")
        return body + struct.pack("<Q", xxh3_64_intdigest(body))

    @classmethod
    def decode(cls, raw: bytes) -> Header | None:
        """Return the header in `raw`, or None when it is not one that we wrote and can read."""
        if len(raw) != HEADER_SIZE:
            return None
        body, (digest,) = raw[:-8], struct.unpack("<Q", raw[-8:])
        if xxh3_64_intdigest(body) != digest:
            return None
        magic, version, slot_size, size, seed, verdict, judged, length = _FIXED.unpack_from(body)
        if magic != MAGIC or version != FORMAT or verdict not in set(map(int, Verdict)):
            return None
        try:
            text = json.loads(body[_FIXED.size : _FIXED.size + length])
        except (ValueError, RecursionError):
            return None
        source = text.get("source", "") if isinstance(text, dict) else None
        if not isinstance(source, str):
            return None
        return cls(size, slot_size, seed, source, Verdict(verdict), judged)


class Index:
    """An open index file. Every write is a small pwrite into space that was allocated before."""

    def __init__(self, fd: int, header: Header) -> None:
        self.fd = fd
        self.header = header

    @classmethod
    def open(cls, path: str, wanted: Header) -> tuple[Index, bytearray, array.array[int]]:
        """Open or create the index at `path`; return it with the slots' presence and checksums.

        An index that is damaged, or not of `wanted`'s size and seed, is started afresh.
        Blocking. Raises OSError, among others ENOSPC when the space cannot be allocated.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            header = Header.decode(os.pread(fd, HEADER_SIZE, 0))
            length = HEADER_SIZE + wanted.slots * SLOT_RECORD
            if (
                header is None
                or (header.size, header.slot_size, header.seed)
                != (wanted.size, wanted.slot_size, wanted.seed)
                or os.fstat(fd).st_size != length
            ):
                os.ftruncate(fd, 0)
                # Allocated now, so that recording a slot can never meet a full disk.
                os.posix_fallocate(fd, 0, length)
                os.pwrite(fd, wanted.encode(), 0)
                header = wanted
            present, sums = cls._slots(fd, header)
            return cls(fd, header), present, sums
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def _slots(fd: int, header: Header) -> tuple[bytearray, array.array[int]]:
        raw = os.pread(fd, header.slots * SLOT_RECORD, HEADER_SIZE)
        whole = memoryview(raw)
        sums = array.array("Q", whole.cast("Q")[::2].tolist())
        states = bytearray(1 if state == 1 else 0 for state in whole.cast("H")[7::8].tolist())
        lengths = whole.cast("I")[2::4].tolist()
        if header.slots:
            tail = header.size - (header.slots - 1) * header.slot_size
            expected = [header.slot_size] * (header.slots - 1) + [tail]
            for slot, (length, right) in enumerate(zip(lengths, expected, strict=True)):
                if length != right:
                    states[slot] = 0
        return states, sums

    def resize(self, size: int) -> None:
        """Have the object be `size` bytes long, with no verdict. New slots are absent.

        Raises OSError when the space cannot be allocated: it is then as long as before.
        """
        header = replace(self.header, size=size, verdict=Verdict.UNKNOWN, judged=0.0)
        before = os.fstat(self.fd).st_size
        length = HEADER_SIZE + header.slots * SLOT_RECORD
        if length > before:
            os.posix_fallocate(self.fd, before, length - before)
        os.pwrite(self.fd, header.encode(), 0)
        if length < before:
            os.ftruncate(self.fd, length)
        self.header = header

    def record(self, filled: Sequence[Filled]) -> None:
        """Write the slots in `filled`; neighbours go out in one write."""
        run: list[bytes] = []
        start = -1
        for entry in filled:
            if run and entry.slot != start + len(run):
                self._write(start, run)
                run = []
            if not run:
                start = entry.slot
            run.append(SLOT.pack(entry.checksum, entry.length, 0, 1))
        if run:
            self._write(start, run)

    def forget(self, first: int, stop: int) -> None:
        """Mark the slots `first` to `stop` absent."""
        self._write(first, [bytes(SLOT_RECORD)] * (stop - first))

    def _write(self, start: int, records: list[bytes]) -> None:
        os.pwrite(self.fd, b"".join(records), HEADER_SIZE + start * SLOT_RECORD)

    def judge(self, verdict: Verdict, now: float) -> None:
        """Keep a verdict about the whole object."""
        self.header = replace(self.header, verdict=verdict, judged=now)
        os.pwrite(self.fd, self.header.encode(), 0)

    def close(self, *, spare: bool = False) -> None:
        """Close the file; its modification time says when the object was last used. Of a `spare`
        one it is the epoch, so that it is the first to leave.
        """
        os.utime(self.fd, (0, 0) if spare else None)
        os.close(self.fd)
