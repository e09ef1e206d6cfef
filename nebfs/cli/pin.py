"""``nebfs pin`` and ``nebfs unpin``: what stays in the cache, whatever else is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.answers import counted, dicts, number
from nebfs.cli.daemons import by_daemon, daemons
from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.warm import bring
from nebfs.daemon import control
from nebfs.units import format_size

PATIENCE = 60.0
"""Seconds: the place of an image may have to be asked for its version."""


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--warm", is_flag=True, help="Bring all of them into the cache, too.")
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def pin(
    ctx: click.Context, paths: tuple[Path, ...], warm: bool, as_json: bool, run_dir: Path
) -> None:
    """Keep the images at PATH... in the cache: what is there of them is not evicted.

    That holds across restarts, until 'nebfs unpin'. Pins take at most 90 % of the cache. They are
    of the version that is there now. Without a PATH all pins are listed.
    """
    if not paths:
        _list(run_dir, as_json=as_json)
        return
    failed = 0
    for socket, inside in by_daemon(paths, run_dir):
        body = {"paths": inside}
        said = control.ask(socket, "POST", "/v1/pin", body=body, timeout=PATIENCE)
        if as_json:
            click.echo(json.dumps(said))
        for path, objects in [] if as_json else _by_path(said.get("pinned")):
            here = f"{_sum(objects, 'cached')} of {_sum(objects, 'size')}"
            click.echo(printable(f"{path}: pinned, {here} is here"))
        if warm:
            failed += bring(socket, {**body, "recursive": False}, as_json=as_json)
    ctx.exit(exits.FAILURE if failed else exits.OK)


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Take all pins of all mounts back.")
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def unpin(
    ctx: click.Context, paths: tuple[Path, ...], everything: bool, as_json: bool, run_dir: Path
) -> None:
    """Take the pins of the images at PATH... back: they stay in the cache until room is needed.

    Exits with 0 if something was unpinned, 1 if nothing was pinned.
    """
    if bool(paths) == everything:
        raise click.UsageError("name a PATH, or say --all")
    asked: list[tuple[Path, dict[str, object]]]
    if everything:
        asked = [(Path(one.socket), {"all": True}) for one in daemons(None, run_dir)]
    else:
        asked = [(socket, {"paths": inside}) for socket, inside in by_daemon(paths, run_dir)]
    taken = 0
    for socket, body in asked:
        said = control.ask(socket, "POST", "/v1/unpin", body=body, timeout=PATIENCE)
        gone = _by_path(said.get("unpinned"))
        taken += len(gone)
        if as_json:
            click.echo(json.dumps(said))
        for path, _ in [] if as_json else gone:
            click.echo(printable(f"{path}: not pinned any more"))
    if not taken:
        say("nothing of that was pinned")
        ctx.exit(exits.FAILURE)


def _list(run_dir: Path, *, as_json: bool) -> None:
    for daemon in daemons(None, run_dir):
        said = control.ask(Path(daemon.socket), "GET", "/v1/pins", timeout=PATIENCE)
        if as_json:
            click.echo(json.dumps({"mountpoint": daemon.mountpoint, **said}))
            continue
        pins = dicts(said.get("pins"))
        limit = format_size(number(said.get("limit")))
        images = _by_path(pins)
        pinned = f"{counted(len(images), 'image')} pinned"
        click.echo(printable(f"{daemon.mountpoint}: {pinned}, {_sum(pins, 'size')} of {limit}"))
        for path, objects in images:
            click.echo(printable(f"  {_sum(objects, 'size'):>8}  {path}"))


def _by_path(pins: object) -> list[tuple[str, list[Mapping[str, object]]]]:
    """Return the objects that are pinned of each image: of a disk in a chain of files, or in a
    compressed one, there are several.
    """
    found: dict[str, list[Mapping[str, object]]] = {}
    for one in dicts(pins):
        found.setdefault(str(one.get("path")), []).append(one)
    return list(found.items())


def _sum(objects: list[Mapping[str, object]], what: str) -> str:
    return format_size(sum(number(one.get(what)) for one in objects))
