"""``nebfs doctor``: what keeps a mount from working, and what to do about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.checkup.finding import Finding, Level, worst
from nebfs.cli.config_command import Given, as_mount_reads, overrides_of, settings_problem
from nebfs.cli.door import VERBOSE, printable, verbose_option
from nebfs.cli.flags import json_option
from nebfs.cli.logs import configure_logs
from nebfs.cli.mounts import resolved
from nebfs.config import Settings, load
from nebfs.config_kinds import default_run_dir
from nebfs.errors import UserError

PATIENCE = 10.0
"""Seconds for each question: a place that is slower than that is not one to read from."""
COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


@as_mount_reads
@click.command()
@click.argument("places", metavar="[SOURCE] [MOUNTPOINT]", nargs=-1)
@click.option(
    "--timeout",
    "patience",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 600),
    default=PATIENCE,
    show_default=True,
    help="Wait so long for each answer.",
)
@json_option
@verbose_option
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    places: tuple[str, ...],
    patience: float,
    as_json: bool,
    **flags: Given,
) -> None:
    """Look for what keeps a mount from working: here, on the way to the cloud, and there.

    Takes what 'nebfs mount' takes and mounts nothing. Looks at FUSE, the settings and the files
    that they name, the directories, the mount point, the front-end and its certificate, the login,
    the clocks, every marketplace and every datastore.

    Exits with 0 if there is no problem (a warning is none), 4 if there is one.
    """
    source, mountpoint = sorted_out(places)
    findings = examine(overrides_of(source, flags), mountpoint, patience)
    if as_json:
        click.echo(json.dumps([one.record for one in findings], indent=2))
    else:
        for line in told(findings):
            click.echo(line)
    if ctx.meta.get(VERBOSE) and not as_json:
        click.echo(f"{len(findings)} findings")
    ctx.exit(exits.DEGRADED if worst(findings) is Level.PROBLEM else exits.OK)


def examine(
    overrides: dict[str, object], mountpoint: Path | None, patience: float
) -> list[Finding]:
    """Return what all checks find about a mount with `overrides`; `patience` is seconds."""
    from nebfs.cli.checkup.run import Checkup  # noqa: PLC0415 - every room: not for --help

    # What the checks ask of other rooms is told as a finding; here is no log to write to.
    configure_logs("error", sys.stderr)
    settings, findings = _settings(overrides)
    run_dir = settings.run_dir if settings else typed_run_dir(overrides)
    return findings + Checkup(settings, run_dir, mountpoint, patience).run()


def typed_run_dir(overrides: dict[str, object]) -> Path:
    """Return the run directory where the settings cannot be read."""
    return Path(str(overrides.get("run_dir") or default_run_dir()))


def sorted_out(places: tuple[str, ...]) -> tuple[str, Path | None]:
    """Return SOURCE and MOUNTPOINT; a single word is the one that it looks like."""
    match places:
        case ():
            return "", None
        case (one,) if "://" in one:
            return one, None
        case (one,):
            return "", resolved(Path(one))
        case (source, mountpoint):
            return source, resolved(Path(mountpoint))
        case _:
            raise click.UsageError(f"one SOURCE and one MOUNTPOINT, not {len(places)} words")


def told(findings: list[Finding]) -> list[str]:
    """Return the findings as lines for a person; click takes the colours out of a pipe."""
    width = max((len(one.about) for one in findings), default=0)
    width = min(width, 30)
    lines = []
    for one in findings:
        mark = click.style(f"{one.level:<8}", fg=COLOURS[one.level])
        lines.append(f"{mark} {printable(one.about):<{width}}  {printable(one.text)}")
        if one.remedy and one.level is not Level.OK:
            lines.append(f"{'':<8} {'':<{width}}  -> {printable(one.remedy)}")
    return lines


def _settings(overrides: dict[str, object]) -> tuple[Settings | None, list[Finding]]:
    try:
        return load(None, overrides), []
    except UserError as exc:
        return None, [settings_problem(line) for line in str(exc).splitlines()]
