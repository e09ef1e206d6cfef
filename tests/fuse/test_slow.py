"""Operations that take long are counted, and logged with what they waited for."""

from types import SimpleNamespace

import pyfuse3
import pytest
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from nebfs.content.layers.retried import Retried
from nebfs.errors import Unreachable
from nebfs.fuse import Operations, OperationsSettings
from nebfs.fuse.guard import guarded
from nebfs.fuse.handles import Disk
from nebfs.fuse.slow import Slow, facts_of_directory
from nebfs.model import Content, Locator


@pytest.fixture
def clock():
    return MockClock(autojump_threshold=0)


@pytest.fixture(autouse=True)
def log():
    with capture_logs() as found:
        yield found
    structlog.reset_defaults()


def slow_ones(log):
    return [one for one in log if one["event"] == "operation.slow"]


class Place:
    """Somebody who answers after a while, or the fourth time only."""

    revision = None

    def __init__(self, seconds=0.0, failures=0):
        self.seconds, self.failures = seconds, failures

    async def fill(self, order):
        await trio.sleep(self.seconds)
        self.failures -= 1
        if self.failures >= 0:
            raise Unreachable("no answer")


async def answered(seconds):
    await trio.sleep(seconds)
    return "bytes"


async def test_what_is_quick_is_not_told(clock, log):
    slow = Slow(5.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.run)
        assert await slow.watched("read", answered(4.9), dict) == "bytes"
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert slow.counted == 0
    assert slow_ones(log) == []


async def test_it_is_said_which_layer_it_waited_in(clock, log):
    slow = Slow(1.0)
    order = SimpleNamespace(urgent=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.run)
        work = Retried(Place(failures=8), 60.0).fill(order)
        await slow.watched("read", work, lambda: {"file": "a.qcow2", "place": "host"})
        nursery.cancel_scope.cancel()
    (told,) = slow_ones(log)
    assert (told["operation"], told["place"], told["file"]) == ("read", "host", "a.qcow2")
    assert told["waited_in"] == "retried.fill"
    assert told["seconds"] > 1
    assert told["failed"] is False
    assert slow.counted == 1


async def test_one_that_fails_or_is_given_up_is_told_too(clock, log):
    slow = Slow(1.0)
    with pytest.raises(trio.TooSlowError), trio.fail_after(3):
        await slow.watched("open", answered(100), dict)
    (told,) = slow_ones(log)
    assert told["failed"] is True
    assert told["seconds"] == 3
    assert told["waited_in"] == "unknown"  # nobody looked


async def test_nobody_looks_while_nothing_is_under_way(clock):
    slow = Slow(1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.run)
        await trio.testing.wait_all_tasks_blocked()
        # Had it slept for a fraction of a second, the clock would jump to that.
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        nursery.cancel_scope.cancel()


async def test_a_cold_read_through_the_window(clock, log):
    class Reader:
        size = 10
        revision = None

        def warm(self, offset, size):
            return b"warm"[:size]

        async def pread(self, offset, size):
            await trio.sleep(7)
            return b"0123456789"[offset : offset + size]

    operations = Operations(None, None, None, OperationsSettings(slow=5.0))
    content = Content(Locator("http", "https://u:canary@host:81/a?x=canary"))
    operations.handles.files[1] = Disk(SimpleNamespace(ino=1, name="a", content=content), Reader())
    assert await operations.read_cold(1, 2, 4) == (0, b"2345")
    (told,) = slow_ones(log)
    assert (told["operation"], told["place"], told["seconds"]) == ("read", "host:81", 7.0)
    assert "canary" not in str(log)
    assert operations.read_warm(1, 0, 4) == b"warm"
    assert operations.slow.counted == 1


async def test_a_failure_names_its_place(log):
    @guarded
    async def read():
        raise Unreachable("no answer", url="https://host:81/a")

    with pytest.raises(pyfuse3.FUSEError):
        await read()
    (told,) = (one for one in log if one["event"] == "fuse.failed")
    assert (told["place"], told["errno"]) == ("host:81", "EIO")


def test_a_directory_belongs_to_a_place():
    node = None
    for name in ("", "raw", "datastores", "default", "x"):
        node = SimpleNamespace(name=name, parent=node)
    assert facts_of_directory(node) == {
        "path": "raw/datastores/default/x",
        "place": "datastores/default",
    }
    assert facts_of_directory(SimpleNamespace(name="", parent=None))["place"] == "/"
