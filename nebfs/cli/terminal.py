"""What is drawn on a terminal, where there is one whose cursor can be moved."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 240
"""Columns where there is no terminal: a pipe has no edge to wrap at."""


def can_draw() -> bool:
    """Whether stdout is a terminal on which something can be drawn again in place."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in {"", "dumb", "unknown"}


def console() -> Console:
    """Return what tables are printed with: as wide as the terminal, if there is one."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(highlight=False, emoji=False, width=width)


def cut(text: str, style: str = "") -> Text:
    """Return text for a cell or a line that is cut where it does not fit, and never wrapped."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


class Lines:
    """A table. In a window of so many columns each line fits into one: the first cell is cut, and
    a column is left out where the window is narrower than its `titles` say. Without a window
    (None) there are all columns, and lines that are too long go on in the next one.
    """

    def __init__(self, titles: Mapping[str, int], window: int | None, **looks: Any) -> None:
        """`looks` are of rich's Table."""
        self.words = Text if window is None else cut
        self.table = Table(box=None, header_style="bold", **looks)
        self._has = [window is None or window >= least for least in titles.values()]
        for number, title in enumerate(itertools.compress(titles, self._has)):
            if window is None:
                self.table.add_column(title, overflow="fold")
            else:
                self.table.add_column(title, overflow="ellipsis", no_wrap=number > 0)

    def add(self, *cells: Text) -> None:
        """Add a line, with a cell for each of the titles."""
        self.table.add_row(*itertools.compress(cells, self._has))


class Frame:
    """As much of `parts` as the window has room for; the last line tells of what is left out."""

    def __init__(self, parts: Iterable[RenderableType]) -> None:
        self._parts = Group(*parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.size.height
        lines = console.render_lines(self._parts, options.update(height=None), pad=False)
        if len(lines) > height:
            left = len(lines) - height + 1
            more = cut(f"... {left} more lines than the window has", "dim")
            lines = lines[: height - 1] + console.render_lines(more, options.update(height=None))
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line
