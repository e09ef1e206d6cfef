"""Showing how far something is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from nebfs.cli.door import printable
from nebfs.units import format_duration, format_size

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


class Shown:
    """How many of `size` bytes are done. Use as a context manager."""

    def __init__(self, size: int, done: int = 0) -> None:
        self._size = size
        self._first = done
        self._began = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(highlight=False, emoji=False),
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

    def _line(self, done: int, now: float) -> str:
        rate = (done - self._first) / max(now - self._began, 0.001)
        left = f", {format_duration((self._size - done) / rate)} left" if rate > 0 else ""
        return f"{format_size(done)} of {format_size(self._size)}, {format_size(rate)}/s{left}"
