"""Worker threads that are none: what they would do is done where it is asked for.

It takes some turns of the loop to begin and some to be heard of, as with a thread, and goes the
same way each time. So nothing has to be waited for, and a clock that jumps never jumps over work.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import outcome
import trio

T = TypeVar("T")


@contextlib.contextmanager
def in_place(chance: random.Random | None = None) -> Iterator[None]:
    """Have ``trio.to_thread.run_sync`` done without threads; `chance` decides how long each takes;
    without it all take as long.
    """

    async def run_sync(
        work: Callable[..., T],
        *args: object,
        thread_name: str | None = None,
        abandon_on_cancel: bool = False,
        limiter: object = None,
    ) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        before = after = 1
        if chance is not None:
            before, after = chance.choice((0, 0, 1, 3)), chance.choice((1, 1, 2, 6))
        with trio.CancelScope(shield=not abandon_on_cancel):
            try:
                await turns(before)
            except trio.Cancelled:
                with contextlib.suppress(Exception):
                    work(*args)  # a thread that is abandoned goes on
                raise
            found = outcome.capture(work, *args)
            await turns(after)
        return found.unwrap()

    real = trio.to_thread.run_sync
    trio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    try:
        yield
    finally:
        trio.to_thread.run_sync = real


async def turns(number: int) -> None:
    """Let other tasks run so many times."""
    for _ in range(number):
        await trio.lowlevel.checkpoint()
