"""Calls that block, in threads of our own. asyncio.

librados has timeouts, and there are waits that they do not cover. So whoever waits here waits with
a limit of his own, a thread that does not come back is left to itself, and how many there can be is
limited. They are daemon threads: one that hangs must not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from nebfs.errors import Unreachable

T = TypeVar("T")


class Threads:
    """Runs at most `limit` calls at a time; one that was given up counts until it is over."""

    def __init__(self, limit: int, late: str = "the cluster does not answer") -> None:
        """`late` says what it means when a call does not come back."""
        self._free = asyncio.Semaphore(limit)
        self._late = late

    async def run(
        self, work: Callable[[], T], *, within: float, discard: Callable[[T], object] | None = None
    ) -> T:
        """Return what `work` returns within so many seconds, with its turn.

        Raises what it raises, or Unreachable. A result that nobody waits for any more is given to
        `discard`, which may block, too.
        """
        try:
            async with asyncio.timeout(within):
                await self._free.acquire()
                return await self._started(work, discard)
        except TimeoutError as exc:
            raise Unreachable(self._late, after=within) from exc

    def _started(
        self, work: Callable[[], T], discard: Callable[[T], object] | None
    ) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, failure: BaseException | None) -> None:
            self._free.release()
            if not future.done():
                if failure is None:
                    future.set_result(result)
                else:
                    future.set_exception(failure)
            elif failure is None and discard is not None:
                threading.Thread(target=discard, args=(result,), daemon=True).start()

        def call() -> None:
            result: Any = None
            failure: BaseException | None = None
            try:
                result = work()
            except BaseException as exc:  # noqa: BLE001 - it is raised where it is awaited
                failure = exc
            tell(loop, settle, result, failure)

        threading.Thread(target=call, name="blocking", daemon=True).start()
        return future


def tell(loop: asyncio.AbstractEventLoop, *call: Any) -> None:
    """Have the loop call something, from another thread; a loop that is closed needs no news."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(*call)
