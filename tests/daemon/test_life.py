"""How a mounted life ends: what is written down at its end is not cut short by a signal."""

from __future__ import annotations

import contextlib
import signal
from unittest.mock import MagicMock

import pytest
import trio
import trio.testing

from nebfs.config import Settings
from nebfs.daemon import life
from nebfs.daemon.notify import Notifier


@pytest.fixture
def killed():
    """Return the signals that would have ended this process by their default action."""
    found = []
    before = {number: signal.signal(number, lambda n, _: found.append(n)) for number in life.STOPS}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("late", life.STOPS)
def test_a_stop_that_comes_after_the_unmount_does_not_lose_what_is_written_down(
    late, killed, tmp_path, monkeypatch
):
    """A service manager sends TERM after its own umount: the boot that was recorded was lost."""
    written = []

    @contextlib.asynccontextmanager
    async def built(_settings):
        yield MagicMock(source="http://one.example.org/RPC2")
        with trio.CancelScope(shield=True):  # as library and shelf write down what was learned
            signal.raise_signal(late)
            await trio.lowlevel.checkpoint()
            written.append("what was learned")

    async def serve(*_what, ready):
        await trio.testing.wait_all_tasks_blocked()  # the signals are listened for, as when mounted
        # ... and somebody else unmounts.

    monkeypatch.setattr(life, "built", built)
    monkeypatch.setattr(life, "serve", serve)
    (tmp_path / "run").mkdir(mode=0o700)
    settings = Settings(run_dir=tmp_path / "run")
    with life._deaf():
        trio.run(life._live, settings, tmp_path / "mnt", lambda: None, Notifier.taken_from({}))
    assert (killed, written) == ([], ["what was learned"])
    signal.raise_signal(late)
    assert killed == [late], "a signal has lost its meaning for who comes after"
