"""The exit codes. The table that a person reads is in nebfs/cli/__init__.py."""

from __future__ import annotations

from nebfs.errors import NebfsError, Refused, TimedOut, Unreachable, UserError

OK = 0
FAILURE = 1
USAGE = 2
NOT_MOUNTED = 3
DEGRADED = 4
MOUNT = 32  # what mount(8) answers when a mount failed
UNREACHABLE = 69  # EX_UNAVAILABLE of sysexits.h
INTERNAL = 70  # EX_SOFTWARE
REFUSED = 77  # EX_NOPERM
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def exit_code_for(failure: NebfsError, otherwise: int = FAILURE) -> int:
    """Return the exit code that tells `failure`; `otherwise` where it has none of its own."""
    match failure:
        case UserError():
            return failure.exit_code
        case Refused():
            return REFUSED
        case Unreachable() | TimedOut():
            return UNREACHABLE
        case _:
            return otherwise
