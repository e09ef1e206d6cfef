"""``nebfs mount``: check, then serve here or start a daemon and wait for its word."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from nebfs.cli import background, exits
from nebfs.cli.checks import check_fuse, check_mountpoint
from nebfs.cli.door import FAILED, VERBOSE, explain, say, verbose_option
from nebfs.cli.logs import configure_logs
from nebfs.cli.mounts import resolved
from nebfs.cli.options import typed
from nebfs.config import Settings, load
from nebfs.daemon import registry
from nebfs.errors import UserError

# Over the time that the first lists may take: to start Python, mount, and ask who we are.
READY_MARGIN = 30.0


@click.command(no_args_is_help=True)
@click.argument("places", metavar="[SOURCE] [MOUNTPOINT]", nargs=-1)
@click.option(
    "-c",
    "--config",
    "config_file",
    metavar="FILE",
    help="Read settings from this TOML file.",
)
@click.option(
    "--marketplace",
    "marketplaces",
    metavar="URL",
    multiple=True,
    help="Mount this public marketplace; no cloud is needed. May be repeated.",
)
@click.option("--auth-file", metavar="FILE", help="File with user:password of the front-end.")
@click.option("--cache-dir", metavar="DIR", help="Keep fetched blocks here.")
@click.option("--cache-size", metavar="SIZE", help="Let them take so much, such as 10G.")
@click.option("--run-dir", metavar="DIR", help="Keep the control socket and log here.")
@click.option("--log-file", metavar="FILE", help="Write the log to this file.")
@click.option(
    "-o",
    "options",
    metavar="OPTS",
    multiple=True,
    help="Settings and mount(8) options: name=value,...; '\\,' is a comma in a value.",
)
@click.option("-f", "--foreground", is_flag=True, help="Serve in this process until unmounted.")
@click.option("--ready-fd", type=int, hidden=True, help="Where to write that we are ready.")
@verbose_option
@click.pass_context
def mount(
    ctx: click.Context,
    /,
    places: tuple[str, ...],
    options: tuple[str, ...],
    foreground: bool,
    ready_fd: int | None,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """Mount a cloud, or public marketplaces, at MOUNTPOINT.

    SOURCE is the URL of the front-end's XML-RPC endpoint. Without it, ONE_XMLRPC or ~/.one tell,
    unless --marketplace names public marketplaces to mount without a cloud. MOUNTPOINT may be left
    out where the settings name it (mountpoint = "/mnt/one").

    Every setting can be given in the TOML file (cache_size = "10G"), in the environment
    (NEBFS_CACHE_SIZE), by its flag, or as -o cache-size=10G; the later of these wins.
    """
    ctx.meta[FAILED] = exits.MOUNT
    announcement = None if ready_fd is None else background.Announcement(ready_fd)
    try:
        *source, mountpoint = _places(places)
        settings = _settings(options, flags, source, verbose=bool(ctx.meta.get(VERBOSE)))
        where = resolved(_mountpoint(mountpoint, settings))
        check_fuse(allow_other=settings.allow_other)
        with contextlib.ExitStack() as claim:
            claim.enter_context(registry.claimed(settings.run_dir, where, exit_code=exits.MOUNT))
            check_mountpoint(where, settings.run_dir)
            if foreground:
                _serve(settings, where, announcement, claim)
            else:
                claim.close()  # it is the daemon's from here on
                _start(ctx, settings, where)
    except Exception as exc:
        if announcement is not None:
            announcement.failed(*explain(exc, exits.MOUNT))
        raise


def _places(places: tuple[str, ...]) -> tuple[str, ...]:
    if len(places) > 2:
        raise click.UsageError(f"one SOURCE and one MOUNTPOINT, not {len(places)} words")
    return places or ("",)


def _mountpoint(named: str, settings: Settings) -> Path:
    if named:
        return Path(named)
    if settings.mountpoint is None:
        raise UserError(
            "no MOUNTPOINT is named: write it behind the options, or mountpoint = "
            '"/mnt/one" into the file of settings',
            exit_code=exits.USAGE,
        )
    return settings.mountpoint


def _settings(
    options: tuple[str, ...],
    flags: Mapping[str, str | tuple[str, ...] | None],
    source: list[str],
    *,
    verbose: bool,
) -> Settings:
    overrides = typed(options, flags, source[0] if source else "")
    if verbose:
        overrides["log_level"] = "debug"
    return load(None, overrides)


def _serve(
    settings: Settings,
    mountpoint: Path,
    announcement: background.Announcement | None,
    claim: contextlib.ExitStack,
) -> None:
    from nebfs.daemon import life  # noqa: PLC0415 - every room of the house: not for --help

    def ready() -> None:
        claim.close()  # whoever looks finds it mounted now
        if announcement is not None:
            announcement.ready()

    # What a path meant, it meant where the command was typed; from here on no directory is held.
    os.chdir("/")
    if announcement is None and settings.log_file is not None:
        log = os.open(settings.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(log, "a", encoding="utf-8", buffering=1) as stream:
            configure_logs(settings.log_level, stream, settings.log_format)
            life.run(settings, mountpoint, ready)
    else:
        configure_logs(settings.log_level, sys.stderr, settings.log_format)
        life.run(settings, mountpoint, ready)


def _start(ctx: click.Context, settings: Settings, mountpoint: Path) -> None:
    log_file = settings.log_file
    if log_file is None:
        log_file = settings.run_dir / f"{registry.name_of(mountpoint)}.log"
    timeout = settings.start_deadline + READY_MARGIN
    # Named to the daemon too: what it registers then tells where its log is.
    words = [*_same_again(ctx), "--log-file", str(log_file)]
    pid = background.start([*words, "--", *ctx.params["places"]], log_file, timeout)
    if ctx.meta.get(VERBOSE):
        say(f"mounted at {mountpoint}, process {pid}, log {log_file}")


def _same_again(ctx: click.Context) -> list[str]:
    """Return the flags that were typed, for a foreground mount; the environment is inherited."""
    words = ["mount", "--foreground", *(["--verbose"] if ctx.meta.get(VERBOSE) else [])]
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if isinstance(param, click.Option) and param.expose_value and given:
            value = ctx.params[param.name or ""]
            for one in value if param.multiple else [value]:
                words += [param.opts[-1], str(one)]
    return words
