"""What a name shows of a failure to ask about it."""

from __future__ import annotations

import errno

from nebfs.errors import NebfsError
from nebfs.model import Trouble


def trouble_of(failure: NebfsError) -> Trouble:
    """Return why a file that is listed cannot be read.

    Not ENOENT: the name is there. rsync takes that for "vanished" and carries on, and a backup
    would lack the file with nothing more than a warning.
    """
    number = errno.EIO if failure.errno == errno.ENOENT else failure.errno
    return Trouble(number, str(failure))
