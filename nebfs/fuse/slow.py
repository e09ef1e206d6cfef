"""Operations that made somebody wait for long: counted, and logged with what they waited for.

Only what waits anyway is watched: cold reads, opens, listings. While one is under way for half of
the bound, a task looks where it is suspended; so it costs those that are quick next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePath
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import structlog
import trio

import nebfs
from nebfs.model import Content

log = structlog.get_logger()

HOUSE = f"{os.path.dirname(nebfs.__file__)}{os.sep}"
LOOKS = 4
"""How often, within the bound, it is looked where those are that have been under way for half of
it: at least once before each counts as slow."""


class Watch:
    """One operation under way."""

    __slots__ = ("_slow", "began", "facts", "operation", "suspended", "task")

    def __init__(self, slow: Slow, operation: str, facts: Callable[[], dict[str, str]]) -> None:
        self._slow = slow
        self.operation = operation
        self.facts = facts
        self.suspended = ""
        self.began = 0.0
        self.task: trio.lowlevel.Task | None = None

    def __enter__(self) -> Self:
        self.began = self._slow.now()
        self.task = trio.lowlevel.current_task()
        self._slow.begun(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._slow.ended(self, failed=kind is not None)


class Slow:
    """Watches the operations of one mount. `counted` is how many were slow."""

    def __init__(self, after: float, now: Callable[[], float] = trio.current_time) -> None:
        """`after`: seconds from which an operation is slow."""
        self.after = after
        self.now = now
        self.counted = 0
        self._under_way: set[Watch] = set()
        self._some = trio.Event()

    def watching(self, operation: str, facts: Callable[[], dict[str, str]]) -> Watch:
        """Return a context in which `operation` is watched; `facts` is called if it was slow."""
        return Watch(self, operation, facts)

    def begun(self, watch: Watch) -> None:
        """Take note of an operation that begins."""
        self._under_way.add(watch)
        if len(self._under_way) == 1:
            self._some.set()

    def ended(self, watch: Watch, *, failed: bool) -> None:
        """Take note of its end: count and log it if it was slow."""
        self._under_way.discard(watch)
        seconds = self.now() - watch.began
        if seconds < self.after:
            return
        self.counted += 1
        log.warning(
            "operation.slow",
            operation=watch.operation,
            seconds=round(seconds, 1),
            failed=failed,
            waited_in=watch.suspended or "unknown",
            **watch.facts(),
        )

    async def run(self) -> None:
        """Look where those are that take long, for ever; sleep while there are none."""
        while True:
            if not self._under_way:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(self.after / LOOKS)
            late = self.now() - self.after / 2
            for watch in self._under_way:
                if watch.began <= late and watch.task is not None:
                    watch.suspended = suspended_in(watch.task)


def suspended_in(task: trio.lowlevel.Task) -> str:
    """Return the innermost function of nebfs in which `task` waits, such as ``cached.pread``."""
    found = ""
    for frame, _ in task.iter_await_frames():
        code = frame.f_code
        if code.co_filename.startswith(HOUSE):
            found = f"{PurePath(code.co_filename).stem}.{code.co_name}"
    return found


def facts_of(content: Content | None, name: str) -> dict[str, str]:
    """Return which file it is, and the place that its bytes are at."""
    if content is None:
        return {"file": name}
    shown = content.locator.shown
    return {"file": name, "place": urlsplit(shown).netloc or content.locator.transport}
