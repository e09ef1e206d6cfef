"""``nebfs status``: what is mounted by this user, and how it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import click
from rich.console import RenderableType
from rich.text import Text

from nebfs.cli import exits, terminal
from nebfs.cli.answers import dicts
from nebfs.cli.daemons import instead, nothing_at
from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.cli.mounts import mounted_at, resolved
from nebfs.cli.status_details import cache, details, number
from nebfs.cli.terminal import Lines, can_draw
from nebfs.cli.watching import Draw, watch
from nebfs.daemon import control, registry
from nebfs.daemon.registry import Registration
from nebfs.errors import NebfsError
from nebfs.units import format_duration

# Seconds: a daemon answers from memory; one that takes longer has a problem worth showing.
PATIENCE = 5.0
COUNTERS = {"served": ("reads", "bytes_read"), "fetched": ("fetcher", "fetched_bytes")}
"""Where in an answer the counters are whose rates are shown."""
TITLES = {
    "MOUNT POINT": 0,
    "STATE": 0,
    "SOURCE": 120,
    "PID": 100,
    "UP": 0,
    "PLACES": 60,
    "CACHE": 80,
}
"""Of the table of mounts, and the columns of a window from which on it has them."""

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
            "socket": self.registration.socket,
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
        watched(lambda: reports_on(run_dir, where), lambda: _nothing(run_dir, where))
    reports = reports_on(run_dir, where)
    if not reports:
        say(_nothing(run_dir, where))
    if as_json:
        click.echo(json.dumps([one.record for one in reports], indent=2))
    elif reports:
        _print(lambda: _drawn(reports, long=long))
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


def _nothing(run_dir: Path, where: Path | None) -> str:
    """Return what is said where there is nothing to report on."""
    return instead(run_dir) if where is None else nothing_at(where, run_dir)


def _troubles(answer: Mapping[str, object]) -> tuple[str, ...]:
    found = [str(answer["trouble"])] if answer.get("trouble") else []
    for place in dicts(answer.get("places")):
        if not place.get("healthy"):
            trouble = place.get("trouble") or "degraded"
            found.append(f"{place.get('kind', 'place')} {place.get('name', '?')}: {trouble}")
    return tuple(found)


def watched(look: Callable[[], list[Report]], nothing: Callable[[], str]) -> NoReturn:
    """Show what `look` returns, once a second, until the keyboard interrupts. `nothing` says what
    is shown where that is none.
    """
    before: list[Report] = []

    def rated() -> Draw:
        nonlocal before
        reports = look()
        shown = [between(_same(one, before), one) for one in reports]
        before = reports
        if not reports:
            text = nothing()
            return lambda: [Text(printable(text))]
        return lambda: _drawn(shown, long=True, window=_window())

    watch(rated, _print)


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


def _print(draw: Draw) -> None:
    console = terminal.console()
    with console.capture() as drawn:
        for part in draw():
            console.print(part)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())  # rich fills every cell, the last one too


def _window() -> int | None:
    return terminal.console().width if can_draw() else None


def _drawn(
    reports: list[Report], *, long: bool, window: int | None = None
) -> Iterator[RenderableType]:
    """Yield what is shown. `window`: its columns, into which each line must fit; None: there is no
    window, or what does not fit goes on in the next line.
    """
    lines = Lines(TITLES, window, pad_edge=False)
    words = lines.words
    for one in reports:
        registration = one.registration
        up = format_duration(max(0.0, time.time() - registration.started))
        lines.add(
            # Text, not str: a name in square brackets is a name, not rich's markup.
            words(printable(registration.mountpoint)),
            words(one.state, style=STYLES[one.state]),
            words(printable(registration.source) or "-"),
            words(str(registration.pid)),
            words("-" if one.state == "dead" else up),
            words(_counted(dicts(one.answer.get("places")))),
            words(cache(one.answer)),
        )
    yield lines.table
    for one in reports:
        for trouble in one.troubles:
            # In a window it may be cut: what is wrong matters more than where, if that is clear.
            alone = window is not None and len(reports) == 1
            where = "" if alone else f"{one.registration.mountpoint}: "
            yield words(printable(f"{where}{trouble}"))
    if long:
        for one in reports:
            if one.answer:
                yield Text("")
                yield words(printable(one.registration.mountpoint), style="bold")
                yield from details(one.answer, window=window)


def _counted(places: list[Mapping[str, object]]) -> str:
    if not places:
        return "-"
    healthy = sum(place.get("healthy") is True for place in places)
    return f"{healthy} of {len(places)}" if healthy < len(places) else str(len(places))
