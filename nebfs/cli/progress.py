"""Showing how far something is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from nebfs.cli.door import printable, say
from nebfs.cli.terminal import can_draw, cut
from nebfs.units import format_duration, format_size

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

BAR = 20
"""Columns of a bar: a window of 80 has room for it, the numbers and a part of the name."""


class _Numbers(ProgressColumn):
    """How much is done, how fast, and how long it will take."""

    def render(self, task: Task) -> Text:
        """Return what is told of `task` now."""
        total = None if task.total is None else int(task.total)
        return cut(_told(int(task.completed), total, task.speed or 0.0))


def _told(done: int, size: int | None, rate: float) -> str:
    of = "" if size is None else f" of {format_size(size)}"
    left = "" if size is None or rate <= 0 else f", {format_duration((size - done) / rate)} left"
    return f"{format_size(done)}{of}, {format_size(rate)}/s{left}"


class Shown:
    """How many of `size` bytes are done. Use as a context manager."""

    def __init__(self, size: int, done: int = 0) -> None:
        self._size = size
        self._first = done
        self._began = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if can_draw():
            # The name gets what is left of the line, which is never longer than the window is wide.
            name = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            self._bar = Progress(
                TextColumn("{task.description}", markup=False, table_column=name),
                BarColumn(BAR),
                _Numbers(Column(no_wrap=True)),
                console=Console(highlight=False, emoji=False),
                expand=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("", total=size or None, completed=done)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, name: str, done: int, size: int | None = None) -> None:
        """Show that `done` bytes of all are done, `name` being what it is about now. `size`: how
        many they are, where that was not known before.
        """
        if size is not None and size != self._size:
            self._size = size
            if self._bar is not None:
                self._bar.update(self._task, total=size)
        if self._bar is not None:
            self._bar.update(self._task, description=printable(name), completed=done)
            return
        now = time.monotonic()
        if now - self._told >= EVERY:
            self._told = now
            click.echo(printable(f"{name}: {self._line(done, now)}"))

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self._bar is not None:
            self._bar.console.print(Text(printable(line)))
        else:
            click.echo(printable(line))

    def warn(self, message: str) -> None:
        """Print on stderr why something failed: above the bar, where that is on this terminal."""
        if self._bar is None or not sys.stderr.isatty():
            say(message)
            return
        for line in message.splitlines():
            self._bar.console.print(Text(f"nebfs: {printable(line)}"))

    def _line(self, done: int, now: float) -> str:
        return _told(done, self._size, (done - self._first) / max(now - self._began, 0.001))
