"""Threads that wait for a disk of this machine: so many for each place, abandoned when it hangs.

A dead NFS server or SAN holds a thread for as long as it likes. What hangs there must not take the
threads of other places, nor those of the cache; and whoever gives up leaves no descriptor open.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import trio
from cachetools import LRUCache

_EACH = 16
"""Threads that may wait for one place at once; a local disk is not faster with more."""

_places: LRUCache[str, trio.CapacityLimiter] = LRUCache(1024)


def threads_of(place: str) -> trio.CapacityLimiter:
    """Return the limit on threads for `place`: a directory, a device, a volume group."""
    limiter = _places.get(place)
    if limiter is None:
        limiter = _places[place] = trio.CapacityLimiter(_EACH)
    return limiter


async def opened(place: str, open_it: Callable[[], int]) -> int:
    """Return the descriptor that `open_it` returns, in a thread. Raises what it raises.

    One that comes after the caller has been cancelled is closed.
    """
    lock = threading.Lock()
    unwanted = False
    came = -1

    def job() -> int:
        nonlocal came
        fd = open_it()
        with lock:
            if unwanted:
                os.close(fd)
            else:
                came = fd
        return fd

    try:
        return await trio.to_thread.run_sync(job, limiter=threads_of(place), abandon_on_cancel=True)
    except trio.Cancelled:
        with lock:
            unwanted = True
            if came >= 0:
                os.close(came)
        raise
