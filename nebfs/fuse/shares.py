"""Who has the daemon's one thread: short reads of what is here, or all that streams.

Somebody who reads some KiB after the other waits for each. A MiB that goes to a stream, or comes
in for it, takes as long as twenty of his reads, and the kernel has asked for the next one by then:
first come, first served would leave him a fifth of the time. So what streams runs up a debt, which
short reads work off before more of it is done; but only while somebody reads like that.
"""

from __future__ import annotations

from typing import Final

from nebfs.units import KIB

SHORT: Final = 64 * KIB
"""Bytes of the longest read that counts as short: some 20 us. Streams ask for more."""

WEIGHT: Final = 2.0
"""Seconds of short reads that are owed for one second of other work: two thirds are theirs."""

RECENT: Final = 0.01
"""Seconds after which somebody who has not asked for anything is no longer waited for."""

MOST: Final = 0.01
"""Seconds that are owed at most: for so long does everything else wait at most."""


class Shares:
    """The time that was given to either, in seconds of one clock."""

    __slots__ = ("_served", "owed")

    def __init__(self) -> None:
        self.owed = 0.0
        """Seconds of short reads that come first; 0: it is anybody's turn."""
        self._served = -RECENT

    def short(self, began: float, ended: float) -> None:
        """Take note that a short read was waited for and answered."""
        self._served = ended
        if self.owed:
            left = self.owed - (ended - began)
            self.owed = left if left > 0 else 0.0

    def other(self, seconds: float, now: float) -> None:
        """Take note of other work, which has just ended."""
        if now - self._served > RECENT + seconds:
            self.owed = 0.0
        else:
            self.owed = min(self.owed + seconds * WEIGHT, MOST)
