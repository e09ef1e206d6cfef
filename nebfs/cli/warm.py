"""``nebfs warm``: whole images are brought into the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from nebfs.cli import exits
from nebfs.cli.answers import counted, dicts, whole
from nebfs.cli.daemons import by_daemon
from nebfs.cli.door import say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.progress import Shown
from nebfs.daemon import control
from nebfs.units import format_size, parse_size

Command = TypeVar("Command", bound=Callable[..., Any])

SILENCE = 300.0
"""Seconds: with -r many places may have to be asked before anything is told."""


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return parse_size(value.removesuffix("/s"))
    except ValueError as exc:
        raise click.BadParameter(str(exc), ctx, param) from exc


def rate_option(text: str) -> Callable[[Command], Command]:
    """Add ``--rate``, in bytes per second."""
    return click.option("--rate", callback=_rate, metavar="SIZE", help=text)


@click.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("-r", "--recursive", is_flag=True, help="Take all images below each PATH.")
@rate_option("Fetch no more per second, such as 20M.")
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def warm(
    ctx: click.Context,
    paths: tuple[Path, ...],
    recursive: bool,
    rate: int | None,
    as_json: bool,
    run_dir: Path,
) -> None:
    """Bring the whole images at PATH... into the cache, so that reading them waits for nothing.

    What is there already is not fetched again, and what somebody waits for goes first. Below raw/ a
    compressed image is decompressed as well. When it is interrupted, what has come stays: the same
    command goes on from there.

    Exits with 0 if all of them are there, 1 if one is not.
    """
    failed = 0
    for socket, inside in by_daemon(paths, run_dir):
        asked = {"paths": inside, "recursive": recursive, "rate": rate}
        failed += bring(socket, asked, as_json=as_json)
    ctx.exit(exits.FAILURE if failed else exits.OK)


def bring(socket: Path, asked: Mapping[str, object], *, as_json: bool = False) -> int:
    """Have the daemon bring images, and show how far it is; return how many could not be had."""
    told = control.follow(socket, "POST", "/v1/warm", body=asked, silence=SILENCE)
    try:
        return _as_lines(told) if as_json else _as_a_bar(told)
    except KeyboardInterrupt:
        say("stopped; what has come stays, and the same command goes on from there")
        raise


def _as_lines(told: Iterator[dict[str, object]]) -> int:
    failed = 0
    for one in told:
        failed += one.get("event") == "failed"
        click.echo(json.dumps(one))
    return failed


def _as_a_bar(told: Iterator[dict[str, object]]) -> int:
    plan = next(told, {})
    size, here = whole(plan.get("size")), whole(plan.get("here"))
    for one in dicts(plan.get("left_out")):
        say(f"left out: {one.get('path')}: {one.get('reason')}")
    images = whole(plan.get("images"))
    if not images:
        say("there is nothing to bring")
        return 0
    failed = 0
    with Shown(size, here) as shown:
        shown.say(f"{counted(images, 'image')}, {_sizes(size, here)}")
        for one in told:
            path = str(one.get("path", ""))
            match one.get("event"):
                case "progress":
                    name = f"{one.get('number')}/{images} {path.rpartition('/')[2]}"
                    doing = ", decompressing" if one.get("stage") == "decompressing" else ""
                    shown.update(f"{name}{doing}", whole(one.get("total")))
                case "image":
                    shown.update(path.rpartition("/")[2], whole(one.get("total")))
                    shown.say(f"{path}: {_came(one)}")
                case "failed":
                    failed += 1
                    shown.warn(f"{path}: {one.get('reason')}")
    return failed


def _came(one: Mapping[str, object]) -> str:
    """Return what is said of an image that is here. What is published is about the file."""
    if not one.get("decompressed"):
        return "all of it is here" + (" and is what was published" if one.get("verified") else "")
    of = " out of what was published" if one.get("verified") else ""
    return f"all of it is here, decompressed{of}"


def _sizes(size: int, here: int) -> str:
    if here >= size:
        return f"{format_size(size)}, all of it here already"
    return f"{format_size(size)}, of which {format_size(here)} is here"
