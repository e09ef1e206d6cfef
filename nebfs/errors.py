"""The tree of failures: what each means, its errno, whether trying again can help, how loud it is.

::

    NebfsError
    |-- Unreachable   nobody answered, or the answer broke off          EIO         temporary
    |-- BadAnswer     an answer that breaks its protocol                EIO         temporary
    |-- Busy          the object has no bytes to give now               EBUSY       -
    |-- Unready       it takes long to be had, and is on its way        EAGAIN      -
    |-- Refused       the other side does not let us                    EACCES      -
    |-- Missing       it is not there                                   ENOENT      -
    |-- Changed       it is another version than the one opened         ESTALE      -
    |-- Damaged       bytes that differ from what was published         EIO         -
    |-- TimedOut      the deadline of an operation passed               ETIMEDOUT   -
    |-- Unsupported   we cannot do this (yet): driver or format         EOPNOTSUPP  -
    |-- CacheFault    the cache disk failed; reads go on without it     EIO         temporary
    |-- FetcherDied   the fetcher process ended under a request         EIO         temporary
    |-- Bug           an exception that nobody foresaw; the log has it  EIO         -
    `-- UserError     a mistake of the user's: message, remedy, exit    EINVAL      -

Raise with facts as keywords (``Unreachable("no answer", url=..., after=...)``); they are logged,
and must never be secrets. Map once at each border and keep ``from exc``.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class NebfsError(Exception):
    """Base of every failure that nebfs raises on purpose."""

    errno: int = errno.EIO
    temporary: ClassVar[bool] = False
    level: ClassVar[str] = "warning"

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: object) -> None:
        """`retry_after`: seconds that the other side asked us to wait before trying again."""
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.facts = facts

    def __str__(self) -> str:
        if not self.facts:
            return self.message
        return f"{self.message} ({', '.join(f'{k}={v}' for k, v in self.facts.items())})"


class Unreachable(NebfsError):
    """Nobody answered, or the answer broke off half-way. Unreachable is never "gone"."""

    temporary = True


class BadAnswer(NebfsError):
    """An answer that breaks its protocol: a wrong Content-Range, malformed XML, a short body."""

    temporary = True


class Busy(NebfsError):
    """The object exists and has no bytes to give now (LOCKED, being uploaded, in ERROR)."""

    errno = errno.EBUSY


class Unready(NebfsError):
    """What was asked for is still being made, or is made when somebody opens it."""

    errno = errno.EAGAIN


class Refused(NebfsError):
    """The other side knows us and says no, or does not know us."""

    errno = errno.EACCES


class Missing(NebfsError):
    """The other side answered, and says that it is not there."""

    errno = errno.ENOENT


class Changed(NebfsError):
    """What is there now is another version than the one that was opened."""

    errno = errno.ESTALE


class Damaged(NebfsError):
    """The bytes differ from what was published about them."""

    level = "error"


class TimedOut(NebfsError):
    """The deadline of one operation passed."""

    errno = errno.ETIMEDOUT


class Unsupported(NebfsError):
    """nebfs cannot do this, or not yet; the message says what is missing."""

    errno = errno.EOPNOTSUPP


class CacheFault(NebfsError):
    """The cache disk is full, read-only or broken. Never a reason to fail a read."""

    temporary = True


class FetcherDied(NebfsError):
    """The fetcher process ended while it worked on a request."""

    temporary = True


class Bug(NebfsError):
    """A mistake of ours that costs what it concerns and nothing else. Whoever raises it logs it."""

    level = "error"

    def __init__(self, exc: BaseException) -> None:
        """Not with the text of `exc`, which may be a secret."""
        super().__init__(f"an error in nebfs ({type(exc).__name__}); its log has the details")


class UserError(NebfsError):
    """A mistake that the person at the keyboard can mend; the message names cause and remedy."""

    errno = errno.EINVAL

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        """`exit_code`: see the table in nebfs/cli/__init__.py."""
        super().__init__(message)
        self.exit_code = exit_code


KINDS: dict[str, type[NebfsError]] = {
    kind.__name__: kind
    for kind in (
        Unreachable,
        BadAnswer,
        Busy,
        Unready,
        Refused,
        Missing,
        Changed,
        Damaged,
        TimedOut,
        Unsupported,
        CacheFault,
        FetcherDied,
    )
}
"""The kinds that may cross from the fetcher process, by name."""
