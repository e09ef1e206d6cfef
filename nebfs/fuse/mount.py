"""Mounting, tuning what only root can tune, telling the kernel what to forget, unmounting."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import structlog
import trio

from nebfs.ending import pass_on
from nebfs.errors import UserError
from nebfs.fuse.direct import DirectReads, devices
from nebfs.fuse.operations import Operations
from nebfs.tree import Invalid, Tree

log = structlog.get_logger()

READ_AHEAD_KB = 1024
"""The kernel's read-ahead, and with it the size of its requests: 2 to 4 times the throughput of the
default 128 (measured); more brings nothing, one request is at most 1 MiB."""

MAX_BACKGROUND = 64
"""Read-ahead requests under way at once; the default is 12, which starves a link with latency."""

FUSECTL = Path("/sys/fs/fuse/connections")
"""Where the kernel's control filesystem for FUSE is mounted."""

MOUNT_FAILED = 32
"""The exit code of mount(8) for it."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`source` is shown in the first column of /proc/mounts."""

    source: str
    allow_other: bool = False


@dataclass(slots=True)
class Mounted:
    """What the rest of the daemon may ask of a mount. `device` is MAJOR:MINOR, once known."""

    mountpoint: Path
    device: str = ""
    read_ahead_kb: int = 0
    _queue: list[Invalid] = field(default_factory=list)
    _wake: trio.Event = field(default_factory=trio.Event)

    def forget(self, invalid: list[Invalid]) -> None:
        """Have the kernel forget names and attributes, soon."""
        self._queue.extend(invalid)
        self._wake.set()


async def serve(
    operations: Operations,
    tree: Tree,
    mountpoint: Path,
    options: MountOptions,
    *,
    ready: Callable[[Mounted], None],
) -> None:
    """Mount, answer the kernel until the filesystem is unmounted or this is cancelled, unmount.

    `ready` is called once the mount answers. Raises UserError when it cannot be mounted.
    """
    mounted = Mounted(mountpoint)
    before = devices()
    try:
        pyfuse3.init(operations, os.fspath(mountpoint), _fuse_options(options))
    except RuntimeError as exc:
        raise UserError(
            f"cannot mount on {mountpoint}: {exc}; fusermount3's own message, if any, is above. "
            "Is the package fuse3 installed, and may you use /dev/fuse?",
            exit_code=MOUNT_FAILED,
        ) from exc
    tree.on_invalid(mounted.forget)
    clean = False
    try:
        async with trio.open_nursery() as nursery:
            direct = _direct_reads(operations, devices() - before)
            if direct is not None:
                await nursery.start(direct.run)
            nursery.start_soon(_tell_kernel, mounted)
            nursery.start_soon(_start, mounted, ready)
            await pyfuse3.main()
            clean = True
            nursery.cancel_scope.cancel()
    finally:
        tree.on_invalid(lambda _: None)
        # After main() has ended by itself somebody else has unmounted, and this only cleans up.
        pyfuse3.close(unmount=True)
        log.info("mount.ended", mountpoint=str(mountpoint), by_unmount=clean)


def _direct_reads(operations: Operations, opened: set[int]) -> DirectReads | None:
    """Return who takes reads before libfuse does; without them it all works, slower."""
    try:
        (device,) = opened
        return DirectReads(device, operations)
    except (ValueError, OSError) as exc:
        log.warning("mount.reads_through_libfuse", error=str(exc))
        return None


def _fuse_options(options: MountOptions) -> set[str]:
    # Not `max_read`: libfuse would abort, as pyfuse3 cannot set it on the connection too.
    chosen = set(pyfuse3.default_options)
    chosen |= {
        f"fsname={options.source.replace(',', chr(92) + ',')}",
        "subtype=nebfs",
        "ro",
        "default_permissions",
    }
    if options.allow_other:
        chosen.add("allow_other")
    return chosen


async def _start(mounted: Mounted, ready: Callable[[Mounted], None]) -> None:
    """Tune the mount, see that it answers, and say so."""
    # In a thread: asking our own mount from the loop that must answer would wait for ever.
    seen = await trio.to_thread.run_sync(os.stat, mounted.mountpoint, abandon_on_cancel=True)
    mounted.device = f"{os.major(seen.st_dev)}:{os.minor(seen.st_dev)}"
    if os.geteuid() == 0:
        _tune(mounted)
    ready(mounted)


def _tune(mounted: Mounted) -> None:
    minor = mounted.device.partition(":")[2]
    if not (FUSECTL / minor).exists():
        # systemd mounts it; where there is no systemd, as in a container, nobody has.
        subprocess.run(
            ["mount", "-t", "fusectl", "fusectl", FUSECTL], check=False, stderr=subprocess.DEVNULL
        )
    for path, value in (
        (f"/sys/class/bdi/{mounted.device}/read_ahead_kb", READ_AHEAD_KB),
        (f"{FUSECTL}/{minor}/max_background", MAX_BACKGROUND),
    ):
        try:
            Path(path).write_text(str(value))
        except OSError as exc:
            # Not allowed, as in a container: reads are right all the same.
            log.info("mount.untuned", path=path, error=str(exc))
        else:
            if path.endswith("read_ahead_kb"):
                mounted.read_ahead_kb = value


async def _tell_kernel(mounted: Mounted) -> None:
    """Hand on invalidations, for ever.

    In threads: the kernel takes locks for them that a request may hold which waits for our loop.
    """
    while True:
        await mounted._wake.wait()  # noqa: SLF001 - our own
        mounted._wake = trio.Event()  # noqa: SLF001
        queue, mounted._queue = mounted._queue, []  # noqa: SLF001
        for item in queue:
            try:
                if item.name:
                    await trio.to_thread.run_sync(
                        _forget_entry, item.parent, os.fsencode(item.name), abandon_on_cancel=True
                    )
                else:
                    await trio.to_thread.run_sync(
                        _forget_inode, item.ino, not item.pages, abandon_on_cancel=True
                    )
            except OSError as exc:  # the kernel did not know it, or holds it busy: it expires
                log.debug("kernel.not_told", entry=item.name, ino=item.ino, error=str(exc))
            except BaseException as exc:  # this one expires, and the next ones are told
                pass_on(exc)
                log.exception("kernel.not_told_bug")


def _forget_entry(parent: int, name: bytes) -> None:
    pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))


def _forget_inode(ino: int, attr_only: bool) -> None:
    pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=attr_only)


async def detach(mountpoint: Path) -> None:
    """Take the mount out of the tree: open files stay readable, and nothing new can be opened."""
    command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
    try:
        done = await trio.run_process(
            [*command, os.fspath(mountpoint)], capture_stderr=True, check=False
        )
    except OSError as exc:
        log.warning("mount.not_detached", error=str(exc))
    else:
        if done.returncode:
            log.warning("mount.not_detached", error=done.stderr.decode(errors="replace").strip())
