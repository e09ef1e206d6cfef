"""How a daemon's log looks: one line per event with its time, name and facts."""

from __future__ import annotations

import logging
from typing import TextIO

import structlog


def configure_logs(level: str, stream: TextIO) -> None:
    """Write events of `level` and above to `stream`: coloured on a terminal, plain elsewhere."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                # Not rich's: that prints the values of local variables, which may be secrets.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,  # loggers of modules are made before we are called
    )
