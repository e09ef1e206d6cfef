"""How a log looks: one event with its facts, for a person, for the journal, or for a program.

* ``text``: a line with time, level, event and facts; coloured on a terminal;
* the journal (``auto`` under systemd): the same without time and colour, which the journal has
  itself, and with the priority in front, as sd-daemon(3) wants it: ``<4>``;
* ``json``: one object per line.

What fails again and again, at the same place for the same reason, is told once and then counted:
a place that is down must not fill a disk. Configured by whoever owns a process (cli, the fetcher);
everybody else only asks structlog for a logger.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TextIO, cast

import structlog

WINDOW = 60.0
"""Seconds for which what was told is only counted when it comes again."""
REMEMBERED = 512
"""Kinds of failure that are counted at a time."""
REPEATED = frozenset({"warning", "error", "exception", "critical"})
PLACE = (
    *("place", "marketplace", "datastore", "source", "url", "endpoint", "host", "directory"),
    *("kind", "name", "driver", "operation", "method", "errno", "uid"),
)
"""Facts that say where it happened; with the event they are what makes two failures the same."""
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
"""syslog(3)'s numbers, which sd-daemon(3) takes in angle brackets."""

Event = MutableMapping[str, Any]


def configure(level: int, stream: TextIO, form: str = "auto") -> None:
    """Write events of `level` (as the logging module counts) and above to `stream`.

    `form` is ``auto``, ``text`` or ``json``.
    """
    journal = form == "auto" and is_journal(stream, os.environ)
    clock = [] if journal else [structlog.processors.TimeStamper(fmt="iso", utc=True)]
    repeats = Repeats()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            repeats,
            *clock,
            structlog.processors.StackInfoRenderer(),
            *_renderers(form, stream, journal=journal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Forgiving(stream))),
        cache_logger_on_first_use=False,  # loggers of modules are made before we are called
    )
    atexit.register(repeats.tell_all)


class _Forgiving:
    """A stream whose disk may be full, whose reader may be gone, and which can write any text: what
    cannot be written is lost. Everything logs, so an error here would be one of everything.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write, if that is possible."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError, ValueError):
            # Names that are no UTF-8 are text with surrogates in Python.
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether `stream` leads to systemd's journal (see JOURNAL_STREAM in systemd.exec(5))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


@dataclass(slots=True)
class _Told:
    """One kind of failure: when it was told, how often it came since, what it was like."""

    since: float
    again: int
    facts: dict[str, Any]


class Repeats:
    """A processor that lets the first of many equal failures pass, and counts the others.

    They are told by the first event of any kind that comes after their minute is over.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is a clock in seconds."""
        self._now = now
        self._told: OrderedDict[tuple[str, ...], _Told] = OrderedDict()
        self._telling = False
        self._turn = threading.RLock()  # worker threads log, too

    def __call__(self, _logger: object, method: str, event: Event) -> Event:
        """See structlog's processors. Raises DropEvent for what is only counted."""
        with self._turn:
            return self._pass(method, event)

    def _pass(self, method: str, event: Event) -> Event:
        if self._telling:
            return event
        self._tell_old()
        if method not in REPEATED:
            return event
        key = (str(event.get("event")), *(str(event.get(name, "")) for name in PLACE))
        known = self._told.get(key)
        if known is not None:
            known.again += 1
            raise structlog.DropEvent
        kept = {name: value for name, value in event.items() if name in PLACE or name == "event"}
        self._told[key] = _Told(self._now(), 0, kept)
        if len(self._told) > REMEMBERED:
            self._tell(self._told.popitem(last=False)[1])
        return event

    def tell_all(self) -> None:
        """Tell what was counted until now, at the end of the process."""
        if self not in structlog.get_config()["processors"]:
            return
        with self._turn, contextlib.suppress(OSError, ValueError):  # a log that is closed already
            while self._told:
                self._tell(self._told.popitem(last=False)[1])

    def _tell_old(self) -> None:
        # In the order in which they were told first: the oldest is in front.
        while self._told:
            key, oldest = next(iter(self._told.items()))
            if self._now() - oldest.since < WINDOW:
                return
            del self._told[key]
            self._tell(oldest)

    def _tell(self, told: _Told) -> None:
        if not told.again:
            return
        seconds = self._now() - told.since
        facts = {name: value for name, value in told.facts.items() if name != "event"}
        self._telling = True
        try:
            log = structlog.get_logger()
            again = f"{told.again} more times in {seconds:.0f} s"
            log.warning(told.facts["event"], again=again, **facts)
        finally:
            self._telling = False


def _renderers(form: str, stream: TextIO, *, journal: bool) -> list[Any]:
    if form == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ]
    if journal:
        return [_ForJournal()]
    return [_console(colours=stream.isatty())]


def _console(*, colours: bool, width: int = 30) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        width,  # its name differs between versions
        colors=colours,
        # Not rich's: that prints the values of local variables, which may be secrets.
        exception_formatter=structlog.dev.plain_traceback,
    )


class _ForJournal:
    """Writes an event with its priority in front of every line: the journal takes lines apart."""

    def __init__(self) -> None:
        self._write = _console(colours=False, width=0)

    def __call__(self, logger: object, method: str, event: Event) -> str:
        priority = PRIORITIES.get(str(event.pop("level", method)), 6)
        text = str(self._write(logger, method, event))
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines() or [""])
