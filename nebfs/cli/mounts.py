"""The kernel's mount table, and taking a mount of ours out of it.

The table is /proc/self/mountinfo, see proc_pid_mountinfo(5). Looking there first, instead of at the
path, answers for mounts that hang or are dead.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from nebfs.cli.exits import NOT_MOUNTED
from nebfs.errors import UserError

OURS = "fuse.nebfs"
MOUNTINFO = Path("/proc/self/mountinfo")
# systemd starts mount units with an empty PATH.
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"

HANGS_AFTER = 5.0  # seconds without an answer of a daemon that is asked for nothing but numbers

_OWNER = re.compile(rb"\buser_id=(\d+)")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table."""

    mountpoint: Path
    fstype: str
    source: str
    owner: int | None = None
    """The user who made it; None: it is no FUSE mount."""

    @property
    def ours(self) -> bool:
        """Whether some nebfs made it (of any user)."""
        return self.fstype == OURS


def mount_table() -> list[Mounted]:
    """Return every mount of our namespace; a later one hides an earlier one at the same place."""
    table = []
    for line in MOUNTINFO.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        place, (fstype, source, *options) = before.split(b" ")[4], after.split(b" ")
        owner = _OWNER.search(b" ".join(options))
        table.append(
            Mounted(
                Path(_unescaped(place)),
                _unescaped(fstype),
                _unescaped(source),
                None if owner is None else int(owner[1]),
            ),
        )
    return table


def mounted_at(path: Path) -> Mounted | None:
    """Return the mount whose root is `path` (absolute, without symbolic links), if any."""
    return next((one for one in reversed(mount_table()) if one.mountpoint == path), None)


def mount_of(path: Path) -> Mounted | None:
    """Return the mount that `path` (absolute, without symbolic links) lies in."""
    for place in (path, *path.parents):
        if found := mounted_at(place):
            return found
    return None


def is_dead(path: Path) -> bool:
    """Whether the process behind the mount at `path` is gone ("endpoint is not connected").

    Asked with statfs(2), which the kernel always passes on: attributes it may answer by itself for
    minutes after the process has died. A mount that hangs is not dead.
    """
    dead = [False]

    def ask() -> None:
        try:
            os.statvfs(path)
        except OSError as exc:
            dead[0] = exc.errno == errno.ENOTCONN

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HANGS_AFTER)
    return dead[0]


def resolved(path: Path) -> Path:
    """Return `path` absolute and without symbolic links, even if it is a dead mount."""
    return Path(os.path.realpath(path))


def tool(name: str) -> str | None:
    """Return the path of a system tool, found even when PATH is empty."""
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)


def detach(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount as fusermount3(1) does; `lazy`: at once, open files live on until they are closed.

    Raises UserError when the mount is in use, not ours to unmount, or no tool is installed.
    """
    if fusermount := tool("fusermount3"):
        command = [fusermount, "-u", *(["-z"] if lazy else [])]
    elif os.geteuid() == 0 and (umount := tool("umount")):
        command = [umount, *(["-l"] if lazy else [])]
    else:
        raise UserError("fusermount3 is missing: install the package fuse3")
    done = subprocess.run(
        [*command, "--", str(mountpoint)],
        env={**os.environ, "LC_ALL": "C"},  # its words are looked at below
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    said = done.stderr.strip()
    if "busy" in said:
        raise UserError(
            f"{mountpoint} is in use; see by whom with 'fuser -vm {mountpoint}', end that, or "
            f"unmount with --lazy, which lets open files live on until they are closed"
        )
    if "not found" in said or "not mounted" in said:
        # It was a moment ago, or we would not have been called.
        raise UserError(
            f"{mountpoint} is not mounted any more: somebody else has unmounted it",
            exit_code=NOT_MOUNTED,
        )
    raise UserError(f"{mountpoint} could not be unmounted: {said or done.returncode}")


def _unescaped(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
