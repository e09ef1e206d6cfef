"""Showing how far something is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import click
from rich.console import Console, RenderableType
from rich.constrain import Constrain
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

NARROW = 64
"""Columns of a window below which there is no bar and no rate, but a name and the time left."""


class _Bar(ProgressColumn):
    """How much is done, drawn; nothing in a window that is too narrow for it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn = BarColumn(BAR)
        super().__init__()

    def render(self, task: Task) -> RenderableType:
        """Return what is drawn of `task` now."""
        return Text("") if self._console.width < NARROW else self._drawn.render(task)


class _Numbers(ProgressColumn):
    """How much is done, how fast, and how long it will take."""

    def __init__(self, console: Console) -> None:
        self._console = console
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """Return what is told of `task` now."""
        total = None if task.total is None else int(task.total)
        brief = self._console.width < NARROW
        return cut(_told(int(task.completed), total, task.speed or 0.0, brief=brief))


class _Bars(Progress):
    """Bars that end before the window does: a ^C that is echoed behind one would begin a new line,
    and leave the bar there.
    """

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self._window = console  # rich draws before it has kept its own
        super().__init__(
            *columns, console=console, expand=True, redirect_stdout=False, redirect_stderr=False
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield what is drawn."""
        yield Constrain(self.make_tasks_table(self.tasks), max(1, self._window.width - len("^C")))


def _told(done: int, size: int | None, rate: float, *, brief: bool = False) -> str:
    of = "" if size is None else f" of {format_size(size)}"
    left = "" if size is None or rate <= 0 else f", {format_duration((size - done) / rate)} left"
    pace = "" if brief else f", {format_size(rate)}/s"
    return f"{format_size(done)}{of}{pace}{left}"


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
            console = Console(highlight=False, emoji=False)
            self._bar = _Bars(
                console,
                TextColumn("{task.description}", markup=False, table_column=name),
                _Bar(console),
                _Numbers(console),
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
