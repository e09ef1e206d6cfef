"""Cancelling something at its first checkpoint, then at its second, and so on to the last.

A checkpoint is where a task may be cancelled. What counts are those of the task itself and of all
in its nurseries. After each time it is looked whether everything is as if it had never been begun,
or had been finished: nothing locked, reserved or counted, and right answers from what is left.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType

import trio
import trio.testing

from nebfs.content.stack import Reader, read

MOST = 3000
"""Checkpoints of one operation: more would be one that never gets through."""


@dataclass
class Found:
    """How often it was cancelled, and in which functions it was suspended then."""

    cancelled: int = 0
    codes: set[CodeType] = field(default_factory=set)


class _At(trio.abc.Instrument):
    """Cancels `scope` when `root`, or a task below it, comes to its checkpoint number `at`."""

    def __init__(self, at: int, root: trio.lowlevel.Task, scope: trio.CancelScope) -> None:
        self.at = at
        self.passed = 0
        self.codes: set[CodeType] = set()
        self._root = root
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.passed >= self.at or not _is_below(task, self._root):
            return
        self.passed += 1
        if self.passed == self.at:
            for one in _tasks(self._root):
                self.codes |= {frame.f_code for frame, _ in one.iter_await_frames()}
            self._scope.cancel()


def _is_below(task: trio.lowlevel.Task, root: trio.lowlevel.Task) -> bool:
    while task is not root:
        if task.parent_nursery is None:
            return False
        task = task.parent_nursery.parent_task
    return True


def _tasks(root: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield root
    for nursery in root.child_nurseries:
        for child in nursery.child_tasks:
            yield from _tasks(child)


async def cancelled_everywhere(
    operation: Callable[[], Awaitable[None]],
    check: Callable[[], Awaitable[None]],
    prepare: Callable[[], Awaitable[None]] | None = None,
) -> Found:
    """Cancel `operation` at each of its checkpoints, until it gets through without being cancelled.

    Each time `prepare` comes before it, and `check` after it, which raises when something is wrong.
    """
    found = Found()
    for at in itertools.count(1):
        assert at < MOST, "it never gets through"
        if prepare is not None:
            await prepare()
        with trio.CancelScope() as scope:
            probe = _At(at, trio.lowlevel.current_task(), scope)
            trio.lowlevel.add_instrument(probe)
            try:
                await operation()
            finally:
                trio.lowlevel.remove_instrument(probe)
        try:
            await check()
        except BaseException as exc:
            exc.add_note(f"after it was cancelled at checkpoint {at}")
            raise
        if probe.passed < at:
            return found
        found.cancelled += 1
        found.codes |= probe.codes
    raise AssertionError("there is no end of numbers")


@dataclass
class Readers:
    """Something that can be opened and read again and again. `data` is what it has."""

    open: Callable[[], Awaitable[Reader]]
    data: bytes
    idle: Callable[[], object] = lambda: None
    """Raises when something is held though nobody has it open."""
    cold: Callable[[], Awaitable[None]] | None = None
    """Has the next reader begin from nothing."""
    lengths: tuple[int, ...] = (1, 4096, 70_000, 300_000)

    def spans(self, chance: random.Random, number: int) -> list[tuple[int, int]]:
        """Return so many (offset, length) within the data."""
        size = len(self.data)
        lengths = [min(chance.choice(self.lengths), size) for _ in range(number)]
        return [(chance.randrange(size - length + 1), length) for length in lengths]

    async def use(self, spans: list[tuple[int, int]]) -> None:
        """Open it, read these spans, and close it, as the window to the kernel does."""
        reader = await self.open()
        try:
            assert reader.size == len(self.data)
            for offset, length in spans:
                got = bytes(await read(reader, offset, length))
                assert got == self.data[offset : offset + length], f"{length} bytes at {offset}"
        finally:
            await reader.aclose()

    async def check(self) -> None:
        """Whether nothing is held, and every byte is right."""
        await trio.testing.wait_all_tasks_blocked()
        self.idle()
        size = len(self.data)
        step = 500_000
        await self.use([(at, min(step, size - at)) for at in range(0, size, step)])
        await trio.testing.wait_all_tasks_blocked()
        self.idle()


async def cancel_readers(readers: Readers, seed: int = 1) -> Found:
    """Cancel opening, reading and closing at each checkpoint."""
    spans = [*readers.spans(random.Random(seed), 1), (0, len(readers.data))]
    return await cancelled_everywhere(lambda: readers.use(spans), readers.check, readers.cold)


async def read_together(readers: Readers, *, seed: int = 1, tasks: int = 12) -> int:
    """Read random ranges from many tasks at once, some of which are cancelled on the way.

    Return how many were.
    """
    chance = random.Random(seed)
    cancelled = 0

    async def one(spans: list[tuple[int, int]], patience: int | None) -> None:
        nonlocal cancelled
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if patience is not None:
                    nursery.start_soon(_cancel_after, patience, scope)
                await readers.use(spans)
                nursery.cancel_scope.cancel()
        cancelled += scope.cancelled_caught

    if readers.cold is not None:
        await readers.cold()
    async with trio.open_nursery() as nursery:
        for number in range(tasks):
            patience = chance.randrange(60) if number % 3 == 0 else None
            nursery.start_soon(one, readers.spans(chance, 6), patience)
    await readers.check()
    return cancelled


async def _cancel_after(turns: int, scope: trio.CancelScope) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()
