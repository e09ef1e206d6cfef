"""Several things that a reader waits for, at the same time: as many as are good for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from nebfs.errors import NebfsError

MOST: int = 16
"""Requests of one read at a time. The sources take turns below; these are for the blocks that are
already here, and to let the sources see that more is wanted."""


async def together(jobs: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run the jobs, MOST at a time. Raises the first NebfsError, by itself, and ends the others."""
    todo = list(jobs)
    if len(todo) == 1:
        await todo[0]()
        return
    waiting = iter(todo)
    failures: list[NebfsError] = []

    async def work(scope: trio.CancelScope) -> None:
        for job in waiting:
            try:
                await job()
            except NebfsError as exc:
                failures.append(exc)
                scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(min(MOST, len(todo))):
            nursery.start_soon(work, nursery.cancel_scope)
    if failures:
        raise failures[0]
