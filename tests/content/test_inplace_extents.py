"""Volumes that are not active, read from the disk of a real volume group (a loop device).

Everything is real but that --driverloaded n makes the volumes: the kernel here has no device
mapper, and inactive is all that they can be.
"""

from __future__ import annotations

import os
import random

import pytest

from nebfs.content import lvm_report as report
from nebfs.content.layers import extents
from nebfs.content.layers.here import Here, look_at
from nebfs.errors import BadAnswer, Busy, Changed, Missing, NebfsError, Unsupported
from nebfs.model import Locator, Revision
from tests.disks import MIB, VolumeGroup

GROUP = "vg-one-7150"
EXTENT = 4 * MIB


@pytest.fixture
def group(tmp_path, monkeypatch):
    group = VolumeGroup(tmp_path, GROUP)
    for name, value in group.environment.items():
        monkeypatch.setenv(name, value)
    yield group
    group.close()


def place(volume="img-one-1", mode="extents"):
    options = (("volume", f"{GROUP}/{volume}"), ("mode", mode))
    return Locator("lvm", f"/dev/{GROUP}/{volume}", options)


@pytest.fixture
def opened(nursery):
    here = Here(nursery)

    async def opened(volume="img-one-1", revision=None):
        found = revision or look_at(place(volume), 0)[0]
        return await here.open(place(volume), found, volatile=False)

    return opened


@pytest.fixture
def scattered(group):
    """A volume in three parts, the second before the first on the disk; its bytes."""
    group.create("first", 2)
    group.create("img-one-1", 2)
    group.create("img-one-2", 1)
    group.remove("first")
    group.extend("img-one-1", 2, "0-1")
    group.extend("img-one-1", 2)
    places = group.extents("img-one-1")
    assert places != sorted(places)
    group.fill("img-one-2", 8)
    return group.fill("img-one-1", 7)


async def test_every_byte_is_where_it_was_put(scattered, opened, group):
    reader = await opened()
    assert reader.size == len(scattered) == 6 * EXTENT
    source = random.Random(2)
    spans = [(0, 1), (reader.size - 1, 1), (2 * EXTENT - 5, 10), (4 * EXTENT - 1, 2), (3, MIB)]
    spans += [(source.randrange(reader.size - MIB), source.randint(1, MIB)) for _ in range(9)]
    spans += [(EXTENT, 4 * EXTENT)]
    for offset, length in spans:
        assert await reader.pread(offset, length) == scattered[offset : offset + length]
    await reader.aclose()


async def test_a_look_gives_length_first_bytes_and_which_volume_it_is(scattered, group):
    revision, head = look_at(place(), 1024)
    uuid = group.run("lvs", "--noheadings", "-o", "lv_uuid", f"{GROUP}/img-one-1").strip()
    assert revision == Revision(6 * EXTENT, f"lv:{uuid.replace('-', '')}")
    assert head == scattered[:1024]


async def test_what_another_machine_writes_is_seen_at_the_next_read(scattered, opened, group):
    reader = await opened()
    assert await reader.pread(0, 4) == scattered[:4]
    group.disk.write_behind(group.extents("img-one-1")[0], b"new!")
    assert reader.warm(0, 4) is None
    assert await reader.pread(0, 4) == b"new!"
    await reader.aclose()


async def test_other_changes_of_the_group_do_not_disturb(scattered, opened, group):
    reader = await opened()
    group.create("img-one-3", 1)
    assert await reader.pread(0, 100) == scattered[:100]
    group.remove("img-one-3")
    assert await reader.pread(5 * EXTENT, 100) == scattered[5 * EXTENT :][:100]
    await reader.aclose()


async def test_a_volume_that_was_given_to_another_image_is_an_error_and_never_its_bytes(
    scattered, opened, group
):
    reader = await opened()
    group.remove("img-one-1")
    group.create("img-one-9", 6)
    group.fill("img-one-9", 99)
    with pytest.raises(Missing):
        await reader.pread(0, 100)
    assert "not there any more" in reader.facts().last_error
    await reader.aclose()


