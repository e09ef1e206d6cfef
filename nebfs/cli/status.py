"""``nebfs status``: what is mounted by this user, and how it is."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nebfs.cli import exits
from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.mounts import mounted_at, resolved
from nebfs.cli.status_details import cache, details, number, places_in
from nebfs.daemon import control, registry
from nebfs.daemon.registry import Registration
from nebfs.errors import NebfsError
from nebfs.units import format_duration

# Seconds: a daemon answers from memory; one that takes longer has a problem worth showing.
PATIENCE = 5.0
EVERY = 1.0
"""Seconds between two looks of --watch."""
COUNTERS = {"served": ("reads", "bytes_read"), "fetched": ("fetcher", "fetched_bytes")}
"""Where in an answer the counters are whose rates are shown."""
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
@click.option("-l", "long", is_flag=True, help="Show every place, the cache, rates and errors.")
@click.option("-w", "--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def status(
    ctx: click.Context,
    mountpoint: Path | None,
    long: bool,
    watch: bool,
    as_json: bool,
    run_dir: Path,
) -> None:
    """Show every mount of this user, or the one at MOUNTPOINT with all that is known of it.

    Exits with 0 if all are healthy, 3 if there is none, 4 if one is degraded, dead or silent.
    """
    where = None if mountpoint is None else resolved(mountpoint)
    long = long or watch or where is not None
    if watch and not as_json:
        watched(lambda: reports_on(run_dir, where))
    reports = reports_on(run_dir, where)
    if not reports:
        say("nothing is mounted by this user" if where is None else _nothing_known(where))
    if as_json:
        click.echo(json.dumps([one.record for one in reports], indent=2))
    elif reports:
        _show(reports, long=long)
    if not reports:
        ctx.exit(exits.NOT_MOUNTED)
    if any(one.state != "healthy" for one in reports):
        ctx.exit(exits.DEGRADED)


def reports_on(run_dir: Path, where: Path | None) -> list[Report]:
    """Return what is known of the mounts of this user, or of the one at `where` only."""
    return [
        report_on(one)
        for one in registry.registered(run_dir)
        if where is None or one.mountpoint == str(where)
    ]


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
    for place in places_in(answer):
        if not place.get("healthy"):
            trouble = place.get("trouble") or "degraded"
            found.append(f"{place.get('kind', 'place')} {place.get('name', '?')}: {trouble}")
    return tuple(found)


def watched(look: Callable[[], list[Report]]) -> NoReturn:
    """Show what `look` returns, once a second, until the keyboard interrupts."""
    before: list[Report] = []
    live = None
    if sys.stdout.isatty():
        live = Live(console=Console(highlight=False, emoji=False), auto_refresh=False, screen=True)
        live.start()
    try:
        while True:
            reports = look()
            rated = [between(_same(one, before), one) for one in reports]
            before = reports
            if live is not None:
                live.update(Group(*_drawn(rated, long=True)), refresh=True)
            else:
                click.echo(time.strftime("%H:%M:%S"))
                _show(rated, long=True)
                sys.stdout.flush()
            time.sleep(EVERY)
    finally:
        if live is not None:
            live.stop()


def between(old: Report | None, new: Report) -> Report:
    """Return `new` with rates that are of the time since `old`, not those of the daemon."""
    if old is None or old.registration != new.registration:
        return new
    seconds = number(new.answer, "uptime") - number(old.answer, "uptime")
    if seconds <= 0:
        return new
    rates = {
        name: (number(new.answer, *path) - number(old.answer, *path)) / seconds
        for name, path in COUNTERS.items()
    }
    return replace(new, answer={**new.answer, "rates": rates})


def _same(one: Report, before: list[Report]) -> Report | None:
    return next((b for b in before if b.registration == one.registration), None)


def _show(reports: list[Report], *, long: bool) -> None:
    # A pipe has no edge to wrap at.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
    with console.capture() as drawn:
        for part in _drawn(reports, long=long):
            console.print(part)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())  # rich fills every cell, the last one too


def _drawn(reports: list[Report], *, long: bool) -> Iterator[RenderableType]:
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
            _counted(places_in(one.answer)),
            cache(one.answer),
        )
    yield table
    for one in reports:
        for trouble in one.troubles:
            yield Text(printable(f"{one.registration.mountpoint}: {trouble}"))
    if long:
        for one in reports:
            if one.answer:
                yield Text("")
                yield Text(printable(one.registration.mountpoint), style="bold")
                yield from details(one.answer)


def _counted(places: list[Mapping[str, object]]) -> str:
    if not places:
        return "-"
    healthy = sum(place.get("healthy") is True for place in places)
    return f"{healthy} of {len(places)}" if healthy < len(places) else str(len(places))
