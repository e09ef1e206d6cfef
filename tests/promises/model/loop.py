"""Trio, run step by step from plain functions, on a clock that jumps over every wait.

Threads are run in place (see ../threads.py), so a history goes the same way each time.
"""

from __future__ import annotations

import contextlib
import queue
import random
import sys
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import outcome
import trio
from trio.testing import MockClock

from tests.promises import threads

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""What the wall clock shows when trio's begins."""

BOUND = 400.0
"""Seconds (of the clock that jumps) in which everything that is asked for must have ended."""


class Hangs(AssertionError):
    """Something that was asked for does not end."""


class Loop:
    """One run of trio. Nothing happens in it between two calls of ``do``."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._todo: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._ended: list[outcome.Outcome[Any]] = []
        self._ready = False
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._todo.put,
            run_sync_soon_not_threadsafe=self._todo.put,
            done_callback=self._ended.append,
            clock=MockClock(autojump_threshold=0),
        )
        self._pump(lambda: self._ready)

    async def _main(self) -> None:
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self.nursery:
            self._ready = True
            await self._stop.wait()
            self.nursery.cancel_scope.cancel()

    def _pump(self, done: Callable[[], bool]) -> None:
        while not done():
            if self._ended:
                self._ended[0].unwrap()
                raise AssertionError("trio has ended")
            self._todo.get(timeout=60)()

    def do(self, work: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function to its end, and nothing beyond it.

        Raises what it raises, and Hangs.
        """
        found: list[outcome.Outcome[T]] = []

        async def bounded() -> T:
            with trio.move_on_after(BOUND):
                return await work(*args)
            raise Hangs(f"{getattr(work, '__name__', work)} did not end in {BOUND:.0f} s")

        async def run() -> None:
            found.append(await outcome.acapture(bounded))

        self._token.run_sync_soon(self.nursery.start_soon, run)
        self._pump(lambda: bool(found))
        return found[0].unwrap()

    @property
    def now(self) -> float:
        return trio.current_time()

    def wall(self) -> float:
        """What the wall clock shows."""
        return EPOCH + trio.current_time()

    def close(self) -> None:
        """End what runs, and trio."""
        self._token.run_sync_soon(self._stop.set)
        while not self._ended:
            self._todo.get(timeout=60)()
        self._ended[0].unwrap()

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Have nebfs use this loop's wall clock, and threads that are none."""
        shim = types.SimpleNamespace(**{n: getattr(time, n) for n in dir(time)})
        shim.time = self.wall
        shim.monotonic = self.wall
        timed = [
            module
            for name, module in list(sys.modules.items())
            if name.startswith("nebfs.")
            and not name.startswith("nebfs.demo")
            and getattr(module, "time", None) is time
        ]
        for module in timed:
            module.time = shim  # type: ignore[attr-defined]
        try:
            with threads.in_place(self.random):
                yield
        finally:
            for module in timed:
                module.time = time  # type: ignore[attr-defined]
