"""What a name shows of a failure to ask about it."""

from __future__ import annotations

import errno
from typing import Final

import structlog

from nebfs.ending import pass_on
from nebfs.errors import Bug, NebfsError
from nebfs.model import Trouble

log = structlog.get_logger()

NO_BYTES: Final = Trouble(errno.EIO, "it has no bytes")
"""Of a file of which nothing else is said."""


def trouble_of(failure: NebfsError) -> Trouble:
    """Return why a file that is listed cannot be read.

    Not ENOENT: the name is there. rsync takes that for "vanished" and carries on, and a backup
    would lack the file with nothing more than a warning.
    """
    number = errno.EIO if failure.errno == errno.ENOENT else failure.errno
    return Trouble(number, str(failure))


def failure_of(exc: BaseException) -> NebfsError:
    """Return why one file could not be asked about: a bug is its trouble, and no other file's."""
    if isinstance(exc, NebfsError):
        return exc
    pass_on(exc)
    log.error("image.bug", exc_info=exc)
    return Bug(exc)
