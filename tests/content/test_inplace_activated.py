"""Volumes that are made active while they are read.

lvs and lvchange are fakes (tests/disks.py): the kernel here has no device mapper, so that no volume
can become active. An active volume is a link to a real loop device.
"""

from __future__ import annotations

import fcntl
import os
import random

import pytest
import trio

from nebfs.content.layers import activated, here
from nebfs.content.layers.activated import Activations
from nebfs.content.layers.here import Here, look_at
from nebfs.errors import Busy, Changed, Missing, NebfsError, TimedOut, Unreachable
from nebfs.model import Locator, Revision
from tests.disks import FakeLvm, LoopDevice

NAME = "vg-one-7/img-one-1"
SIZE = 1 << 20
UP = f"-K -ay -- {NAME}"
DOWN = f"-an -- {NAME}"


@pytest.fixture
def data():
    return random.Random(4).randbytes(SIZE)


@pytest.fixture
def loop(tmp_path, data):
    loop = LoopDevice(tmp_path / "disk.img", data)
    yield loop
    loop.close()


@pytest.fixture
def lvm(tmp_path, loop, monkeypatch):
    lvm = FakeLvm(tmp_path, tmp_path / "dev")
    lvm.add("img-one-1", SIZE, target=loop.path)
    monkeypatch.setenv("PATH", f"{lvm.bin}:/usr/bin:/bin")
    return lvm


@pytest.fixture
def locks(tmp_path, monkeypatch):
    locks = tmp_path / "locks"
    locks.mkdir()
    monkeypatch.setattr(activated.Activations.__init__, "__defaults__", (str(locks),))
    return locks


@pytest.fixture
def path(lvm):
    return lvm.devices / NAME


@pytest.fixture
def place(path):
    def place(mode="activate"):
        return Locator("lvm", str(path), (("volume", NAME), ("mode", mode)))

    return place


REVISION = Revision(SIZE, f"lv:{FakeLvm.UUID.replace('-', '')}")


@pytest.fixture
def opened(nursery, place, locks):
    shop = Here(nursery)

    async def opened(revision=REVISION, mode="activate", volatile=False):
        return await shop.open(place(mode), revision, volatile=volatile)

    return opened


