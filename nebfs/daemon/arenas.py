"""How the daemon's threads share memory.

glibc gives threads pools of memory of their own, up to eight for each processor, and what one pool
has once needed stays in it. The daemon's worker threads come and go, and hold Python's lock while
they allocate: pools of their own make nothing faster, and each keeps what its largest piece of work
took. In an hour of mixed use that was 20 MiB which came bit by bit, and looked like a leak.

What is free in the middle of a pool stays in it, too: of 99 MiB that a daemon had under 32 readers,
28 were nobody's. They are given back once a minute.
"""

from __future__ import annotations

import ctypes

import trio

ARENAS = 2
"""The main thread's, and one for all others."""

PERIOD = 60.0
"""Seconds after which free memory is given back: for who reads on it is there again at the price of
a page fault for every 4 KiB."""

_M_ARENA_MAX = -8  # malloc.h


def share() -> None:
    """Have all threads that are started from now on share ARENAS pools (mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


async def give_back() -> None:
    """Return what is free in the pools to the kernel, every PERIOD (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    while trim is not None:
        await trio.sleep(PERIOD)
        await trio.to_thread.run_sync(trim, 0)
