"""A disk of this machine that hangs: it costs its own place, and nothing else."""

from __future__ import annotations

import os
import threading

import pytest
import trio

from nebfs.blocks.blockfile import disk_threads
from nebfs.content.layers import inplace, waiting
from nebfs.content.layers.here import Here, look_at
from nebfs.content.layers.inplace import InPlace, revision_of
from nebfs.model import Locator


@pytest.fixture
def stuck():
    """An event for which threads wait as for a disk that does not answer."""
    event = threading.Event()
    yield event
    event.set()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def test_who_gives_up_opening_leaves_nothing_open(tmp_path, stuck, monkeypatch):
    path = tmp_path / "image"
    path.write_bytes(b"bytes")
    locator = Locator("file", str(path))
    listed = look_at(locator, 0)[0]
    real = inplace._opened
    done = threading.Event()

    def slowly(locator):
        stuck.wait()
        try:
            return real(locator)
        finally:
            done.set()

    monkeypatch.setattr(inplace, "_opened", slowly)
    before = descriptors()
    with trio.move_on_after(0.05) as scope:
        await InPlace.open(locator, listed)
    assert scope.cancelled_caught
    stuck.set()
    await trio.to_thread.run_sync(done.wait)
    with trio.fail_after(10):
        while descriptors() > before:  # noqa: ASYNC110 - a thread tells nobody
            await trio.sleep(0.01)


async def test_one_that_is_opened_in_the_moment_of_giving_up_is_closed(tmp_path, monkeypatch):
    """The thread is done, and who has asked is cancelled before he hears of it."""
    path = tmp_path / "image"
    path.write_bytes(b"bytes")
    before = descriptors()

    async def run_sync(job, **_):
        job()
        await trio.sleep_forever()

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    with trio.move_on_after(0.01):
        await waiting.opened(str(tmp_path), lambda: os.open(path, os.O_RDONLY))
    assert descriptors() == before


async def test_a_place_that_hangs_does_not_take_the_threads_of_others(
    tmp_path, stuck, nursery, monkeypatch
):
    before = disk_threads.borrowed_tokens  # all tests of a process have them together
    readers = {}
    for name in ("dead", "well"):
        path = tmp_path / name / "image"
        path.parent.mkdir()
        path.write_bytes(name.encode())
        locator = Locator("file", str(path))
        readers[name] = await Here(nursery).open(
            locator, revision_of(os.stat(path)), volatile=False
        )

    def hang(fd, length, offset):
        stuck.wait()
        return b""

    monkeypatch.setattr(readers["dead"], "_read", hang)
    async with trio.open_nursery() as asking:
        for _ in range(40):
            asking.start_soon(readers["dead"].pread, 0, 1)
        with trio.fail_after(10):
            while disk_threads.borrowed_tokens > before:  # noqa: ASYNC110 - nobody tells when they are back
                await trio.sleep(0.01)
        with trio.fail_after(10):
            assert await readers["well"].pread(0, 4) == b"well"
        asking.cancel_scope.cancel()
    for reader in readers.values():
        await reader.aclose()
