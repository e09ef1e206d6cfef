"""The one place where a failure becomes a message and an exit code."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

from nebfs.cli import exits
from nebfs.errors import NebfsError

VERBOSE = "nebfs.verbose"
FAILED = "nebfs.failed"
"""Key in ctx.meta: what a command exits with where a failure has no code of its own."""

Command = TypeVar("Command", bound=Callable[..., Any])


class Door(click.Group):
    """A group of commands that never shows a traceback to somebody who did not ask for one."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; on failure say why on stderr and exit with the documented code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise  # click's own words for its own errors
        except KeyboardInterrupt:
            ctx.exit(exits.INTERRUPTED)
        except Exception as exc:  # noqa: BLE001 - told here, and nowhere above
            message, code = explain(exc, ctx.meta.get(FAILED, exits.FAILURE))
            if ctx.meta.get(VERBOSE) and code == exits.INTERNAL:
                traceback.print_exception(exc)
            say(message)
            ctx.exit(code)


def explain(failure: BaseException, failed: int = exits.FAILURE) -> tuple[str, int]:
    """Return what to say about `failure` and the exit code; `failed` stands in for a plain 1."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]  # a nursery wraps even the only failure
    match failure:
        case NebfsError():
            code = exits.exit_code_for(failure)
            return str(failure), failed if code == exits.FAILURE else code
        case OSError() if failure.strerror:
            name = f"{os.fsdecode(failure.filename)}: " if failure.filename is not None else ""
            return f"{name}{failure.strerror}", failed
        case _:
            # Not str(failure): what a mistake of ours carries may be a secret.
            report = "please report this, with the traceback that -v shows"
            return f"internal error: {type(failure).__name__}; {report}", exits.INTERNAL


def say(message: str) -> None:
    """Write `message` to stderr, every line marked as ours."""
    for line in message.splitlines() or [""]:
        click.echo(f"nebfs: {printable(line)}", err=True)


def printable(text: str) -> str:
    r"""Return `text` with what could move a terminal's cursor, or is not UTF-8, as ``\xNN``."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode()
        for char in text
    )


def verbose_option(command: Command) -> Command:
    """Add ``-v/--verbose``, which also makes a failure of ours show its traceback."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        ctx.meta[VERBOSE] = ctx.meta.get(VERBOSE) or value
        return value

    return click.option(
        "-v",
        "--verbose",
        is_flag=True,
        callback=remember,
        expose_value=False,
        help="Say more, and show the traceback of an internal error.",
    )(command)
