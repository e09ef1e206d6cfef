"""Work that goes on for a while, and tells how far it is: for answers that are JSON lines."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog
import trio

from nebfs.ending import pass_on
from nebfs.errors import NebfsError

log = structlog.get_logger()

EVERY = 0.25
"""Seconds between two words about how far it is."""

Told = dict[str, object]


class _Job:
    """One piece of work. It runs in a nursery of the daemon, not in that of who listens: an answer
    may be broken off between any two of its lines.
    """

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.failure: NebfsError | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            with self.scope:
                await work()
        except NebfsError as exc:
            self.failure = exc
        except BaseException as exc:  # the mount must outlive it
            pass_on(exc)
            log.exception("job.bug")
            self.failure = NebfsError("the daemon failed to do it; its log says why")
        finally:
            self.ended.set()


async def done(
    nursery: trio.Nursery,
    work: Callable[[], Awaitable[None]],
    news: Callable[[], list[Told]],
    every: float = EVERY,
) -> AsyncGenerator[Told]:
    """Do `work` in `nursery`, yielding the news that there are, again and again, until it is done.

    Work ends when nobody wants to hear any more of it. Raises what it raises, after the last news.
    """
    job = _Job()
    nursery.start_soon(job.run, work)
    try:
        while not job.ended.is_set():
            for one in news():
                yield one
            with trio.move_on_after(every):
                await job.ended.wait()
    finally:
        job.scope.cancel()
        with trio.CancelScope(shield=True):
            await job.ended.wait()
    for one in news():
        yield one
    if job.failure is not None:
        raise job.failure