async def test_a_volume_made_anew_under_the_same_name_is_another_version(scattered, opened, group):
    listed = look_at(place(), 0)[0]
    reader = await opened()
    group.remove("img-one-1")
    group.create("img-one-1", 6)
    for _ in range(2):
        with pytest.raises(Changed):
            await reader.pread(0, 100)
    await reader.aclose()
    with pytest.raises(Changed):
        await opened(revision=listed)


async def test_a_volume_that_grows_is_another_version(scattered, opened, group):
    reader = await opened()
    group.extend("img-one-1", 1)
    with pytest.raises(Changed):
        await reader.pread(0, 100)
    await reader.aclose()


async def test_a_change_between_reading_and_looking_has_it_read_again(
    scattered, opened, group, monkeypatch
):
    reader = await opened()
    real = extents._Layout.read
    reads = []

    def read(self, length, offset):
        data = real(self, length, offset)
        reads.append(offset)
        if len(reads) == 1:
            group.create("img-one-3", 1)
        return data

    monkeypatch.setattr(extents._Layout, "read", read)
    assert await reader.pread(1, 2) == scattered[1:3]
    assert reads == [1, 1]
    monkeypatch.setattr(extents._Layout, "holds", lambda self: False)
    with pytest.raises(Busy, match="all the time"):
        await reader.pread(0, 1)
    await reader.aclose()


async def test_what_is_not_linear_is_refused(group, opened):
    group.run(
        "lvcreate", "--driverloaded", "n", "-an", "-y", "-Wn", "-Zn", "--type", "zero",
        "-l", "1", "-n", "img-one-1", GROUP,
    )  # fmt: skip
    with pytest.raises(Unsupported, match="not linear but zero"):
        await opened(revision=Revision(EXTENT))


async def test_a_copy_on_write_snapshot_is_no_linear_volume(group, opened, monkeypatch):
    """Its own segment is linear, and holds its store and not what it shows."""
    group.create("img-one-1", 1)
    real = report.volumes

    def snapshots(name, timeout):
        return {
            n: report.Volume(v.name, v.uuid, v.size, "swi" + v.attributes[3:], v.segments)
            for n, v in real(name, timeout).items()
        }

    monkeypatch.setattr(report, "volumes", snapshots)
    with pytest.raises(Unsupported, match="snapshot"):
        await opened(revision=Revision(EXTENT))


@pytest.mark.parametrize(
    ("volume", "words"),
    [("img-one-5", "not there any more"), ("img-one-1", "volume group is not on this machine")],
)
async def test_what_is_not_there_is_said(group, opened, volume, words):
    if volume == "img-one-1":
        group.run("vgremove", "-y", "--driverloaded", "n", GROUP)
    with pytest.raises(Missing, match=words):
        await opened(volume, Revision(EXTENT))


async def test_nothing_is_left_open(scattered, opened, group):
    before = len(os.listdir("/proc/self/fd"))
    reader = await opened()
    group.create("img-one-3", 1)
    await reader.pread(0, 10)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    await reader.aclose()
    with pytest.raises(NebfsError):
        await reader.pread(0, 10)
    with pytest.raises(Missing):
        await opened("img-one-5", Revision(1))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"report": 1}',
        '{"report":[{"seg":[{"lv_name":"x"}]}]}',
        '{"report":[{"seg":[{"lv_name":1}]}]}',
        "[" * 100_000,
    ],
)
def test_a_report_that_is_none_is_refused(tmp_path, monkeypatch, text):
    """A fake lvs."""
    (tmp_path / "said").write_text(text)
    fake = tmp_path / "lvs"
    fake.write_text(f"#!/bin/sh\nexec cat {tmp_path}/said\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BadAnswer):
        report.volumes("vg-one-1", 10)


@pytest.mark.parametrize("number", ["", "-1", "1.0", "9" * 30, "٣", "5000000000000000000"])
def test_a_number_that_is_none_is_refused(number):
    with pytest.raises(BadAnswer):
        report._number(number)


def test_without_lvm_that_is_said(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(report, "_SBIN", ())
    with pytest.raises(Unsupported, match="install lvm2"):
        report.volumes("vg-one-1", 10)


def test_a_command_that_hangs_is_given_up(tmp_path, monkeypatch):
    """A fake lvs that never answers, as one that waits for a disk."""
    fake = tmp_path / "lvs"
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(NebfsError, match="in time"):
        report.volumes("vg-one-1", 0.05)
