"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nebfs.config_kinds import default_run_dir

Command = TypeVar("Command", bound=Callable[..., Any])


def run_dir_option(command: Command) -> Command:
    """Add ``--run-dir``, with the same default as the setting's."""
    return click.option(
        "--run-dir",
        metavar="DIR",
        envvar="NEBFS_RUN_DIR",
        type=click.Path(path_type=Path),
        default=default_run_dir,
        help="Where running mounts are registered, if not in the usual place.",
    )(command)


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Answer in JSON, for other programs."
    )(command)
