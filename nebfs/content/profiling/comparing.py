"""Whether another version of an image has its bytes where the profile's version had them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from xxhash import xxh3_64_intdigest

from nebfs.blocks import SLOT_SIZE, BlockFile
from nebfs.content.profiling.profile import MOST_SUMS, Profile

ENOUGH = 8
"""Slots after which something can be said."""

LATELY = 16
"""How many of the last comparisons count: what lies behind may be moved though the beginning is
where it was."""


class Comparison:
    """What became of the slots of which a profile has checksums. More than half must be the same:
    a version always has other superblocks, tables and logs.
    """

    def __init__(self, profile: Profile) -> None:
        self.sums = dict(profile.sums)
        self._last: list[bool] = []

    def note(self, same: bool) -> None:
        """Take note of a slot that was compared."""
        self._last.append(same)
        del self._last[:-LATELY]

    @property
    def known(self) -> bool:
        """Whether enough was compared."""
        return len(self._last) >= ENOUGH

    @property
    def other(self) -> bool:
        """Whether the layout is another one, as far as can be said."""
        return self.known and 2 * sum(self._last) <= len(self._last)

    async def look(self, file: BlockFile, slots: Sequence[int]) -> None:
        """Compare those of `slots` that are here and have a checksum."""
        for slot in slots:
            expected = self.sums.get(slot * SLOT_SIZE)
            if expected is not None and file.has(slot, slot + 1):
                data = await file.read(slot * SLOT_SIZE, file.length(slot))
                if data is not None:
                    self.note(xxh3_64_intdigest(data) == expected)


async def has_layout(profile: Profile, file: BlockFile) -> bool:
    """Whether what is here of `file` is where `profile` says. Nothing is fetched to find out."""
    comparison = Comparison(profile)
    await comparison.look(file, [offset // SLOT_SIZE for offset, _ in profile.sums])
    return comparison.known and not comparison.other


async def sums_of(file: BlockFile, slots: Sequence[int]) -> AsyncIterator[tuple[int, int]]:
    """Yield checksums of some of `slots` that are here: of the first, and of a few of the rest.

    Zeros prove nothing, and have none.
    """
    half = MOST_SUMS // 2
    first, rest = slots[:half], slots[half:]
    step = max(1, -(-len(rest) // half))
    for slot in (*first, *rest[::step]):
        if file.has(slot, slot + 1):
            data = await file.read(slot * SLOT_SIZE, file.length(slot))
            if data is not None and data.count(0) != len(data):
                yield slot * SLOT_SIZE, xxh3_64_intdigest(data)
