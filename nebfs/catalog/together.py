"""Several questions at once, of which each has to be answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from nebfs.errors import NebfsError, Refused


async def together(*tasks: Callable[[], Awaitable[None]]) -> None:
    """Run `tasks` at once. When one fails the others are cancelled and its error is raised.

    Of several errors Refused is raised: that nobody lets us in explains the others.
    """
    failures: list[NebfsError] = []

    async def one(task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except NebfsError as exc:
            failures.append(exc)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(one, task)
    if failures:
        raise next((f for f in failures if isinstance(f, Refused)), failures[0])
