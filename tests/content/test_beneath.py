"""A directory that is read as it is and never left: races that a mount cannot be made to lose."""

from __future__ import annotations

import errno
import os
import threading

import pytest
import trio

from nebfs.content import beneath
from nebfs.content.beneath import Beneath
from nebfs.errors import Changed, Missing, NebfsError, Refused, TimedOut, Unreachable


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    (made / "a/b").mkdir(parents=True)
    (made / "a/b/file").write_bytes(b"0123456789")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"canary")
    return made


@pytest.fixture
def inside(root):
    return Beneath(str(root), timeout=5.0)


async def identity(inside, *names):
    return (await inside.look(names[:-1], None, names[-1])).identity


async def _held(limiter, task_status):
    async with limiter:
        task_status.started()
        await trio.sleep_forever()


async def read(inside, names, wanted):
    file = await inside.open(names, wanted)
    try:
        return await file.pread(0, 100)
    finally:
        file.close()


async def test_a_file_is_found_and_read(inside):
    wanted = await identity(inside, "a", "b", "file")
    assert await read(inside, ("a", "b", "file"), wanted) == b"0123456789"
    file = await inside.open(("a", "b", "file"), wanted)
    assert await file.pread(4, 3) == b"456"
    assert await file.pread(8, 100) == b"89"
    assert await file.pread(50, 1) == b""
    file.close()
    file.close()


@pytest.mark.parametrize("name", ["..", ".", "", "../outside", "a/b", "gone", "a\0b"])
async def test_names_are_entries_of_the_directory(inside, name):
    with pytest.raises(Missing):
        await inside.look((), None, name)


@pytest.mark.parametrize("names", [("..",), ("a", "..", "..", "outside"), ("a", "..")])
async def test_no_component_leads_upwards(inside, names):
    # The kernel never asks so; whoever else does stays where the walk is.
    with pytest.raises(NebfsError):
        await inside.entries(names, None)


async def test_a_link_is_never_walked_through(inside, root, tmp_path):
    before = await identity(inside, "a", "b", "file")
    (root / "a/b").rename(root / "a/old")
    (root / "a/b").symlink_to(tmp_path / "outside")
    for asked in (
        inside.look(("a", "b"), None, "file"),
        inside.entries(("a", "b"), None),
        inside.open(("a", "b", "file"), before),
        inside.facts(("a", "b", "file"), before),
    ):
        with pytest.raises(Changed):
            await asked
    assert await inside.target(("a", "b"), await identity(inside, "a", "b")) == str(
        tmp_path / "outside"
    )


async def test_a_link_as_the_file_is_not_opened(inside, root, tmp_path):
    (root / "a/link").symlink_to(tmp_path / "outside/file")
    wanted = await identity(inside, "a", "link")
    with pytest.raises(Refused):
        await inside.open(("a", "link"), wanted)


async def test_another_file_of_the_name_is_not_opened(inside, root):
    wanted = await identity(inside, "a", "b", "file")
    (root / "a/b/new").write_bytes(b"other")
    (root / "a/b/new").rename(root / "a/b/file")
    with pytest.raises(Changed):
        await inside.open(("a", "b", "file"), wanted)
    with pytest.raises(Changed):
        await inside.facts(("a", "b", "file"), wanted)
    other = await identity(inside, "a")
    (root / "a").rename(root / "z")
    (root / "a").mkdir()
    with pytest.raises(Changed):
        await inside.entries(("a",), other)


async def test_a_pipe_is_not_waited_for(inside, root):
    os.mkfifo(root / "pipe")
    with pytest.raises(Refused):
        await inside.open(("pipe",), await identity(inside, "pipe"))


async def test_the_root_must_be_there_and_no_link(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    for path in (f"{tmp_path}/gone", f"{tmp_path}/link", f"{tmp_path}/link/a"):
        with pytest.raises(Unreachable):
            await Beneath(path, timeout=5.0).entries((), None)


async def test_a_directory_with_too_many_entries_is_an_error(inside, root, monkeypatch):
    monkeypatch.setattr(beneath, "MOST_ENTRIES", 3)
    for number in range(3):
        (root / f"a/b/{number}").touch()
    with pytest.raises(NebfsError, match="too many"):
        await inside.entries(("a", "b"), None)
    assert len(await inside.entries(("a",), None)) == 1


async def test_a_disk_that_hangs_ends_in_time_and_leaves_nothing_open(
    root, monkeypatch, autojump_clock
):
    inside = Beneath(str(root), timeout=5.0)
    autojump_clock.autojump_threshold = 0.05
    wanted = await identity(inside, "a", "b", "file")
    go, opened = threading.Event(), []
    work = inside._open

    def hangs(*args):
        go.wait(10)
        opened.append(work(*args))
        return opened[0]

    monkeypatch.setattr(inside, "_open", hangs)
    with pytest.raises(TimedOut):
        await inside.open(("a", "b", "file"), wanted)
    go.set()
    async with trio.open_nursery() as nursery:  # all of its threads, once they are free
        for _ in range(beneath.THREADS):
            await nursery.start(_held, inside._naming)
        nursery.cancel_scope.cancel()
    (fd,) = opened
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF
