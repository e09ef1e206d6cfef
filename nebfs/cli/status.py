"""``nebfs status``: what is mounted by this user, and how it is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nebfs.cli import exits
from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.mounts import mounted_at, resolved
from nebfs.daemon import control, registry
from nebfs.daemon.registry import Registration
from nebfs.errors import NebfsError
from nebfs.units import format_duration, format_size

# Seconds: a daemon answers from memory; one that takes longer has a problem worth showing.
PATIENCE = 5.0
STYLES = {"healthy": "green", "degraded": "yellow", "silent": "red", "dead": "red"}


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one daemon. `state` is a key of STYLES, `answer` its own words."""

    registration: Registration
    state: str
    troubles: tuple[str, ...] = ()
    answer: Mapping[str, object] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, object]:
        """What ``--json`` shows."""
        return {
            "mountpoint": self.registration.mountpoint,
            "state": self.state,
            "source": self.registration.source,
            "pid": self.registration.pid,
            "started": self.registration.started,
            "log_file": self.registration.log_file,
            "troubles": list(self.troubles),
            "answer": dict(self.answer),
        }


@click.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path))
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def status(ctx: click.Context, mountpoint: Path | None, as_json: bool, run_dir: Path) -> None:
    """Show every mount of this user, or the one at MOUNTPOINT.

    Exits with 0 if all are healthy, 3 if there is none, 4 if one is degraded, dead or silent.
    """
    reports = [report_on(one) for one in registry.registered(run_dir)]
    if mountpoint is not None:
        where = resolved(mountpoint)
        reports = [one for one in reports if one.registration.mountpoint == str(where)]
        if not reports:
            say(_nothing_known(where))
    elif not reports:
        say("nothing is mounted by this user")
    if as_json:
        click.echo(json.dumps([one.record for one in reports], indent=2))
    elif reports:
        _show(reports)
    if not reports:
        ctx.exit(exits.NOT_MOUNTED)
    if any(one.state != "healthy" for one in reports):
        ctx.exit(exits.DEGRADED)


def report_on(registration: Registration) -> Report:
    """Ask the daemon of `registration` how it is."""
    if not registration.alive:
        trouble = f"process {registration.pid} is gone"
        if (found := mounted_at(Path(registration.mountpoint))) and found.ours:
            trouble += f"; 'nebfs umount {registration.mountpoint}' clears what it left"
        return Report(registration, "dead", (trouble,))
    try:
        answer = control.ask(Path(registration.socket), "GET", "/v1/status", timeout=PATIENCE)
    except NebfsError as exc:
        return Report(registration, "silent", (str(exc),))
    healthy = answer.get("healthy") is True
    return Report(registration, "healthy" if healthy else "degraded", _troubles(answer), answer)


def _nothing_known(where: Path) -> str:
    found = mounted_at(where)
    if found and found.ours:
        return f"{where} is mounted by a nebfs that this user has no registration of"
    return f"{where} is not mounted"


def _troubles(answer: Mapping[str, object]) -> tuple[str, ...]:
    found = [str(answer["trouble"])] if answer.get("trouble") else []
    for place in _places(answer):
        if not place.get("healthy"):
            trouble = place.get("trouble") or "degraded"
            found.append(f"{place.get('kind', 'place')} {place.get('name', '?')}: {trouble}")
    return tuple(found)


def _show(reports: list[Report]) -> None:
    # A pipe has no edge to wrap at.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("MOUNT POINT", "STATE", "SOURCE", "PID", "UP", "PLACES", "CACHE"):
        table.add_column(title, overflow="fold")
    for one in reports:
        registration = one.registration
        up = format_duration(max(0.0, time.time() - registration.started))
        table.add_row(
            # Text, not str: a name in square brackets is a name, not rich's markup.
            Text(printable(registration.mountpoint)),
            Text(one.state, style=STYLES[one.state]),
            Text(printable(registration.source) or "-"),
            str(registration.pid),
            "-" if one.state == "dead" else up,
            _counted(_places(one.answer)),
            _cache(one.answer),
        )
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())  # rich fills every cell, the last one too
    for one in reports:
        for trouble in one.troubles:
            click.echo(printable(f"{one.registration.mountpoint}: {trouble}"))


def _places(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    places = answer.get("places")
    return [one for one in places if isinstance(one, dict)] if isinstance(places, list) else []


def _counted(places: list[Mapping[str, object]]) -> str:
    if not places:
        return "-"
    healthy = sum(place.get("healthy") is True for place in places)
    return f"{healthy} of {len(places)}" if healthy < len(places) else str(len(places))


def _cache(answer: Mapping[str, object]) -> str:
    cache = answer.get("cache")
    used = cache.get("used") if isinstance(cache, dict) else None
    if not isinstance(cache, dict) or not isinstance(used, int):
        return "-"
    limit = cache.get("limit")
    return format_size(used) + (f" of {format_size(limit)}" if isinstance(limit, int) else "")
