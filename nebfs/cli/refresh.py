"""``nebfs refresh``: the lists of images and apps are taken anew, at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.daemons import daemons, place_of
from nebfs.cli.door import printable, say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.daemon import control
from nebfs.errors import KINDS, NebfsError
from nebfs.units import format_duration

PATIENCE = 900.0
"""Seconds: a survey of many slow places, after one that is under way."""


@click.command()
@click.argument(
    "path", metavar="[MOUNTPOINT|PATH]", required=False, type=click.Path(path_type=Path)
)
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def refresh(ctx: click.Context, path: Path | None, as_json: bool, run_dir: Path) -> None:
    """Take new lists of apps and images now, instead of waiting for the next time.

    Of every mount, or of the one that PATH is in. What the mount shows is new when the command
    ends; files that are open are not disturbed. With a PATH in a marketplace or datastore the
    answer and the exit code are about that one.

    Exits with 0 if the lists are new, 4 if a place did not give its list, 69 if the front-end or
    marketplace could not be reached, 77 if it refused the login.
    """
    if path is None:
        asked = [(one.mountpoint, Path(one.socket), "") for one in daemons(None, run_dir)]
    else:
        place = place_of(path, run_dir)
        asked = [(place.registration.mountpoint, place.socket, place.inside)]
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
    places = answer.get("places")
    number = len(places) if isinstance(places, list) else 0
    took = answer.get("took")
    after = f" in {format_duration(took)}" if isinstance(took, (int, float)) else ""
    ailing = _ailing(answer)
    new = number - len(ailing)
    places_of = f"{new} of {number} places" if ailing else f"{number} place{'s' * (number != 1)}"
    click.echo(printable(f"{mountpoint}: new lists of {places_of}{after}"))
    for place in ailing:
        say(f"{mountpoint}: {place.get('kind')} {place.get('name')}: {place.get('trouble')}")


def _ailing(answer: Mapping[str, object]) -> list[Mapping[str, object]]:
    places = answer.get("places")
    found = places if isinstance(places, list) else []
    return [one for one in found if isinstance(one, dict) and one.get("healthy") is not True]
