"""This machine: FUSE, the kernel, and mounts that dead daemons left."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from nebfs.cli.checks import DEVICE, fuse_troubles
from nebfs.cli.checkup.finding import Finding, ok, problem, warning
from nebfs.cli.mounts import is_dead, mount_table, mounted_at, tool
from nebfs.daemon import registry

OLDEST_KERNEL = (5, 4)
"""Older ones are not what nebfs is tested on, and lack a part of FUSE that it uses."""


def check_fuse_here(*, allow_other: bool) -> Iterator[Finding]:
    """Look at the device, the tool that unmounts, and who may be let in."""
    troubles = list(fuse_troubles(allow_other=allow_other))
    for cause, remedy in troubles:
        yield problem("FUSE", cause, remedy)
    if os.geteuid() == 0 and tool("fusermount3") is None:
        yield warning(
            "FUSE",
            "fusermount3 is missing: root mounts without it, nobody else can",
            "install the package fuse3",
        )
    elif not troubles:
        yield ok("FUSE", f"{DEVICE} can be opened, fusermount3 is there")


def check_kernel() -> Iterator[Finding]:
    """Look at the kernel's version."""
    release = platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < OLDEST_KERNEL:
        oldest = ".".join(map(str, OLDEST_KERNEL))
        text = f"Linux {release} is older than {oldest}, which nebfs is made for"
        yield warning("kernel", text, "use a newer kernel if the mount misbehaves")
    else:
        yield ok("kernel", f"Linux {release}, {platform.machine()}")


def check_mountpoint_of(path: Path, run_dir: Path) -> Iterator[Finding]:
    """Look at where to mount (see `mounts.resolved`), and change nothing."""
    about = "mount point"
    if found := mounted_at(path):
        if is_dead(path):
            tools = f"nebfs umount {path}" if found.ours else f"umount --lazy {path}"
            text = f"{path} is a dead mount of {found.source} ({found.fstype}): its process is gone"
            yield problem(about, text, tools)
        elif found.ours:
            known = registry.find(run_dir, path)
            whose = f"process {known.pid}" if known else "a daemon that is not registered here"
            yield ok(about, f"{path} is mounted by nebfs, {whose}")
        else:
            text = f"{path} is already a mount of {found.source} ({found.fstype})"
            yield problem(about, text, "choose another directory")
    elif not os.path.lexists(path):
        yield problem(about, f"{path} does not exist", f"mkdir -p {path}")
    elif not path.is_dir():
        yield problem(about, f"{path} is not a directory", "choose a directory")
    else:
        yield from _directory(about, path)


def check_stale_mounts(run_dir: Path, besides: Path | None) -> Iterator[Finding]:
    """Look for mounts of nebfs whose daemons are gone; `besides`: one that is looked at anyway."""
    ours = {one.mountpoint for one in mount_table() if one.ours} - {besides}
    dead = [path for path in sorted(ours) if is_dead(path)]
    for path in dead:
        text = f"the daemon of {path} is gone, and left its mount behind"
        yield problem("mounts", text, f"nebfs umount {path}")
    for one in registry.registered(run_dir):
        path = Path(one.mountpoint)
        if not one.alive and mounted_at(path) is None:
            text = f"a daemon of {path}, process {one.pid}, died without saying goodbye"
            seen = f"look into {one.log_file}" if one.log_file else "look into its log"
            yield warning("mounts", text, f"{seen}; 'nebfs umount {path}' forgets it")
    if not dead:
        yield ok("mounts", f"{len(ours)} of nebfs, none is dead" if ours else "none of nebfs")


def _directory(about: str, path: Path) -> Iterator[Finding]:
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        text = f"{path} may not be written to by this user, which FUSE asks of a mount point"
        yield problem(about, text, "choose a directory of yours")
        return
    try:
        with os.scandir(path) as entries:
            empty = next(entries, None) is None
    except OSError as exc:
        yield problem(about, f"{path} cannot be listed: {exc.strerror}", "choose another directory")
        return
    if empty:
        yield ok(about, f"{path} is an empty directory")
    else:
        text = f"{path} is not empty: what is in it is hidden while something is mounted there"
        yield warning(about, text, "choose an empty directory")
