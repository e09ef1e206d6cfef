"""Operations that made somebody wait for long: counted, and logged with what they waited for.

Only what waits anyway is watched: cold reads, opens, listings. While one is under way for half of
the bound, a task looks where it is suspended; so it costs those that are quick next to nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Coroutine
from pathlib import PurePath
from typing import Any, TypeVar

import structlog
import trio

import nebfs
from nebfs.fuse.guard import host_in
from nebfs.model import Content
from nebfs.tree.nodes import Directory

T = TypeVar("T")

log = structlog.get_logger()

HOUSE = f"{os.path.dirname(nebfs.__file__)}{os.sep}"
LOOKS = 4
"""How often, within the bound, it is looked where those are that have been under way for half of
it: at least once before each counts as slow."""


class Watch:
    """One operation under way: what is awaited, since when, and where it was seen suspended."""

    __slots__ = ("began", "suspended", "work")

    def __init__(self, work: Coroutine[Any, Any, Any], began: float) -> None:
        self.work = work
        self.began = began
        self.suspended = ""


class Slow:
    """Watches the operations of one mount. `counted` is how many were slow."""

    def __init__(self, after: float, now: Callable[[], float] = trio.current_time) -> None:
        """`after`: seconds from which an operation is slow."""
        self.after = after
        self.counted = 0
        self._now = now
        self._under_way: set[Watch] = set()
        self._some = trio.Event()

    async def watched(
        self, operation: str, work: Coroutine[Any, Any, T], facts: Callable[[], dict[str, str]]
    ) -> T:
        """Return what `work` returns; `facts` is called if that was slow."""
        watch = Watch(work, self._now())
        self._under_way.add(watch)
        if len(self._under_way) == 1:
            self._some.set()
        failed = True
        try:
            result = await work
            failed = False
            return result
        finally:
            self._under_way.discard(watch)
            seconds = self._now() - watch.began
            if seconds >= self.after:
                self.counted += 1
                # That it cannot be told is no reason to fail what has just been done.
                with contextlib.suppress(Exception):
                    log.warning(
                        "operation.slow",
                        operation=operation,
                        seconds=round(seconds, 2),
                        failed=failed,
                        waited_in=watch.suspended or "unknown",
                        **facts(),
                    )

    async def run(self) -> None:
        """Look where those are that take long, for ever; sleep while there are none."""
        while True:
            if not self._under_way:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(self.after / LOOKS)
            late = self._now() - self.after / 2
            for watch in self._under_way:
                if watch.began <= late:
                    watch.suspended = suspended_in(watch.work)


def suspended_in(work: object) -> str:
    """Return the innermost function of nebfs in which `work` waits, such as ``cached.pread``.

    From coroutine to the one that it awaits (see "Coroutine Objects" in Python's inspect), as far
    as they tell.
    """
    found = ""
    while work is not None:
        frame = getattr(work, "cr_frame", None) or getattr(work, "gi_frame", None)
        if frame is not None and frame.f_code.co_filename.startswith(HOUSE):
            found = f"{PurePath(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
        work = getattr(work, "cr_await", None) or getattr(work, "gi_yieldfrom", None)
    return found


def facts_of(content: Content | None, name: str) -> dict[str, str]:
    """Return which file it is, and the place that its bytes are at."""
    if content is None:
        return {"file": name}
    place = host_in(content.locator.shown)
    return {"file": name, "place": place or content.locator.transport}


def facts_of_directory(directory: Directory) -> dict[str, str]:
    """Return which directory it is, and the marketplace or datastore that it belongs to."""
    names: list[str] = []
    above: Directory | None = directory
    while above is not None and above.name:
        names.insert(0, above.name)
        above = above.parent
    within = names[1:] if names[:1] == ["raw"] else names
    return {"path": "/".join(names) or "/", "place": "/".join(within[:2]) or "/"}
