"""``nebfs``: the commands, gathered."""

from __future__ import annotations

import click

import nebfs
from nebfs import cli
from nebfs.cli.bundle import support_bundle
from nebfs.cli.cache_command import cache_command
from nebfs.cli.completion import completion
from nebfs.cli.config_command import config_command
from nebfs.cli.dashboard import dashboard
from nebfs.cli.demo import demo
from nebfs.cli.doctor import doctor
from nebfs.cli.door import Door, verbose_option
from nebfs.cli.explain import explain
from nebfs.cli.ls import ls
from nebfs.cli.mount import mount
from nebfs.cli.pin import pin, unpin
from nebfs.cli.profile import profile
from nebfs.cli.refresh import refresh
from nebfs.cli.status import status
from nebfs.cli.umount import umount
from nebfs.cli.verify import verify
from nebfs.cli.warm import warm

# The table is written once, in the room's docstring. \b keeps click from flowing it.
EXIT_CODES = "\b\nExit codes:\n" + (cli.__doc__ or "").partition("Exit codes::\n\n")[2]


@click.group(
    cls=Door,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(nebfs.__version__, prog_name="nebfs")
@verbose_option
def nebfs_command() -> None:
    """Mount OpenNebula's marketplaces and datastores as files that are fetched as they are read."""


for command in (
    mount,
    umount,
    status,
    ls,
    explain,
    refresh,
    warm,
    pin,
    unpin,
    verify,
    cache_command,
    dashboard,
    demo,
    config_command,
    doctor,
    support_bundle,
    completion,
    profile,
):
    nebfs_command.add_command(command)


def main() -> None:
    """Run the command that sys.argv names; never returns."""
    nebfs_command(prog_name="nebfs")


__all__ = ["main", "nebfs_command"]
