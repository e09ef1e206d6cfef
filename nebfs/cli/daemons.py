"""Which daemon answers for a path, and what is said where none does."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nebfs.cli import exits
from nebfs.cli.mounts import Mounted, mount_of, mount_table, mounted_at
from nebfs.daemon import registry
from nebfs.errors import UserError

NAMED = 8
"""Mounts that are named to who has named none: more than a few are read in 'nebfs status'."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file or directory in a mount: whose it is, and its path from the mount's root on."""

    registration: registry.Registration
    inside: str

    @property
    def socket(self) -> Path:
        """Where the daemon listens."""
        return Path(self.registration.socket)


def place_of(path: Path, run_dir: Path) -> Place:
    """Return whose `path` is. The mount itself is not asked: it may hang.

    Raises UserError when it is in no mount of ours, or its daemon is not known or gone.
    """
    # Links that lead into the mount are followed, those within are left to the daemon: looking at
    # them would ask the mount.
    where = _entered(Path(os.path.abspath(path)))
    found = mount_of(where)
    if found is None or not found.ours:
        raise UserError(
            f"{path} is not in a mount of nebfs; {instead(run_dir)}", exit_code=exits.NOT_MOUNTED
        )
    known = registry.find(run_dir, found.mountpoint)
    if known is None:
        raise UserError(unregistered(found), exit_code=exits.NOT_MOUNTED)
    if not known.alive:
        raise UserError(
            f"the daemon of {found.mountpoint}, process {known.pid}, is gone; "
            f"'nebfs umount {found.mountpoint}' clears what it left",
            exit_code=exits.NOT_MOUNTED,
        )
    return Place(known, str(where.relative_to(found.mountpoint)))


def nothing_at(where: Path, run_dir: Path) -> str:
    """Return what is said of `where`, the mount point of no daemon that is registered in `run_dir`,
    and what to do about it.
    """
    found = mounted_at(where)
    if found is None:
        return f"{where} is not mounted; {instead(run_dir)}"
    if found.ours:
        return unregistered(found)
    return (
        f"{where} is a mount of {found.source} ({found.fstype}), not of nebfs; {instead(run_dir)}"
    )


def instead(run_dir: Path) -> str:
    """Return which mounts could have been meant, or how to get one."""
    known = registry.registered(run_dir)
    # A daemon that was detached lives on while its files are open, and is mounted nowhere.
    mounted = {str(one.mountpoint) for one in mount_table() if one.ours}
    names = [one.mountpoint for one in known if one.alive and one.mountpoint in mounted]
    if names:
        left = len(names) - NAMED
        more = f" and {left} more, which 'nebfs status' shows" if left > 0 else ""
        return f"this user has mounted {', '.join(names[:NAMED])}{more}"
    dead = [one.mountpoint for one in known if not one.alive]
    if dead:
        return f"the daemon of {dead[0]} is gone: 'nebfs umount {dead[0]}' clears what it left"
    return "nothing is mounted by this user: 'nebfs mount SOURCE MOUNTPOINT' mounts a cloud"


def unregistered(mount: Mounted) -> str:
    """Return what is said of a mount of ours whose daemon is not in our run directory."""
    owner = mount.owner
    if owner is None or owner == os.geteuid():
        who, ask = "a nebfs that is registered elsewhere", "name its directory with --run-dir"
    else:
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = str(owner)
        there = "/run/nebfs" if owner == 0 else f"/run/user/{owner}/nebfs"
        who = f"user {name}"
        ask = f"ask as {name}, or as root with --run-dir {there}"
    return f"{mount.mountpoint} is mounted by {who}: {ask}"


def _entered(path: Path) -> Path:
    """Return `path` with links resolved up to where one of our mounts begins."""
    done = Path("/")
    for number, part in enumerate(path.parts[1:], 2):
        found = mounted_at(done / part)
        if found is not None and found.ours:
            return done.joinpath(part, *path.parts[number:])
        done = Path(os.path.realpath(done / part))
        found = mount_of(done)
        if found is not None and found.ours:
            return done.joinpath(*path.parts[number:])
    return done


def by_daemon(paths: Iterable[Path], run_dir: Path) -> list[tuple[Path, list[str]]]:
    """Return, for each daemon, where it listens and which paths in its mount are meant.

    Raises as ``place_of``, before anybody was asked anything.
    """
    found: dict[Path, list[str]] = {}
    for path in paths:
        place = place_of(path, run_dir)
        found.setdefault(place.socket, []).append(place.inside)
    return list(found.items())


def daemons(
    mountpoint: Path | None, run_dir: Path, *, only: bool = False
) -> list[registry.Registration]:
    """Return the daemons that run: that of the mount that `mountpoint` is or is in, or all of them.

    `only`: without a mount point there must not be several. Raises UserError if there is none.
    """
    if mountpoint is not None:
        return [place_of(mountpoint, run_dir).registration]
    found = registry.running(run_dir)
    if not found:
        raise UserError(instead(run_dir), exit_code=exits.NOT_MOUNTED)
    if only and len(found) > 1:
        names = ", ".join(one.mountpoint for one in found)
        raise UserError(f"several are mounted: say which ({names})", exit_code=exits.USAGE)
    return found
