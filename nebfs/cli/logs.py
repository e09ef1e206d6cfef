"""How the log of a command's process looks: see nebfs/logs.py."""

from __future__ import annotations

import logging
from typing import TextIO

from nebfs import logs


def configure_logs(level: str, stream: TextIO, form: str = "auto") -> None:
    """Write events of `level`, such as ``info``, and above to `stream`, in that form."""
    logs.configure(logging.getLevelNamesMapping()[level.upper()], stream, form)
