"""``nebfs config``: what is set, where, and whether a mount would take it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from nebfs.cli import exits
from nebfs.cli.checkup.finding import Finding, Level, ok, problem
from nebfs.cli.door import printable, verbose_option
from nebfs.cli.flags import json_option
from nebfs.cli.mount import mount
from nebfs.cli.options import SETTINGS, typed
from nebfs.cli.template import page, template
from nebfs.cli.written import DEFAULT, told
from nebfs.config import Settings, load, settings_file
from nebfs.errors import UserError

Given = str | tuple[str, ...] | None


def as_mount_reads(command: click.Command) -> click.Command:
    """Give `command` the flags of ``nebfs mount`` that name settings.

    With ``-o``, unless the command has one of its own.
    """
    taken = {name for one in command.params for name in one.opts}
    known = SETTINGS | {"options"}
    found = [one for one in mount.params if one.name in known and not taken & set(one.opts)]
    command.params[:0] = found
    return command


@click.group("config")
def config_command() -> None:
    """Look at the settings: check, show, or write a file to start from."""


@as_mount_reads
@config_command.command()
@click.argument("source", default="")
@json_option
@verbose_option
@click.pass_context
def check(ctx: click.Context, /, source: str, as_json: bool, **flags: Given) -> None:
    """Say whether a mount would take these settings, without mounting.

    Reads the file, the environment and the flags as 'nebfs mount' does, and looks at the files that
    they name. Exits with 0 if all is well or only worth a warning, 2 if a mount would fail.
    """
    findings = findings_of(overrides_of(source, flags))
    bad = [one for one in findings if one.level is not Level.OK]
    failed = any(one.level is Level.PROBLEM for one in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [one.record for one in findings]}))
    for one in [] if as_json else bad:
        click.echo(printable(f"{one.level}: {one.about}: {one.text}"))
        if one.remedy:
            click.echo(printable(f"  remedy: {one.remedy}"))
    if not failed and not as_json:
        click.echo("the settings are fine" if not bad else "the settings can be used")
    ctx.exit(exits.USAGE if failed else exits.OK)


@as_mount_reads
@config_command.command()
@click.argument("source", default="")
@click.option("--changed", is_flag=True, help="Leave out what has its default.")
@json_option
@verbose_option
def show(source: str, changed: bool, as_json: bool, **flags: Given) -> None:
    """Show every setting, and where it was set.

    What a mount would have. Secrets are not shown. Exits with 2 if the settings are wrong.
    """
    overrides = overrides_of(source, flags)
    settings = told(load(None, overrides), overrides)
    if changed:
        settings = [one for one in settings if one.origin != DEFAULT]
    if as_json:
        facts = {one.name: {"value": one.value, "origin": one.origin} for one in settings}
        click.echo(json.dumps(facts, indent=2))
        return
    width = max((len(one.name) for one in settings), default=0)
    for one in settings:
        value = one.value or "(not set)"
        where = "" if one.origin == DEFAULT else f"  # {one.origin}"
        click.echo(printable(f"{one.name:<{width}} = {value}{where}"))


@config_command.command("template")
@click.option("--markdown", is_flag=True, help="Write the page docs/configuration.md instead.")
@verbose_option
def template_command(markdown: bool) -> None:
    """Write a settings file to start from.

    With every setting, its default and what it means.

    As it is, the file changes nothing: 'nebfs config template > nebfs.toml' is a way to start.
    """
    click.echo(page() if markdown else template(), nl=False)


def overrides_of(source: str, flags: dict[str, Given]) -> dict[str, object]:
    """Return what was typed of SOURCE and the flags of `as_mount_reads`. Raises UserError."""
    options = flags.pop("options", None)
    return typed(options if isinstance(options, tuple) else (), flags, source)


def findings_of(overrides: dict[str, object]) -> list[Finding]:
    """Return what is found about the settings and the files that they name."""
    try:
        settings = load(None, overrides)
    except UserError as exc:
        return [settings_problem(line) for line in str(exc).splitlines()]
    return [ok("settings", _read(settings, overrides)), *files_of(settings)]


def settings_problem(line: str) -> Finding:
    """Return the finding for one line of what `load` refused."""
    return problem("settings", line, "correct it there; 'nebfs config template' lists all settings")


def files_of(settings: Settings) -> list[Finding]:
    """Return what is found about the files that `settings` name."""
    from nebfs.cli.checkup.files import check_files  # noqa: PLC0415 - rooms that --help needs not

    return list(check_files(settings, os.environ, Path.home()))


def _read(settings: Settings, overrides: dict[str, object]) -> str:
    file = settings_file(overrides)
    changed = sum(one.origin != DEFAULT for one in told(settings, overrides))
    where = f"{file}, the environment and flags" if file else "the environment and flags; no file"
    return f"{changed} set by {where}"
