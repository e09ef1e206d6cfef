"""The one border between our failures and the kernel's numbers.

pyfuse3 turns only FUSEError into an errno: any other exception that leaves a handler ends the whole
mount. So every handler is wrapped here, and nothing else raises FUSEError. That holds for whatever
is raised, and for what goes wrong while it is told; only what ends the task itself passes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import pyfuse3
import structlog
import trio

from nebfs.ending import pass_on
from nebfs.errors import NebfsError

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")

_QUIET = {errno.ENOENT, errno.ESTALE}


def number_of(exc: BaseException) -> int:
    """Return the errno that stands for `exc`.

    An OSError's number may be none: of a resolver it is negative, and libraries have their own. The
    kernel refuses an answer with such a number, and whoever asked would wait for ever.
    """
    number: object = None
    if isinstance(exc, (NebfsError, OSError)):
        number = exc.errno
    elif isinstance(exc, trio.TooSlowError):
        number = errno.ETIMEDOUT
    return number if isinstance(number, int) and number in errno.errorcode else errno.EIO


def guarded(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Let nothing but FUSEError and cancellation leave `handler`."""
    name = handler.__name__.lstrip("_")

    @functools.wraps(handler)
    async def guard(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except BaseException as exc:
            pass_on(exc)
            tell(name, exc)
            raise pyfuse3.FUSEError(number_of(exc)) from exc

    return guard


def silenced(
    handler: Callable[P, Coroutine[Any, Any, None]],
) -> Callable[P, Coroutine[Any, Any, None]]:
    """Let nothing but cancellation leave a handler whose answer nobody sees."""
    name = handler.__name__.lstrip("_")

    @functools.wraps(handler)
    async def guard(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await handler(*args, **kwargs)
        except BaseException as exc:  # noqa: BLE001 - there is nobody to raise it to
            pass_on(exc)
            tell(name, exc)

    return guard


def tell(operation: str, exc: BaseException) -> None:
    """Log a failure: one of ours in a line, a bug loudly. That it cannot be told harms nobody."""
    with contextlib.suppress(Exception):
        if isinstance(exc, NebfsError):
            # What every `ls` meets, and what the kernel mends by itself, is not worth a line.
            if exc.errno not in _QUIET:
                facts = {"operation": operation, "errno": _name(exc.errno), "error": str(exc)}
                log.warning("fuse.failed", **facts, **_place(exc))
        elif isinstance(exc, trio.TooSlowError):
            log.warning("fuse.deadline", operation=operation)
        else:
            log.error("fuse.bug", operation=operation, exc_info=exc)


def _place(exc: NebfsError) -> dict[str, str]:
    """Return where it happened: the log sums up what fails there again and again."""
    for name in ("place", "url", "endpoint", "source"):
        if name in exc.facts:
            text = str(exc.facts[name])
            return {"place": host_in(text) or text}
    return {}


def host_in(address: str) -> str:
    """Return whom an address is about, for the log; empty where it does not say."""
    try:
        return urlsplit(address).netloc
    except ValueError:  # brackets that hold no IPv6 address
        return ""


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
