"""What was waited for in vain is not waited for again at once.

When the kernel's read-ahead of a page has failed, it asks for that page once more before it tells
the program that reads: who may wait for one deadline would wait for two. So the next time that
these bytes are asked for by the same handle, within a moment, it is the same error. Whoever opens
the file anew is not told what another has met, nor is it for files that the kernel keeps no pages
of: those it asks for once.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from nebfs.errors import Changed, NebfsError, TimedOut

MOMENT: Final = 1.0
"""Seconds for which it is the same error, once, and that must have been waited for it. The kernel
asks again within a millisecond; on a busy machine some tasks may come between."""

MOST: Final = 256
"""Reads that are remembered: four times what the kernel has under way of one mount."""


@dataclass(frozen=True, slots=True)
class _Read:
    handle: int
    start: int
    stop: int
    at: float
    failure: NebfsError


class GivenUp:
    """The reads that were given up a moment ago."""

    def __init__(self) -> None:
        self._reads: deque[_Read] = deque(maxlen=MOST)

    @contextmanager
    def waiting(self, handle: int, offset: int, size: int) -> Iterator[None]:
        """Read within the block. Raises what a read of some of these bytes was given up with."""
        began = trio.current_time()
        self._check(handle, offset, offset + size, began)
        try:
            yield
        except Changed:
            raise  # nothing was waited for
        except (NebfsError, trio.TooSlowError) as exc:
            now = trio.current_time()
            if now - began >= MOMENT:
                failure = exc if isinstance(exc, NebfsError) else TimedOut("nothing came in time")
                self._reads.append(_Read(handle, offset, offset + size, now, failure))
            raise

    def _check(self, handle: int, start: int, stop: int, now: float) -> None:
        for read in list(self._reads):
            old = now - read.at > MOMENT
            if old or (read.handle == handle and read.start < stop and start < read.stop):
                self._reads.remove(read)
                if not old:
                    raise copy.copy(read.failure)
