"""What is looked at before a mount is tried, so that the message names the remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from nebfs.cli.door import say
from nebfs.cli.exits import MOUNT
from nebfs.cli.mounts import detach, is_dead, mounted_at, tool
from nebfs.daemon import registry
from nebfs.errors import UserError

DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")


def check_fuse(*, allow_other: bool) -> None:
    """Raise UserError (exit code MOUNT) if this system or user cannot mount with FUSE."""
    for cause, remedy in fuse_troubles(allow_other=allow_other):
        raise UserError(f"{cause}: {remedy}", exit_code=MOUNT)


def fuse_troubles(*, allow_other: bool) -> Iterator[tuple[str, str]]:
    """Yield what keeps this system or user from mounting with FUSE: cause and remedy."""
    if not DEVICE.exists():
        remedy = (
            f"load the kernel module ('modprobe fuse') and install the package fuse3; in a "
            f"container, add '--device {DEVICE} --cap-add SYS_ADMIN'"
        )
        yield f"{DEVICE} is missing", remedy
    elif not os.access(DEVICE, os.R_OK | os.W_OK):
        yield (
            f"{DEVICE} may not be opened by this user",
            f"'chmod a+rw {DEVICE}' as root, or join the group that owns it",
        )
    if os.geteuid() == 0:
        return
    if tool("fusermount3") is None:
        yield "fusermount3 is missing", "install the package fuse3"
    if allow_other and not _others_are_allowed():
        cause = (
            f"allow_other needs the line 'user_allow_other' in {FUSE_CONF} when the mount is not "
            f"made by root"
        )
        yield cause, "add it there as root"


def check_mountpoint(path: Path, run_dir: Path) -> None:
    """Raise UserError (exit code MOUNT) if nothing can be mounted at `path` (see `resolved`).

    A dead mount that a nebfs left behind is cleared and said; a dead mount of anything else is not
    ours to clear. A directory that is not empty is allowed, as mount(8) allows it.
    """
    while found := mounted_at(path):  # mounts can lie upon each other
        if not is_dead(path):
            raise UserError(f"{path} is already a mount: {_who(path, run_dir)}", exit_code=MOUNT)
        if not found.ours:
            raise UserError(
                f"{path} is a dead mount of {found.source} ({found.fstype}), not of nebfs: clear "
                f"it with 'umount --lazy {path}'",
                exit_code=MOUNT,
            )
        detach(path, lazy=True)
        registry.unregister(run_dir, path)
        say(f"cleared the dead mount that an earlier nebfs left at {path}")
    if not path.exists():
        raise UserError(f"{path} does not exist: mkdir -p {path}", exit_code=MOUNT)
    if not path.is_dir():
        raise UserError(f"{path} is not a directory", exit_code=MOUNT)
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise UserError(
            f"{path} may not be written to by this user, which FUSE asks of a mount point: choose "
            f"a directory of yours",
            exit_code=MOUNT,
        )


def _who(path: Path, run_dir: Path) -> str:
    found = mounted_at(path)
    registered = registry.find(run_dir, path)
    if found and found.ours and registered and registered.alive:
        return f"nebfs of {registered.source or 'public marketplaces'}, process {registered.pid}"
    return f"{found.source} ({found.fstype})" if found else "gone a moment ago, try again"


def _others_are_allowed() -> bool:
    try:
        lines = FUSE_CONF.read_text("utf-8").splitlines()
    except OSError:
        return True  # not ours to read: fusermount3, which may, says it if it is so
    return any(re.match(r"\s*user_allow_other\b", line) for line in lines)
