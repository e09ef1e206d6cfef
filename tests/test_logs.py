"""The log: its three forms, and what is told of failures that come again and again."""

import io
import json
import os
import socket

import pytest
import structlog

from nebfs import logs
from nebfs.cli.logs import configure_logs
from nebfs.logs import Repeats, is_journal


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    structlog.reset_defaults()


@pytest.fixture
def log():
    return structlog.get_logger()


@pytest.fixture
def journal(monkeypatch):
    """A socket that is what systemd makes stderr of a service; what arrives there."""
    ours, theirs = socket.socketpair()
    found = os.fstat(theirs.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    with ours, theirs, theirs.makefile("w", buffering=1) as stream:
        yield stream, lambda: ours.recv(65536).decode().splitlines()


def test_text_has_time_level_and_facts(log):
    stream = io.StringIO()
    configure_logs("info", stream)
    log.debug("not this")
    log.warning("place.failed", name="x")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("20")
    assert "[warning  ] place.failed" in line
    assert "name=x" in line
    assert "\x1b" not in line


def test_in_the_journal_there_is_a_priority_and_no_time(log, journal):
    stream, lines = journal
    configure_logs("debug", stream)
    log.debug("a")
    log.info("b", fact=1)
    log.warning("c")
    log.error("d")
    assert lines() == ["<7>a", "<6>b fact=1", "<4>c", "<3>d"]


def test_every_line_of_a_traceback_has_its_priority(log, journal):
    stream, lines = journal
    configure_logs("info", stream)
    secret = "canary"
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("fuse.bug", operation="read")
    found = lines()
    assert len(found) > 3
    assert all(line.startswith("<3>") for line in found)
    assert found[-1] == "<3>ValueError: broken"
    assert secret not in "\n".join(found).replace('secret = "canary"', "")


def test_a_terminal_beside_the_journal_is_no_journal(monkeypatch, journal):
    with open(os.devnull, "w") as stream:
        assert not is_journal(stream, os.environ)
    assert not is_journal(io.StringIO(), os.environ)
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not is_journal(journal[0], os.environ)


def test_json_is_one_object_per_line_even_in_the_journal(log, journal):
    stream, lines = journal
    configure_logs("info", stream, "json")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("fuse.bug", operation="read", odd={1})
    log.info("b", name="é")
    first, second = map(json.loads, lines())
    assert (first["event"], first["level"], first["odd"]) == ("fuse.bug", "error", "{1}")
    assert "ValueError: broken" in first["exception"]
    assert (second["event"], second["name"]) == ("b", "é")
    assert second["timestamp"].endswith("Z")


class Told:
    """A log whose clock the test moves."""

    def __init__(self):
        self.now = 0.0
        self.events = []
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                Repeats(lambda: self.now),
                lambda _logger, _method, event: self.events.append(dict(event)) or "",
            ],
            logger_factory=structlog.WriteLoggerFactory(io.StringIO()),
        )


def test_what_fails_again_and_again_is_told_once_and_counted(log):
    told = Told()
    for number in range(58):
        log.warning("fuse.failed", operation="read", errno="EIO", error=f"no answer ({number})")
        told.now += 1
    assert [one["error"] for one in told.events] == ["no answer (0)"]
    told.now = 60.0
    log.info("something.else")
    assert len(told.events) == 3
    assert told.events[1] == {
        "event": "fuse.failed",
        "again": "57 more times in 60 s",
        "operation": "read",
        "errno": "EIO",
        "level": "warning",
    }
    log.warning("fuse.failed", operation="read", errno="EIO", error="still")
    assert told.events[-1]["error"] == "still"


def test_other_places_and_other_events_are_told_by_themselves(log):
    told = Told()
    log.warning("place.failed", kind="datastore", name="a")
    log.warning("place.failed", kind="datastore", name="b")
    log.warning("place.slow", kind="datastore", name="a")
    log.info("place.answers_again", name="a")
    log.info("place.answers_again", name="a")
    assert len(told.events) == 5
    told.now = 61
    log.info("end")
    assert len(told.events) == 6  # what came once is not summed up


def test_what_is_counted_is_bounded(log):
    told = Told()
    for number in range(2 * logs.REMEMBERED):
        log.warning("place.failed", name=str(number))
        log.warning("place.failed", name=str(number))
    summed = [one for one in told.events if "again" in one]
    assert len(summed) == logs.REMEMBERED


def test_the_end_of_the_process_tells_the_rest(log):
    stream = io.StringIO()
    configure_logs("info", stream)
    (repeats,) = (one for one in structlog.get_config()["processors"] if isinstance(one, Repeats))
    for _ in range(3):
        log.error("fetcher.gone", pid=1)
    repeats.tell_all()
    assert "2 more times" in stream.getvalue()
    log.error("fetcher.gone", pid=1)
    log.error("fetcher.gone", pid=1)
    stream.close()
    repeats.tell_all()  # says nothing, and raises nothing
