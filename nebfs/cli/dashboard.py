"""``nebfs dashboard``: a page for a browser that shows how a mount is."""

from __future__ import annotations

import html
import json
import os
import webbrowser
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.daemons import daemons
from nebfs.cli.door import say, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.daemon import control
from nebfs.daemon.registry import Registration
from nebfs.errors import UserError

PATIENCE = 10.0
SILENCE = 30.0
"""Seconds: the daemon says every two that it is still there."""

PAGE = """\
<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}"><title>nebfs</title>
<p><a href="{url}">The dashboard</a></p>
"""


@click.command()
@click.argument("mountpoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Listen at this port instead of a free one."
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option("--keep", is_flag=True, help="Return at once; the page stays until --stop.")
@click.option("--stop", is_flag=True, help="End what --keep began.")
@json_option
@run_dir_option
@verbose_option
@click.pass_context
def dashboard(
    ctx: click.Context,
    mountpoint: Path | None,
    port: int | None,
    no_browser: bool,
    keep: bool,
    stop: bool,
    as_json: bool,
    run_dir: Path,
) -> None:
    """Show how the mount at MOUNTPOINT is, in a browser: its places, throughput, cache and images.

    The page is served on 127.0.0.1, and only to who knows its address: a part of that is secret.
    It changes nothing. It is there until this command is interrupted (Ctrl-C). MOUNTPOINT can be
    left out where only one is mounted.
    """
    if keep and stop:
        raise click.UsageError("--keep and --stop exclude each other")
    registration = daemons(mountpoint, run_dir, only=True)[0]
    socket = Path(registration.socket)
    if stop:
        answer = control.ask(socket, "DELETE", "/v1/dashboard", timeout=PATIENCE)
        if answer.get("stopped") is not True:
            say("nothing was kept")
        _redirection(registration).unlink(missing_ok=True)
        return
    asked: dict[str, object] = {"port": port or 0, "keep": keep}
    if keep:
        url = _url(control.ask(socket, "POST", "/v1/dashboard", body=asked, timeout=PATIENCE))
        _show(registration, url, browser=not no_browser, as_json=as_json)
        return
    try:
        for said in control.follow(socket, "POST", "/v1/dashboard", body=asked, silence=SILENCE):
            if said.get("event") == "listening":
                _show(registration, _url(said), browser=not no_browser, as_json=as_json)
                say(f"this shows {registration.mountpoint} until you press Ctrl-C")
    except KeyboardInterrupt:
        ctx.exit(exits.OK)  # that is how it is meant to end
    finally:
        _redirection(registration).unlink(missing_ok=True)
    raise UserError("the daemon has ended")


def _url(said: dict[str, object]) -> str:
    return str(said.get("url", ""))


def _show(registration: Registration, url: str, *, browser: bool, as_json: bool) -> None:
    click.echo(json.dumps({"url": url}) if as_json else url)
    if not browser or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return  # without a screen there are but browsers that would take this terminal
    # Other users can see what a browser was started with. So it is started with a file that only
    # this user can read, and that leads to the address.
    file = _redirection(registration)
    file.unlink(missing_ok=True)
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as page:
        page.write(PAGE.format(url=html.escape(url)))
    if not webbrowser.open(file.as_uri()):
        say("no browser could be started: open the address in one")


def _redirection(registration: Registration) -> Path:
    return Path(registration.socket).with_suffix(".html")
