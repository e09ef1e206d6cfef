"""What is brought along with the slots that a reader waits for, of a place far away.

Found with the recorded reads of two booting guests, and tried with those of a third. In a model of
a link (round trips of 5 to 100 ms, 3 to 112 MB/s) they never boot sooner with half of it.
"""

from __future__ import annotations

from typing import Final

from nebfs.units import KIB

SMALL: Final = 8 * KIB
"""Bytes up to which a read is mostly one of a filesystem's own blocks, which lie by themselves."""

LARGE: Final = 256 * KIB
"""Bytes from which a read is no guest's: those read ahead 128 KiB at most. Between the two is what
a guest reads of its files, where most of what it reads next is near: a program's beginning is read,
then its end, then something before it."""


NEAR: Final = 4
"""Slots from one that was read within which a miss says that more will be read there: twice as much
is brought then. One miss of ten does not follow; what is fetched in all grows little or not."""


def surroundings(
    first: int, stop: int, wanted: int, unit: int, slots: int, *, again: bool = False
) -> tuple[int, int]:
    """Return which slots, first and one past the last, are worth having when a reader that asked
    for `wanted` bytes waits for those from `first` to `stop`. They may be beyond both ends of the
    object, which has `slots`. `unit`: how many are worth a request. `again`: something NEAR was
    read before.
    """
    if again and wanted < LARGE:
        unit *= 2
    if wanted >= LARGE:
        begin = first - first % unit
        return begin, max(begin + unit, stop)
    if wanted <= SMALL:
        end = max(first + 1 + unit // 4, stop)
        # Whoever looks at a disk's end looks for what may be there (the second partition table,
        # labels of RAID and ZFS), and goes on before it.
        return first - unit // 8 - max(0, end - slots), end
    return first - unit * 5 // 4, max(first + unit * 3 // 2, stop)
