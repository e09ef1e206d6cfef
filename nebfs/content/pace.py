"""How fast a place is, as its answers show it: what a request costs before its first byte comes,
and how many bytes come in the time that another request would cost.
"""

from __future__ import annotations

from typing import Final

from nebfs.units import KIB, MIB

MEASURABLE: Final = 512 * KIB
"""Bytes that an answer must have for its rate to mean something: less comes in a burst."""

FAR: Final = 0.002
"""Seconds: what comes sooner is not worth guessing. Such a latency is our own work, mostly."""

UNKNOWN_RATE: Final = 100 * MIB
"""Bytes per second that a place is taken to give until it was measured."""

LARGEST: Final = 4 * MIB
"""The most that one request asks for: beyond it nothing gets faster, and turns get longer."""

LONGEST: Final = 16 * MIB
"""The same of a place far away. What is ordered is brought even if its reader goes away. Only a
stream's first order comes near it, as its window then moves on in steps; being one order, it was
worth 4 % of 256 MiB on a link of 20 ms and 1 Gbit/s."""

WORTHWHILE: Final = 1 * MIB
"""The most that `around` is. More saves round trips, too, but a booting guest then fetches over
three times what it reads (recorded boots: 2.7 and 2.9 times with 1 MiB)."""

OPENED: Final = 4 * MIB
"""Bytes after which the connections to a place give what is asked for in one go: each of them
begins with some 14 KiB for a round trip, and gives twice as many in the next one (RFC 6928)."""

PAUSE: Final = 0.2
"""Seconds of silence, beside a round trip, after which they begin again (RFC 5681 section 4.1, with
the shortest time-out that Linux has)."""


class Pace:
    """The best of what was seen lately: `latency` in seconds, `rate` in bytes per second.

    The best and not the mean, as an answer is often late for reasons of our own: other requests
    under way to the same place, a busy machine.
    """

    def __init__(self, latency: float = 0.0) -> None:
        """`latency`: what is known of it already."""
        self.latency = latency
        self.rate = float(UNKNOWN_RATE)
        self.measured = False
        """Whether `rate` is of this place: something large enough has come from it."""
        self.requests = 0
        self.failures = 0
        self.bytes = 0
        """What has arrived from the place, whatever it was asked for."""
        self._arrived = 0.0
        """When the latest of them did."""
        self._lately = 0
        """How many did since the last pause."""
        self.seconds = 0.0
        """What all requests took together."""

    def note(self, waited: float, took: float, size: int) -> None:
        """Take note of an answer of `size` bytes: `took` seconds after `waited` for its first."""
        better = not self.latency or waited < self.latency
        self.latency += (waited - self.latency) * (1.0 if better else 0.02)
        if size >= MEASURABLE and waited + took > 0:
            # Not size / took: what has waited in our own buffers comes at the speed of memory.
            self.measured = True
            rate = size / max(waited + took - self.latency, self.latency / 4, took)
            self.rate += (rate - self.rate) * (0.5 if rate > self.rate else 0.05)

    def arrived(self, size: int, now: float) -> None:
        """Take note of `size` bytes that have come, at the second `now` of any one clock."""
        self.bytes += size
        self._lately = size if self._paused(now) else self._lately + size
        self._arrived = now

    def narrow(self, now: float) -> bool:
        """Whether a long answer would take several round trips: its connection is at the start."""
        return self.far and (self._lately < OPENED or self._paused(now))

    def _paused(self, now: float) -> bool:
        return now - self._arrived > PAUSE + self.latency

    @property
    def far(self) -> bool:
        """Whether a request costs more in waiting than in work."""
        return self.latency >= FAR

    @property
    def around(self) -> int:
        """How many bytes are worth having for the price of one request: as many as would come
        while another one waits for its first byte. layers/surroundings.py has which.
        """
        if not self.far:
            return 0
        return min(int(self.latency * self.rate), WORTHWHILE)

    @property
    def tail(self) -> int:
        """How many bytes of an answer come during one round trip."""
        return int(self.latency * self.rate)

    @property
    def order(self) -> int:
        """How many bytes of a stream one request is best for. Of a place far away it is a long one,
        one after the other: several connections at once fill the queue before the slowest part of
        the way, packets are lost, and a stream stands still until the last of them is sent again
        (measured on a link of 20 ms and 1 Gbit/s: half a second, in every other run).
        """
        return LONGEST if self.far else LARGEST
