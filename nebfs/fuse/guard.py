"""The one border between our failures and the kernel's numbers.

pyfuse3 turns only FUSEError into an errno: any other exception that leaves a handler ends the whole
mount. So every handler is wrapped here, and nothing else raises FUSEError.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

import pyfuse3
import structlog
import trio

from nebfs.errors import NebfsError

log = structlog.get_logger()

P = ParamSpec("P")
R = TypeVar("R")

# What every `ls` meets, and what the kernel mends by itself, is not worth a line.
_QUIET = {errno.ENOENT, errno.ESTALE}


def number_of(exc: BaseException) -> int:
    """Return the errno that stands for `exc`."""
    if isinstance(exc, NebfsError):
        return exc.errno
    if isinstance(exc, trio.TooSlowError):
        return errno.ETIMEDOUT
    if isinstance(exc, OSError) and exc.errno:
        return exc.errno
    return errno.EIO


def guarded(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Let nothing but FUSEError and cancellation leave `handler`."""
    name = handler.__name__.lstrip("_")

    @functools.wraps(handler)
    async def guard(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except NebfsError as exc:
            if exc.errno not in _QUIET:
                facts = {"operation": name, "errno": _name(exc.errno), "error": str(exc)}
                log.warning("fuse.failed", **facts, **_place(exc))
            raise pyfuse3.FUSEError(exc.errno) from exc
        except trio.TooSlowError as exc:
            log.warning("fuse.deadline", operation=name)
            raise pyfuse3.FUSEError(errno.ETIMEDOUT) from exc
        except Exception as exc:
            # A bug costs this one call. It is said loudly, with its traceback.
            log.exception("fuse.bug", operation=name)
            raise pyfuse3.FUSEError(number_of(exc)) from exc

    return guard


def _place(exc: NebfsError) -> dict[str, str]:
    """Return where it happened: the log sums up what fails there again and again."""
    for name in ("place", "url", "endpoint", "source"):
        if name in exc.facts:
            text = str(exc.facts[name])
            return {"place": urlsplit(text).netloc or text}
    return {}


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))
