"""``nebfs``: the commands, by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

import click

import nebfs
from nebfs import cli
from nebfs.cli.door import Door, verbose_option

# The table is written once, in the room's docstring. \b keeps click from flowing it.
EXIT_CODES = "\b\nExit codes:\n" + (cli.__doc__ or "").partition("Exit codes::\n\n")[2]

MODULES = {
    "cache": "cache_command:cache_command",
    "completion": "completion:completion",
    "config": "config_command:config_command",
    "dashboard": "dashboard:dashboard",
    "demo": "demo:demo",
    "doctor": "doctor:doctor",
    "explain": "explain:explain",
    "ls": "ls:ls",
    "mount": "mount:mount",
    "pin": "pin:pin",
    "profile": "profile:profile",
    "refresh": "refresh:refresh",
    "status": "status:status",
    "support-bundle": "bundle:support_bundle",
    "umount": "umount:umount",
    "unpin": "pin:unpin",
    "verify": "verify:verify",
    "warm": "warm:warm",
}
"""Each command's module in this room, and its name there."""


class Commands(Mapping[str, click.Command]):
    """The commands by name. A module is imported when its command is wanted: all of them take a
    second of processor time, which nobody waits for who asks for one.
    """

    def __getitem__(self, name: str) -> click.Command:
        module, _, command = MODULES[name].partition(":")
        found: click.Command = getattr(importlib.import_module(f"nebfs.cli.{module}"), command)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


@click.group(
    cls=Door,
    commands=Commands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(nebfs.__version__, prog_name="nebfs")
@verbose_option
def nebfs_command() -> None:
    """Mount OpenNebula's marketplaces and datastores as files that are fetched as they are read."""


def main() -> None:
    """Run the command that sys.argv names; never returns."""
    nebfs_command(prog_name="nebfs")


__all__ = ["main", "nebfs_command"]
