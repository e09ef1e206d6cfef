"""``nebfs demo``: the guided tour of a small cloud that runs on this machine."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from nebfs.cli.checks import check_fuse
from nebfs.cli.door import verbose_option


@click.command()
@click.option("--keep", is_flag=True, help="Leave the mount up until Ctrl-C, to look around.")
@click.option(
    "--directory",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Make the disk images here and keep them for the next time; else they are removed.",
)
@verbose_option
@click.pass_context
def demo(ctx: click.Context, keep: bool, directory: Path | None) -> None:
    """Mount a small cloud that runs on this machine, and show what can be done with it.

    Needs no OpenNebula and no network. Nothing is left behind.
    """
    from nebfs.demo.tour import tour  # noqa: PLC0415 - servers and images: not for --help

    check_fuse(allow_other=False)
    console = Console(highlight=False, soft_wrap=True)
    with _ended_as_by_ctrl_c():
        if directory is not None:
            ctx.exit(tour(directory=directory.absolute(), keep=keep, console=console))
        with tempfile.TemporaryDirectory(prefix="nebfs-demo-images-") as scratch:
            code = tour(directory=Path(scratch), keep=keep, console=console)
    ctx.exit(code)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """Have a kill, or a terminal that goes away, unmount as well. nohup has the latter ignored."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
