"""How the daemon's threads share memory.

glibc gives threads pools of memory of their own, up to eight for each processor, and what one pool
has once needed stays in it. The daemon's worker threads come and go, and hold Python's lock while
they allocate: pools of their own make nothing faster, and each keeps what its largest piece of work
took. In an hour of mixed use that was 20 MiB which came bit by bit, and looked like a leak.
"""

from __future__ import annotations

import ctypes

ARENAS = 2
"""The main thread's, and one for all others."""

_M_ARENA_MAX = -8  # malloc.h


def share() -> None:
    """Have all threads that are started from now on share ARENAS pools (mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)
