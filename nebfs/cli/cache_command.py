"""``nebfs cache``: what is in the cache, which parts of an image, and taking it out."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nebfs.cli import exits
from nebfs.cli.answers import counted, dicts, number, whole
from nebfs.cli.daemons import by_daemon, daemons, place_of
from nebfs.cli.door import Door, printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.mounts import resolved
from nebfs.cli.progress import Shown
from nebfs.cli.warm import rate_option
from nebfs.daemon import control
from nebfs.units import format_duration, format_size

PATIENCE = 60.0
"""Seconds: the indexes of thousands of objects are read from the disk."""

LEVELS = " ▁▂▃▄▅▆▇█"
WIDTH = 80
"""Characters of a map where there is no terminal."""

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group("cache", cls=Door)
def cache_command() -> None:
    """Look into the cache, and take things out of it."""


def _place_options(command: Command) -> Command:
    command = click.option(
        "--cache-dir",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Look into this cache directory; no mount is needed.",
    )(command)
    return click.argument("mountpoint", required=False, type=click.Path(path_type=Path))(command)


@cache_command.command()
@_place_options
@json_option
@run_dir_option
@verbose_option
def usage(mountpoint: Path | None, cache_dir: Path | None, as_json: bool, run_dir: Path) -> None:
    """Show how full the cache is: of every mount, or of the one at MOUNTPOINT."""
    found = answers(mountpoint, cache_dir, run_dir)
    if as_json:
        click.echo(json.dumps([{**one, "objects": len(_objects(one))} for one in found], indent=2))
        return
    for one in found:
        objects = _objects(one)
        limit = f" of {format_size(number(one['limit']))}" if one.get("limit") else ""
        pinned = sum(number(o.get("disk")) for o in objects if o.get("pinned"))
        complete = sum(_share(o) == "100 %" for o in objects)
        click.echo(printable(str(one.get("directory") or one.get("mountpoint"))))
        click.echo(f"  used     {format_size(number(one.get('used')))}{limit}")
        click.echo(f"  objects  {len(objects)}, {complete} of them whole")
        if pinned:
            click.echo(f"  pinned   {format_size(pinned)}")


@cache_command.command("list")
@_place_options
@json_option
@run_dir_option
@verbose_option
def list_command(
    mountpoint: Path | None, cache_dir: Path | None, as_json: bool, run_dir: Path
) -> None:
    """List what is in the cache, what was used last first."""
    found = [one for answer in answers(mountpoint, cache_dir, run_dir) for one in _objects(answer)]
    found.sort(key=lambda one: -number(one.get("used")))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    # A pipe has no edge to wrap at.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in (
        ("OBJECT", "left"),
        ("SIZE", "right"),
        ("HERE", "right"),
        ("USED", "right"),
    ):
        table.add_column(title, justify="right" if side == "right" else "left", no_wrap=True)
    table.add_column("STATE")
    table.add_column("SOURCE", overflow="fold")
    for one in found:
        table.add_row(
            str(one.get("key"))[:12],
            _size(one),
            _share(one),
            _ago(one),
            ", ".join(_state(one)) or "-",
            Text(printable(str(one.get("source") or "-"))),
        )
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


@cache_command.command("map")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@run_dir_option
@verbose_option
def map_command(path: Path, as_json: bool, run_dir: Path) -> None:
    """Draw which parts of the image at PATH are in the cache.

    Each character is an equal part of it: blank where nothing is here, full where all of it is.
    """
    place = place_of(path, run_dir)
    query = {"path": place.inside}
    answer = control.ask(place.socket, "GET", "/v1/cache/map", query=query, timeout=PATIENCE)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    width = Console().width if sys.stdout.isatty() else WIDTH
    for one in dicts(answer.get("files")):
        cached, ranges = number(one.get("cached")), _ranges(one)
        click.echo(printable(str(one.get("source"))))
        if one.get("size") is None:
            # What was decompressed so far is all that there is to draw.
            size: float = ranges[-1][1] if ranges else 0
            said = f"{format_size(cached)}; how long it is is not known yet"
        else:
            size = number(one.get("size"))
            said = f"{format_size(cached)} of {_size(one)}, {_share(one)}"
        click.echo(f"▕{drawn_map(ranges, size, width - 2)}▏")
        click.echo(said)


@cache_command.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Drop all that the mount at PATH has.")
@click.option("--force", is_flag=True, help="Also what is open or pinned.")
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def drop(
    ctx: click.Context,
    paths: tuple[Path, ...],
    everything: bool,
    force: bool,
    as_json: bool,
    run_dir: Path,
) -> None:
    """Take the images at PATH... out of the cache, or with --all everything.

    What is open or pinned stays, unless --force is given. What somebody reads afterwards is fetched
    again. With --all and no PATH there has to be one mount only.

    Exits with 0 if all that was meant is gone, 1 if something stays.
    """
    if not paths and not everything:
        raise click.UsageError("name a PATH, or say --all")
    asked: list[tuple[Path, dict[str, object]]]
    if everything:
        sockets = [socket for socket, _ in by_daemon(paths, run_dir)] or [
            Path(daemons(None, run_dir, only=True)[0].socket)
        ]
        asked = [(socket, {"all": True, "force": force}) for socket in sockets]
    else:
        asked = [(s, {"paths": inside, "force": force}) for s, inside in by_daemon(paths, run_dir)]
    stayed = 0
    for socket, body in asked:
        said = control.ask(socket, "POST", "/v1/cache/drop", body=body, timeout=PATIENCE)
        kept = dicts(said.get("kept"))
        stayed += len(kept)
        if as_json:
            click.echo(json.dumps(said))
            continue
        freed = format_size(number(said.get("bytes")))
        click.echo(f"{counted(said.get('dropped'), 'object')} dropped, {freed} made free")
        for one in kept:
            say(f"stays: {one.get('source')}: {one.get('reason')}; --force drops it, too")
    ctx.exit(exits.FAILURE if stayed else exits.OK)


@cache_command.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path))
@rate_option("Read no more from the disk per second (200M if not given).")
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def check(
    ctx: click.Context, mountpoint: Path | None, rate: int | None, as_json: bool, run_dir: Path
) -> None:
    """Compare every block in the cache with its checksum, and take out those that differ.

    Blocks are compared when they are first read, too: a wrong one is never given to anybody. This
    tells whether the disk below the cache is still good.

    Exits with 0 if all of them are right, 1 if something was taken out.
    """
    rotten = 0
    for daemon in daemons(mountpoint, run_dir):
        told = control.follow(
            Path(daemon.socket), "POST", "/v1/cache/check", body={"rate": rate}, silence=PATIENCE
        )
        rotten += _check_as_lines(told) if as_json else _check_as_a_bar(told)
    ctx.exit(exits.FAILURE if rotten else exits.OK)


def _check_as_lines(told: Iterator[dict[str, object]]) -> int:
    rotten = 0
    for one in told:
        click.echo(json.dumps(one))
        rotten += whole(one.get("blocks")) if one.get("event") == "end" else 0
    return rotten


def _check_as_a_bar(told: Iterator[dict[str, object]]) -> int:
    rotten = 0
    with Shown(0) as shown:
        for one in told:
            match one.get("event"):
                case "progress":
                    shown.update("checking", whole(one["here"]), whole(one["size"]))
                case "rot":
                    blocks = counted(one.get("blocks"), "block")
                    shown.say(f"{one.get('source')}: {blocks} rotten, taken out")
                case "end":
                    rotten = whole(one.get("blocks"))
                    size = format_size(number(one.get("bytes")))
                    wrong = (
                        f"{counted(rotten, 'block')} taken out" if rotten else "all of it is right"
                    )
                    shown.say(f"{counted(one.get('objects'), 'object')}, {size}: {wrong}")
    return rotten


def answers(
    mountpoint: Path | None, cache_dir: Path | None, run_dir: Path
) -> list[dict[str, object]]:
    """Return what is known of a cache directory, or of the caches of running mounts."""
    if cache_dir is None:
        found = []
        for one in daemons(mountpoint, run_dir):
            answer = control.ask(Path(one.socket), "GET", "/v1/cache", timeout=PATIENCE)
            found.append({"mountpoint": one.mountpoint, **answer})
        return found
    if mountpoint is not None:
        raise click.UsageError("either MOUNTPOINT or --cache-dir")
    from nebfs.daemon.resting import records  # noqa: PLC0415 - only here it is needed

    objects = records(resolved(cache_dir))
    used = sum(number(one["disk"]) for one in objects)
    return [{"directory": str(cache_dir), "used": used, "objects": objects}]


def drawn_map(ranges: list[list[int]], size: float, width: int) -> str:
    """Return `width` characters that show which of `size` bytes lie in the ranges."""
    here = [0.0] * width
    each = size / width if size else 1.0
    for start, stop in ranges:
        for cell in range(int(start / each), min(math.ceil(stop / each), width)):
            here[cell] += max(0.0, min(stop, (cell + 1) * each) - max(start, cell * each))
    return "".join(LEVELS[_level(amount / each)] for amount in here)


def _level(share: float) -> int:
    """Something is never drawn as nothing, and not all never as all."""
    if share <= 0:
        return 0
    full = len(LEVELS) - 1
    return full if share > 0.999 else min(max(round(share * full), 1), full - 1)


def _objects(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    return dicts(answer.get("objects"))


def _ranges(one: Mapping[str, object]) -> list[list[int]]:
    found = one.get("ranges")
    return found if isinstance(found, list) else []


def _state(one: Mapping[str, object]) -> Iterator[str]:
    for name in ("open", "pinned"):
        if one.get(name):
            yield name
    if one.get("decompressed"):
        # Of these a verdict says that the compressed file was read to a good end.
        good = "decompressed" if one.get("verified") else "partly decompressed"
        yield "DAMAGED" if one.get("verified") == "mismatch" else good
    elif one.get("verified"):
        yield {"yes": "verified", "mismatch": "DAMAGED"}.get(str(one["verified"]), "")


def _size(one: Mapping[str, object]) -> str:
    return "?" if one.get("measured") is False else format_size(number(one.get("size")))


def _share(one: Mapping[str, object]) -> str:
    """Return how much is here; while it is not known of how much, how many bytes."""
    size, cached = number(one.get("size")), number(one.get("cached"))
    if one.get("measured") is False:
        return format_size(cached)
    return f"{int(100 * cached / size) if size else 100} %"


def _ago(one: Mapping[str, object]) -> str:
    used = number(one.get("used"))
    # What can be made again is not told when it was used: it is the first to leave.
    return f"{format_duration(max(0.0, time.time() - used))} ago" if used else "-"
