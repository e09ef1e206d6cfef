"""Where blocks may begin in a bzip2 stream: finding 48 bits at any bit of a byte, fast.

A block begins with the digits of pi, the end of a stream with those of its square root. Nothing
is aligned, and nothing says how long a block is. The same bits may be inside of a block: by
chance once in some hundred terabytes, and on purpose.

Of each magic two whole bytes are at a known place, whatever bit it begins at: sixteen values of
65536. numpy looks up each pair of bytes in a table of these (1 GB/s); what is left is looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BLOCK, END = 0x314159265359, 0x177245385090
MAGIC_BITS = 48

_SPAN = 7
"""Bytes that a magic can reach into."""


def _tables() -> tuple[np.ndarray, np.ndarray, dict[int, list[tuple[int, int]]]]:
    first, second = np.zeros(1 << 16, bool), np.zeros(1 << 16, bool)
    shifts: dict[int, list[tuple[int, int]]] = {}
    for magic in (BLOCK, END):
        for shift in range(8):
            # Seven bytes, the magic `shift` bits from their beginning.
            placed = (magic << (8 - shift)).to_bytes(_SPAN, "big")
            pair = int.from_bytes(placed[1:3], "little")
            first[pair] = second[int.from_bytes(placed[3:5], "little")] = True
            shifts.setdefault(pair, []).append((shift, magic))
    return first, second, shifts


_FIRST, _SECOND, _SHIFTS = _tables()


class Mark(NamedTuple):
    """A magic, and the bit of the image where it begins."""

    bit: int
    magic: int


def find_marks(data: bytearray, searched: int) -> tuple[list[Mark], int]:
    """Return the marks in `data` that begin at byte `searched` or later, and where to go on."""
    until = len(data) - _SPAN + 1
    if until <= searched:
        return [], searched
    found = []
    # A copy: numpy's view of it would keep `data` from being cut.
    part = bytes(memoryview(data)[searched:])
    for odd in (0, 1):
        # Pair i is bytes 1 and 2 behind where the magic would begin: byte `odd` + 2 i.
        count = (len(part) - 1 - odd) // 2
        pairs = np.frombuffer(part, "<u2", count, 1 + odd)
        hits = np.flatnonzero(_FIRST[pairs])
        hits = hits[hits < count - 1]
        hits = hits[_SECOND[pairs[hits + 1]]]
        found += [(odd + 2 * hit, int(pairs[hit])) for hit in hits.tolist()]
    marks = []
    for at, pair in found:
        seven = int.from_bytes(part[at : at + _SPAN], "big")
        for shift, magic in _SHIFTS[pair]:
            if at <= len(part) - _SPAN and seven >> (8 - shift) & (1 << MAGIC_BITS) - 1 == magic:
                marks.append(Mark((searched + at) * 8 + shift, magic))
    return sorted(marks), until
