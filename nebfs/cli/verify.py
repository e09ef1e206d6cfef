"""``nebfs verify``: a whole image is compared with what was published about it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.answers import dicts
from nebfs.cli.daemons import place_of
from nebfs.cli.door import FAILED, printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.progress import Shown
from nebfs.daemon import control
from nebfs.errors import UserError

SILENCE = 300.0
"""Seconds: a place may be tried for long before a read fails."""


FILES = {
    "yes": "it is what was published",
    "no": "it was not compared as a whole; 'nebfs verify' of the image outside raw/ does that",
    "mismatch": "it DIFFERS from what was published",
    "": "nothing was published about it either",
}


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def verify(ctx: click.Context, path: Path, as_json: bool, run_dir: Path) -> None:
    """Read all of the image at PATH and compare it with the checksum that was published about it.

    What is in the cache is read there, the rest is fetched. Where nothing was published its SHA-256
    is printed, as sha256sum prints it. That is so below raw/: what is published is about the file
    that a disk is in, and whether that was compared is said.

    Exits with 0 if it is the same or nothing was published, 1 if it differs, 69 if it could not be
    read.
    """
    ctx.meta[FAILED] = exits.UNREACHABLE
    place = place_of(path, run_dir)
    told = control.follow(
        place.socket, "POST", "/v1/verify", body={"path": place.inside}, silence=SILENCE
    )
    end: dict[str, object] = {}
    try:
        with Shown(0) as shown:
            for one in told:
                if one.get("event") == "end":
                    end = one
                elif not as_json:
                    here, size = one.get("here"), one.get("size")
                    if isinstance(here, int) and isinstance(size, int):
                        shown.update(path.name, here, size)
    except UserError as exc:
        # 1 is kept for an image that differs.
        raise UserError(str(exc), exit_code=exits.USAGE) from exc
    ctx.exit(_told(path, end, as_json=as_json))


def _told(path: Path, end: dict[str, object], *, as_json: bool) -> int:
    algorithm, found, same = end.get("algorithm"), end.get("found"), end.get("same")
    if as_json:
        click.echo(json.dumps({"path": str(path), **end}))
    elif same is None:
        files = dicts(end.get("inside"))
        what = ", decompressed" if end.get("decompressed") else ""
        inside = f"it is the disk inside a file{what}; " if files else ""
        say(f"{inside}nothing was published about it; this is what it is")
        click.echo(printable(f"{found}  {path}"))
        for file in files:
            say(f"the file: {file.get('source')}: {FILES.get(str(file.get('verified')), '?')}")
    elif same:
        click.echo(printable(f"{path}: it is what was published ({algorithm} {found})"))
    else:
        say(f"{path}: it DIFFERS from what was published")
        say(f"  published  {algorithm} {end.get('published')}")
        say(f"  found      {algorithm} {found}")
    return exits.FAILURE if same is False else exits.OK
