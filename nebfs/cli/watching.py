"""Showing something again and again: in place on a terminal, one after the other elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console, RenderableType
from rich.live import Live

from nebfs.cli.terminal import Frame, can_draw

EVERY = 1.0
"""Seconds between two looks."""

Draw = Callable[[], Iterable[RenderableType]]
"""Makes what is drawn of the last look, each time anew: the window may have another size."""


def watch(look: Callable[[], Draw], plain: Callable[[Draw], None]) -> NoReturn:
    """Show what `look` finds, once a second, until the keyboard interrupts. Where nothing can be
    drawn in place it is shown by `plain`, below the time of day.
    """
    if can_draw():
        _in_place(look)
    while True:
        draw = look()
        click.echo(time.strftime("%H:%M:%S"))
        plain(draw)
        sys.stdout.flush()
        time.sleep(EVERY)


def _in_place(look: Callable[[], Draw]) -> NoReturn:
    console = Console(highlight=False, emoji=False)
    with (
        _ended_by_term(),
        _resized() as wait,
        Live(console=console, auto_refresh=False, screen=True) as live,
    ):
        while True:
            draw = look()
            again = time.monotonic() + EVERY
            live.update(Frame(draw()), refresh=True)
            while wait(again - time.monotonic()):
                live.update(Frame(draw()), refresh=True)


@contextmanager
def _resized() -> Iterator[Callable[[float], bool]]:
    """Give what waits for so many seconds, or less: it returns True when the window has got another
    size before they were over.
    """

    def wait(seconds: float) -> bool:
        return signal.sigtimedwait({signal.SIGWINCH}, max(seconds, 0.0)) is not None

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
    try:
        yield wait
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ended_by_term() -> Iterator[None]:
    """Have SIGTERM leave the terminal as it was, as Ctrl-C does."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