async def until(condition):
    """Wait for what runs in the background."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - threads and commands tell nobody
            await trio.sleep(0.01)


async def test_it_is_active_while_it_is_read_and_not_longer(opened, data, lvm, path):
    reader = await opened()
    assert path.exists()
    assert await reader.pread(5, 1000) == data[5:1005]
    assert reader.revision == REVISION
    assert bytes(reader.warm(5, 10)) == data[5:15]
    await reader.aclose()
    await until(lambda: not path.is_symlink())
    assert lvm.changes == [UP, DOWN]


async def test_many_readers_are_one_activation(opened, lvm, path):
    readers = []

    async def one():
        readers.append(await opened())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)
    for reader in readers:
        assert path.exists()
        await reader.aclose()
    await until(lambda: not path.is_symlink())
    assert lvm.changes == [UP, DOWN]


async def test_it_may_be_opened_again(opened, data, lvm, path):
    for _ in range(2):
        reader = await opened()
        assert await reader.pread(0, 4) == data[:4]
        await reader.aclose()
        await until(lambda: not path.is_symlink())
    assert lvm.changes == [UP, DOWN] * 2


async def test_what_was_active_before_stays_so(opened, lvm, path, loop):
    path.parent.mkdir(parents=True)
    path.symlink_to(loop.path)
    reader = await opened()
    await reader.aclose()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert path.exists()
    assert lvm.changes == []


async def test_what_somebody_else_has_open_stays_active_until_he_is_gone(opened, lvm, path):
    reader = await opened()
    lvm.set("open")
    await reader.aclose()
    await trio.testing.wait_all_tasks_blocked(0.3)
    assert path.exists()
    lvm.set("open", False)
    await (await opened()).aclose()
    await until(lambda: not path.is_symlink())
    assert lvm.changes == [UP, DOWN]


async def test_an_activation_that_fails_says_why(opened, lvm):
    lvm.set("fail")
    with pytest.raises(Unreachable, match="reload ioctl failed"):
        await opened()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert lvm.changes == [UP]  # it was not ours, and is not deactivated


@pytest.mark.parametrize("kind", ["thin", "thin-pool", "raid1", "cache", "mirror"])
async def test_what_writes_when_it_is_activated_is_not(opened, lvm, loop, kind):
    """A thin pool that is active on two machines destroys itself."""
    lvm.add("img-one-1", SIZE, kind=kind, target=loop.path)
    with pytest.raises(Busy, match=kind):
        await opened()
    assert lvm.changes == []


async def test_another_volume_of_the_name_is_not_activated(opened, lvm):
    with pytest.raises(Changed):
        await opened(revision=Revision(SIZE, "lv:other"))
    assert lvm.changes == []


async def test_a_volume_that_is_gone_is_not_there(opened, lvm, loop):
    lvm.volumes.clear()
    lvm.add("img-one-2", SIZE, target=loop.path)
    with pytest.raises(Missing):
        await opened()


async def test_a_wrong_length_is_another_version(opened, lvm, path):
    with pytest.raises(Changed, match="size"):
        await opened(revision=Revision(SIZE + 512, REVISION.etag))
    await until(lambda: lvm.changes == [UP, DOWN])


async def test_it_waits_for_opennebulas_lock(opened, lvm, locks, patient_clock):
    with open(locks / "tm-onelvm-vg-one-7.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with trio.open_nursery() as nursery:
            readers = []

            async def one():
                readers.append(await opened())

            nursery.start_soon(one)
            await trio.sleep(1)
            assert lvm.changes == []
            fcntl.flock(held, fcntl.LOCK_UN)
    assert lvm.changes == [UP]
    await readers[0].aclose()
    await until(lambda: len(lvm.changes) == 2)


async def test_a_lock_that_is_never_given_is_busy(opened, lvm, locks, patient_clock, monkeypatch):
    monkeypatch.setattr(activated, "LOCK_WAIT", 1.0)
    with open(locks / "tm-onelvm-vg-one-7.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="lock is held"):
            await opened()
    assert lvm.changes == []


async def test_the_lock_file_belongs_to_whom_the_directory_does(opened, locks):
    os.chown(locks, 12345, 12345)
    reader = await opened()
    found = os.stat(locks / "tm-onelvm-vg-one-7.lock")
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 12345, 0o644)
    await reader.aclose()


async def test_where_opennebula_keeps_no_locks_it_goes_without(opened, locks, lvm):
    locks.rmdir()
    await (await opened()).aclose()
    await until(lambda: len(lvm.changes) == 2)
    assert not locks.exists()


async def test_a_link_in_the_place_of_the_lock_is_not_followed(opened, locks, tmp_path, lvm):
    (locks / "tm-onelvm-vg-one-7.lock").symlink_to(tmp_path / "victim")
    await (await opened()).aclose()
    await until(lambda: len(lvm.changes) == 2)
    assert not (tmp_path / "victim").exists()


async def test_for_a_reader_who_gives_up_nothing_is_activated(
    opened, lvm, path, locks, patient_clock
):
    with open(locks / "tm-onelvm-vg-one-7.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with trio.move_on_after(1) as scope:
            await opened()
        assert scope.cancelled_caught
        fcntl.flock(held, fcntl.LOCK_UN)
        await trio.sleep(1)
    assert lvm.changes == []
    assert not path.is_symlink()


async def test_a_command_that_hangs_is_an_error_and_its_volume_is_deactivated_after(
    place, lvm, path, locks
):
    """lvchange has done its work and does not return."""
    lvm.set("hang")
    async with trio.open_nursery() as nursery:
        activations = Activations(nursery, 0.3, str(locks))
        with pytest.raises(TimedOut):
            await activations.open(NAME, str(path), REVISION.etag, None)
        lvm.set("hang", False)
        await until(lambda: lvm.changes == [UP, DOWN])
        nursery.cancel_scope.cancel()


async def test_at_the_end_of_the_mount_nothing_is_left_active(place, lvm, path, locks):
    async with trio.open_nursery() as nursery:
        reader = await Here(nursery).open(place(), REVISION, volatile=False)
        nursery.cancel_scope.cancel()
    assert not path.is_symlink()
    assert lvm.changes == [UP, DOWN]
    await reader.aclose()


async def test_a_bug_costs_one_opening(opened, lvm, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(activated, "looked_up", broken)
    with pytest.raises(NebfsError, match="ZeroDivisionError"):
        await opened()


@pytest.mark.parametrize("mode", ["active-only", "extents"])
async def test_an_active_volume_is_read_in_every_mode(opened, lvm, path, loop, data, mode):
    path.parent.mkdir(parents=True)
    path.symlink_to(loop.path)
    reader = await opened(mode=mode)
    assert await reader.pread(1, 2) == data[1:3]
    await reader.aclose()
    reader = await opened(mode=mode, volatile=True)
    loop.write_behind(0, b"new!")
    assert reader.warm(0, 4) is None
    assert await reader.pread(0, 4) == b"new!"
    await reader.aclose()


async def test_an_inactive_volume_that_may_not_be_activated_is_busy_with_the_remedy(opened, place):
    with pytest.raises(Busy, match=f"lvchange -K -ay {NAME}.*lvm_mode"):
        await opened(mode="active-only")
    for mode in ("active-only", "activate"):
        with pytest.raises(Busy):
            look_at(place(mode), 10)


async def test_the_kernel_says_which_volume_a_device_is(
    opened, path, loop, lvm, monkeypatch, place
):
    """What device mapper would say in sysfs is made up."""
    path.parent.mkdir(parents=True)
    path.symlink_to(loop.path)
    monkeypatch.setattr(here, "_etag_of", lambda fd: "lv:another")
    with pytest.raises(Changed, match="etag"):
        await opened(mode="active-only")
    assert look_at(place(), 4)[0] == Revision(SIZE, "lv:another")


def test_the_kernels_word_for_a_volume_is_read(tmp_path, loop, monkeypatch):
    said = tmp_path / "uuid"
    real = open
    monkeypatch.setattr(
        "builtins.open", lambda p, *a, **k: real(said if "/dm/" in str(p) else p, *a, **k)
    )
    fd = os.open(loop.path, os.O_RDONLY)
    for text, etag in [
        ("LVM-" + "G" * 32 + "V" * 32, "lv:" + "V" * 32),
        ("LVM-" + "G" * 32 + "V" * 32 + "-real", "lv:" + "V" * 32),
        ("mpath-3600a098", ""),
    ]:
        said.write_text(text + "\n")
        assert here._etag_of(fd) == etag
    said.unlink()
    assert here._etag_of(fd) == ""
    os.close(fd)


async def test_a_first_opening_that_is_given_up_does_not_keep_the_last_one_active(
    place, locks, lvm, path
):
    async with trio.open_nursery() as life:
        shop = Here(life)
        with trio.CancelScope() as scope:
            scope.cancel()
            await shop.open(place(), REVISION, volatile=False)
        assert scope.cancelled_caught
        await shop.open(place(), REVISION, volatile=False)
        assert path.is_symlink()
        life.cancel_scope.cancel()
    assert not path.is_symlink()


@pytest.mark.parametrize("_", range(6))  # who of those that are ended goes first is chance
async def test_an_opening_at_the_end_of_the_mount_leaves_no_volume_active(
    place, locks, lvm, path, monkeypatch, _
):
    async def opened(*args, **facts):
        life.cancel_scope.cancel()
        await trio.sleep_forever()

    monkeypatch.setattr(here, "_opened", opened)
    async with trio.open_nursery() as life:
        shop = Here(life)
        life.start_soon(lambda: shop.open(place(), REVISION, volatile=False))
    assert lvm.changes == [UP, DOWN]
    assert not path.is_symlink()
