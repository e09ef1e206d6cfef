"""``nebfs umount``: take a mount away and see its daemon out."""

from __future__ import annotations

import os
import select
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.daemons import nothing_at
from nebfs.cli.door import say, verbose_option
from nebfs.cli.flags import run_dir_option
from nebfs.cli.mounts import detach, is_dead, mounted_at, resolved
from nebfs.daemon import registry
from nebfs.errors import UserError

# Seconds in which a daemon must have drained and written what it keeps.
LEAVING = 30.0


@click.command(no_args_is_help=True)
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option(
    "-l", "--lazy", is_flag=True, help="Detach at once; open files live on until they are closed."
)
@run_dir_option
@verbose_option
def umount(mountpoint: Path, lazy: bool, run_dir: Path) -> None:
    """Unmount MOUNTPOINT and wait until its daemon is gone.

    A dead mount, whose daemon was killed, is cleared.
    """
    where = resolved(mountpoint)
    found = mounted_at(where)
    registered = registry.find(run_dir, where)
    if found is None:
        if registered and not registered.alive:
            registry.unregister(run_dir, where)
        raise UserError(nothing_at(where, run_dir), exit_code=exits.NOT_MOUNTED)
    if not found.ours:
        raise UserError(
            f"{where} is a mount of {found.source} ({found.fstype}), not of nebfs: use umount",
            exit_code=exits.NOT_MOUNTED,
        )
    detach(where, lazy=lazy or is_dead(where))
    if registered is None:
        return  # of another user, or registered elsewhere: its daemon is not ours to watch
    if not wait_until_gone(registered, LEAVING):
        if lazy:
            say(f"detached; process {registered.pid} serves open files until they are closed")
            return
        raise UserError(
            f"{where} is unmounted, but its daemon, process {registered.pid}, is still there after "
            f"{LEAVING:.0f} s" + (f"; see {registered.log_file}" if registered.log_file else "")
        )
    if mounted_at(where) is None:  # else somebody mounted there again meanwhile
        registry.unregister(run_dir, where)


def wait_until_gone(registered: registry.Registration, timeout: float) -> bool:
    """Wait until that process has ended; return False if it has not within `timeout` seconds."""
    try:
        process = os.pidfd_open(registered.pid)
    except ProcessLookupError:
        return True
    try:
        if not registered.alive:  # asked after the number was pinned: it may be another's by now
            return True
        waiting = select.poll()
        waiting.register(process, select.POLLIN)
        return bool(waiting.poll(timeout * 1000))
    finally:
        os.close(process)
