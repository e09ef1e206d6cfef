"""What the daemon asks of the fetcher, and what it is told: plain frozen records.

They cross a process border as JSON (see wire.py), so they hold only text, numbers and tuples.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nebfs.model import Filled, Locator, Revision

__all__ = [
    "SLOW",
    "Call",
    "CallAnswer",
    "CallRequest",
    "Early",
    "FetchRequest",
    "Fetcher",
    "Filled",
    "Progress",
]

SLOW = 2.0
"""Seconds after which a cache disk is left that takes so long for a few blocks (4 MiB at most), to
write them or to give them back: below 2 MiB/s it keeps readers longer than most places do."""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Bring byte ranges of `locator` into the file whose descriptor goes with this request.

    `ranges` are (start, stop) pairs in ascending order; each starts on a multiple of `slot_size`
    and stops on one or at the end of the content. With `expected` the answer must be of that very
    version, or nothing is written and Changed is raised. Without it (a probe) whatever is there is
    taken, and a content shorter than the range is no error. `seed` makes a slot's checksum its own:
    ``xxh3_64(slot's bytes, seed=(seed + slot number) % 2**64)``. `wanted` (start, stop) are bytes
    within one slot of the first range that somebody waits for: they are handed over as soon as they
    come, before their slot is complete. `awaited`: somebody waits for the first range. `since`:
    when it was made (``time.monotonic``, which is one clock for all processes of a machine).
    """

    locator: Locator
    ranges: tuple[tuple[int, int], ...]
    expected: Revision | None
    slot_size: int
    seed: int = 0
    wanted: tuple[int, int] | None = None
    awaited: bool = False
    since: float = field(default_factory=time.monotonic, compare=False)


@dataclass(frozen=True, slots=True)
class CallRequest:
    """A plain HTTP request of the control plane: XML-RPC, an appliance list; follows redirects.

    `timeout` is in seconds over everything. An answer of more than `max_body` bytes is BadAnswer.
    `transport` says who asks: one other than ``http`` knows what the place wants to be shown. To
    one that does not speak HTTP, `method` is LOOK, `url` a place in its own words, and `body` JSON:
    what to look at. The answer is status 200 and JSON, or the failure is raised.
    """

    method: str
    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)
    timeout: float = 30.0
    max_body: int = 1 << 30
    transport: str = "http"


@dataclass(frozen=True, slots=True)
class CallAnswer:
    """The answer to a CallRequest, whatever its status: judging it is the caller's work."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def header(self, name: str, default: str = "") -> str:
        """Return the first header called `name`, in any case."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), default)


Progress = Callable[[Sequence[Filled]], None]

Early = Callable[[int, bytes], None]
"""Takes the offset and the bytes of what is `wanted`; it may never be called, or twice."""


Call = Callable[[CallRequest], Awaitable[CallAnswer]]
"""Sends one request of the control plane (``Fetcher.call``)."""


class Fetcher(Protocol):
    """The two functions that the rest of the daemon sees of the network."""

    async def fetch(
        self, request: FetchRequest, fd: int, progress: Progress, early: Early | None = None
    ) -> Revision:
        """Fill `request.ranges` into `fd`; call `progress` as slots arrive; return what is there.

        Raises Unreachable, BadAnswer, Refused, Missing, Changed, Unsupported (no such transport),
        CacheFault (the file could not be written) or FetcherDied. Slots reported before a failure
        are good. Cancelling stops the transfer.
        """
        ...

    async def call(self, request: CallRequest) -> CallAnswer:
        """Return the answer to a plain request. Raises Unreachable, BadAnswer, Refused, Unsupported
        or FetcherDied.
        """
        ...
