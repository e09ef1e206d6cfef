"""``nebfs refresh``: the lists of images and apps are taken anew, at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.answers import counted, dicts
from nebfs.cli.daemons import daemons, place_of
from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.daemon import control
from nebfs.errors import KINDS, NebfsError
from nebfs.units import format_duration

PATIENCE = 900.0
"""Seconds: a survey of many slow places, after one that is under way."""

MOST = 20
"""Names that are told of each place: of a whole new marketplace there are thousands."""

SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def refresh(ctx: click.Context, paths: tuple[Path, ...], as_json: bool, run_dir: Path) -> None:
    """Take new lists of apps and images now, instead of waiting for the next time.

    PATH is a marketplace or a datastore in a mount, or something in it: that one alone is asked,
    and the others stay as they are. A mount point stands for all of its places, and without a PATH
    all places of all mounts are asked.

    What is different is told: + was added, - was removed, ~ changed. The mount shows it when the
    command ends; files that are open are not disturbed. A front-end that hangs is waited for as
    long as the mount's listing_deadline says, and the last lists stay.

    Exits with 0 if the lists are new, 4 if a place did not give its list, 69 if the front-end or
    marketplace could not be reached, 77 if it refused the login.
    """
    asked = [
        (place.registration.mountpoint, place.socket, place.inside)
        for place in (place_of(path, run_dir) for path in paths)
    ]
    if not paths:
        asked = [(one.mountpoint, Path(one.socket), "") for one in daemons(None, run_dir)]
    worst, answers = exits.OK, []
    for mountpoint, socket, inside in asked:
        body = {"path": inside}
        answer = control.ask(socket, "POST", "/v1/refresh", body=body, timeout=PATIENCE)
        answers.append({"mountpoint": mountpoint, **answer})
        worst = max(worst, code_of(answer))
        if not as_json:
            _tell(mountpoint, answer)
    if as_json:
        click.echo(json.dumps(answers, indent=2))
    ctx.exit(worst)


def code_of(answer: Mapping[str, object]) -> int:
    """Return the exit code that tells how a refresh went."""
    if answer.get("refreshed") is not True:
        failure = KINDS.get(str(answer.get("kind")), NebfsError)
        return exits.exit_code_for(failure(str(answer.get("trouble"))))
    return exits.DEGRADED if _ailing(answer) else exits.OK


def _tell(mountpoint: str, answer: Mapping[str, object]) -> None:
    if answer.get("refreshed") is not True:
        say(f"{mountpoint}: {answer.get('trouble')}; what was listed before is still shown")
        return
    for line in lines(mountpoint, answer):
        click.echo(printable(line))
    for place in _ailing(answer):
        say(f"{mountpoint}: {place.get('kind')} {place.get('name')}: {place.get('trouble')}")


def lines(mountpoint: str, answer: Mapping[str, object]) -> Iterator[str]:
    """Yield what is said to a person of a refresh that went well."""
    places, ailing = dicts(answer.get("places")), _ailing(answer)
    took = answer.get("took")
    after = f" in {format_duration(took)}" if isinstance(took, (int, float)) else ""
    one = answer.get("asked", "all") != "all"
    if one and not ailing and places:
        yield f"{mountpoint}/{answer['asked']}: a new list{after}{_summary(places[0])}"
        yield from _names(places[0])
    elif not one:
        number, new = len(places), len(places) - len(ailing)
        places_of = f"{new} of {number} places" if ailing else counted(number, "place")
        yield f"{mountpoint}: new lists of {places_of}{after}"
        for place in places:
            if summary := _summary(place):
                yield f"  {place.get('kind')} {place.get('name')}{summary}"
                yield from _names(place)
    for place in dicts(answer.get("gone")):
        what = f"{place.get('kind')} {place.get('name')}"
        yield f"{mountpoint}: {what} is not there any more, or not for this user"


def _summary(place: Mapping[str, object]) -> str:
    found = [f"{len(names)} {what}" for what, names in _changes(place) if names]
    return f": {', '.join(found)}" if found else ""


def _names(place: Mapping[str, object]) -> Iterator[str]:
    left = MOST
    number = 0
    for what, names in _changes(place):
        number += len(names)
        for one in names[:left]:
            yield f"    {SIGNS[what]} {one.get('name')}"
        left = max(0, left - len(names))
    if number > MOST:
        yield f"    and {number - MOST} more, which --json names"


def _changes(place: Mapping[str, object]) -> list[tuple[str, list[Mapping[str, object]]]]:
    changes = place.get("changes")
    found = changes if isinstance(changes, dict) else {}
    return [(what, dicts(found.get(what))) for what in SIGNS]


def _ailing(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    return [one for one in dicts(answer.get("places")) if one.get("healthy") is not True]
