"""``nebfs profile``: what guests read while they boot, as recorded, for other machines too."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import trio

from nebfs.cli.daemons import place_of
from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.logs import configure_logs
from nebfs.cli.profile_map import drawn
from nebfs.config_kinds import default_cache_dir
from nebfs.content.profiling import LARGEST_DOCUMENT, Profile, Shelf, shelf_in
from nebfs.daemon import control, registry
from nebfs.errors import BadAnswer, NebfsError, UserError
from nebfs.units import format_size

PATIENCE = 5.0
"""Seconds: a daemon answers from memory."""

ATTRIBUTE = "user.nebfs.profile"
SHORTEST = 8
"""Hex digits of an id that are enough, as list shows them."""


@dataclass(frozen=True, slots=True)
class Where:
    """What was typed of where profiles are: a cache, or the registrations of running mounts."""

    cache_dir: Path | None
    run_dir: Path

    def shelves(self) -> list[Shelf]:
        """Return the profiles of the cache that was named, or else of every running mount, or else
        of the usual cache.
        """
        if self.cache_dir is not None:
            return [shelf_in(self.cache_dir)]
        alive = [one for one in registry.registered(self.run_dir) if one.alive]
        found = [cache for one in alive if (cache := _cache_of(Path(one.socket)))]
        return [shelf_in(cache) for cache in found or [default_cache_dir()]]

    def of_file(self, path: Path) -> tuple[Shelf, str]:
        """Return the profiles of the mount that `path` is in, and the id of the image there."""
        socket = place_of(path, self.run_dir).socket
        cache = self.cache_dir or _cache_of(socket)
        if cache is None:
            raise UserError(f"the mount of {path} has no cache on disk, and keeps no profiles")
        try:
            key = os.getxattr(path, ATTRIBUTE).decode("ascii", "replace")
        except OSError as exc:
            if exc.errno != errno.ENODATA:
                raise
            raise UserError(
                f"{path} has no profile: it is no disk, or one that is not fetched from anywhere"
            ) from exc
        return shelf_in(cache), key

    def find(self, image: str) -> tuple[Shelf, Profile]:
        """Return the profile of a file in a mount, or with that id. Raises UserError."""
        if _is_id(image) and not os.path.lexists(image):
            found = [
                (shelf, key)
                for shelf in self.shelves()
                for key in trio.run(shelf.keys)
                if key.startswith(image)
            ]
            if len({key for _, key in found}) > 1:
                raise UserError(f"several profiles begin with {image}: write more of the id")
        else:
            found = [self.of_file(Path(image))]
        for shelf, key in found:
            profile = trio.run(shelf.load, key)
            if profile is not None:
                return shelf, profile
        raise UserError(f"there is no profile of {image}: nobody has booted from it yet")


def _cache_of(socket: Path) -> Path | None:
    answer = control.ask(socket, "GET", "/v1/status", timeout=PATIENCE)
    cache = answer.get("cache")
    directory = cache.get("directory") if isinstance(cache, dict) else None
    return Path(directory) if isinstance(directory, str) and directory else None


def _is_id(text: str) -> bool:
    return SHORTEST <= len(text) <= 64 and set(text) <= set("0123456789abcdef")


@click.group("profile")
@click.option(
    "--cache-dir",
    metavar="DIR",
    envvar="NEBFS_CACHE_DIR",
    type=click.Path(path_type=Path),
    help="The cache whose profiles are meant, if not those of running mounts.",
)
@run_dir_option
@verbose_option
@click.pass_context
def profile(ctx: click.Context, cache_dir: Path | None, run_dir: Path) -> None:
    """Show, copy and remove boot profiles: what guests read of an image while they boot.

    IMAGE is a file in a mount, or the id of a profile as 'nebfs profile list' shows it.
    """
    configure_logs("warning", sys.stderr)
    ctx.obj = Where(cache_dir, run_dir)


@profile.command("list")
@json_option
@click.pass_obj
def list_(where: Where, as_json: bool) -> None:
    """List the profiles that are kept, the one that was changed last first."""
    found = [one for shelf in where.shelves() for one in trio.run(_all_of, shelf)]
    if as_json:
        click.echo(json.dumps([_summary(one) for one in found], indent=2))
        return
    if not found:
        say("there are no profiles yet")
        return
    for line in _columns(found):
        click.echo(line)


async def _all_of(shelf: Shelf) -> list[Profile]:
    found = [await shelf.load(key) for key in await shelf.keys()]
    return [one for one in found if one is not None]


def _summary(one: Profile) -> dict[str, object]:
    record = one.record()
    return {
        **{name: record[name] for name in ("id", "image", "size", "boots", "recorded")},
        "ranges": len(one.parts),
        "bytes": one.length,
    }


def _columns(found: list[Profile]) -> Iterator[str]:
    yield f"{'ID':<12}  {'BOOTS':>5}  {'RANGES':>6}  {'BYTES':>9}  {'OF':>9}  IMAGE"
    for one in found:
        yield (
            f"{one.key[:12]}  {one.boots:>5}  {len(one.parts):>6}  {format_size(one.length):>9}  "
            f"{format_size(one.revision.size):>9}  {printable(one.image)}"
        )


@profile.command()
@click.argument("image")
@click.option("--ranges", is_flag=True, help="List every range too, in the order of reading.")
@json_option
@click.pass_obj
def show(where: Where, image: str, ranges: bool, as_json: bool) -> None:
    """Draw which parts of IMAGE are read while it boots, and when."""
    found = where.find(image)[1]
    if as_json:
        click.echo(json.dumps(found.record(), indent=2))
        return
    for line in drawn(found, ranges=ranges):
        click.echo(line)


@profile.command()
@click.argument("image")
@click.argument("file", default="-", type=click.Path(path_type=Path, allow_dash=True))
@click.pass_obj
def export(where: Where, image: str, file: Path) -> None:
    """Write the profile of IMAGE to FILE, for other machines; without FILE to the output."""
    text = json.dumps(where.find(image)[1].record()) + "\n"
    if str(file) == "-":
        click.echo(text, nl=False)
    else:
        file.write_text(text)


@profile.command("import")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("image", required=False)
@click.pass_obj
def import_(where: Where, file: Path, image: str | None) -> None:
    """Keep the profile in FILE, in place of what there is of its image.

    Without IMAGE it is for the image that it was recorded of, at the same address. With IMAGE, a
    file in a mount, it is for that one: the same image elsewhere, or one that is much like it.
    """
    found = _read(file)
    if image is not None:
        shelf, key = where.of_file(Path(image))
        found = replace(found, key=key, image=_source_of(image))
    elif where.cache_dir is not None:
        shelf = shelf_in(where.cache_dir, create=True)
    else:
        shelves = where.shelves()
        if len(shelves) > 1:
            raise UserError("several mounts are running: name one's cache with --cache-dir")
        shelf = shelves[0]
    trio.run(_keep, shelf, found)


async def _keep(shelf: Shelf, found: Profile) -> None:
    await shelf.save(found)
    if await shelf.load(found.key) != found:
        raise NebfsError("the profile could not be written to the cache")


def _read(file: Path) -> Profile:
    with click.open_file(os.fspath(file), "rb") as stream:
        raw = stream.read(LARGEST_DOCUMENT + 1)
    try:
        return Profile.decode(raw)
    except BadAnswer as exc:
        raise UserError(f"{file} is not understood: {exc}") from exc


def _source_of(path: str) -> str:
    try:
        return os.getxattr(path, "user.nebfs.source").decode(errors="replace")[:4096]
    except OSError:
        return ""


@profile.command()
@click.argument("image")
@click.pass_obj
def forget(where: Where, image: str) -> None:
    """Remove the profile of IMAGE. The next boot is recorded anew."""
    shelf, found = where.find(image)
    trio.run(shelf.forget, found.key)
