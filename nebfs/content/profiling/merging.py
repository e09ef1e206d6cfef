"""One more boot: what a profile becomes by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nebfs.blocks import SLOT_SIZE
from nebfs.content.profiling.profile import BOOTS, MOST_PARTS, Part, Profile, allowance

LAST = 4
"""What none of so many boots has read is left out."""


def merged(old: Profile | None, read: Sequence[int], size: int) -> tuple[Part, ...] | None:
    """Return the parts of `old` after a boot that has read the slots `read`, in that order.

    None: it counts for nothing. Little of it came to us: the kernel had the rest, and answered it.
    """
    known = _known(old, size)
    if len(read) * 2 < len(known):
        return None
    used = set(read)
    places: dict[int, tuple[int, int]] = {}
    for at, (slot, before) in enumerate(known.items()):
        boots = (before << 1 | (slot in used)) & (1 << BOOTS) - 1
        if boots & (1 << LAST) - 1:
            places[slot] = (at, boots)
    for at, slot in enumerate(read):
        earlier, boots = places.get(slot, (at, 1))
        places[slot] = (min(at, earlier), boots)
    alone = old is None

    def turn(entry: tuple[int, tuple[int, int]]) -> tuple[bool, int]:
        at, boots = entry[1]
        return (not alone and boots.bit_count() < 2, at)

    room = allowance(size) // SLOT_SIZE
    ordered = [(slot, boots) for slot, (_, boots) in sorted(places.items(), key=turn)[:room]]
    return tuple(_joined(ordered, size))[:MOST_PARTS]


def _known(old: Profile | None, size: int) -> dict[int, int]:
    """Return the slots of `old` that an image of `size` bytes has, and their boots, in order."""
    known: dict[int, int] = {}
    for part in old.parts if old is not None else ():
        for slot in range(part.offset // SLOT_SIZE, -(-min(part.end, size) // SLOT_SIZE)):
            known[slot] = known.get(slot, 0) | part.boots
    return known


def _joined(slots: Iterable[tuple[int, int]], size: int) -> list[Part]:
    """Return parts for slots with their boots: one for those that follow each other."""
    parts: list[Part] = []
    for slot, boots in slots:
        offset = slot * SLOT_SIZE
        length = min(SLOT_SIZE, size - offset)
        if parts and parts[-1].end == offset and parts[-1].boots == boots:
            parts[-1] = Part(parts[-1].offset, parts[-1].length + length, boots)
        else:
            parts.append(Part(offset, length, boots))
    return parts
