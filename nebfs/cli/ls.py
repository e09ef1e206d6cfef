"""``nebfs ls``: a directory of the mount, with what only nebfs can tell about each name."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option
from nebfs.cli.mounts import mount_of, resolved
from nebfs.units import format_size

KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
MARKS = {"directory": "/", "link": "@"}
# What a name without that attribute answers, and what the kernel answers instead of us for links
# and for files that may not be read.
NO_ATTRIBUTE = {errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name. `size` and `cached` are bytes; state and trouble are empty where there is none."""

    name: str
    kind: str
    size: int
    state: str
    cached: int | None
    trouble: str


@click.command()
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option("-l", "long", is_flag=True, help="Show kind, size, state and cached share too.")
@json_option
@verbose_option
def ls(path: Path, long: bool, as_json: bool) -> None:
    """List PATH inside a mount: what OpenNebula says of each name, and how much of it is cached.

    Nothing is fetched to answer this.
    """
    found = mount_of(resolved(path))
    if found is None or not found.ours:
        say(f"{path} is not in a nebfs mount: no states and no cached shares to show")
    entries = list(entries_of(path))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in entries], indent=2))
    elif long:
        for line in _columns(entries):
            click.echo(line)
    else:
        for one in entries:
            click.echo(printable(one.name) + MARKS.get(one.kind, ""))


def entries_of(path: Path) -> Iterator[Entry]:
    """Yield what is in the directory `path`, by name; or `path` itself if it is no directory.

    Raises OSError if `path` cannot be listed.
    """
    if not stat.S_ISDIR(path.stat().st_mode):
        yield _entry(path, str(path))
        return
    with os.scandir(path) as found:
        names = sorted(one.name for one in found)
    for name in names:
        yield _entry(path / name, name)


def _entry(path: Path, name: str) -> Entry:
    try:
        seen = path.lstat()
    except OSError as exc:  # one name in trouble does not hide the others
        return Entry(name, "unknown", 0, "", None, exc.strerror or str(exc))
    cached = _attribute(path, "user.nebfs.cached")
    return Entry(
        name=name,
        kind=KINDS.get(stat.S_IFMT(seen.st_mode), "other"),
        size=seen.st_size,
        state=_attribute(path, "user.one.STATE"),
        cached=int(cached) if cached.isascii() and cached.isdigit() else None,
        trouble=_attribute(path, "user.nebfs.trouble"),
    )


def _attribute(path: Path, name: str) -> str:
    try:
        return os.getxattr(path, name, follow_symlinks=False).decode(errors="replace")
    except OSError as exc:
        return "" if exc.errno in NO_ATTRIBUTE else f"({exc.strerror})"


def _share(entry: Entry) -> str:
    """Write the cached share: 100% only when nothing is missing, 0% only when nothing is there."""
    if entry.cached is None or not entry.size:
        return "-"
    if 0 < entry.cached < entry.size:
        return f"{min(max(100 * entry.cached // entry.size, 1), 99)}%"
    return "100%" if entry.cached else "0%"


def _columns(entries: list[Entry]) -> Iterator[str]:
    rows = [
        (
            one.kind,
            format_size(one.size) if one.kind == "file" else "-",
            printable(one.state) or "-",
            _share(one),
            printable(one.name) + (f"  [{printable(one.trouble)}]" if one.trouble else ""),
        )
        for one in entries
    ]
    rows.insert(0, ("KIND", "SIZE", "STATE", "CACHED", "NAME"))
    kind, size, state, cached = (max(len(row[column]) for row in rows) for column in range(4))
    for row in rows:
        yield (
            f"{row[0]:<{kind}}  {row[1]:>{size}}  {row[2]:<{state}}  {row[3]:>{cached}}  {row[4]}"
        )
