"""Backups kept by ``rsync``, made by qemu-img: on a real sshd, and mapped to this machine."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from dataclasses import replace

import pytest
import trio

from nebfs.datastores import DatastoreDrivers
from nebfs.datastores.rsync import RsyncDatastore
from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.sftp import Sftp
from nebfs.model import DatastoreType, Template
from tests.datastores.qcow2_files import path_of, paths_of, rename_backing, seen_in
from tests.datastores.rsync_pool import RUNS, VM, Repository, backup, increments
from tests.fetcher.sshd import USER, Sshd, keygen

THEIRS = "/nonexistent/one/datastores/1"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    home = tmp_path_factory.mktemp("sshd")
    key = keygen(home / "key")
    one = Sshd(home / "host", key)
    (home / "known").write_text(one.known)
    yield one, {"identity": str(key), "known-hosts": str(home / "known")}
    one.stop()


async def call(request):
    """Ask the transport, as the fetcher process does."""

    async def asked():
        transport = Sftp(FetcherSettings(connect_timeout=10.0, stall_timeout=10.0))
        try:
            return await transport.call(request)
        finally:
            await transport.aclose()

    return await trio.to_thread.run_sync(asyncio.run, asked())


@pytest.fixture(params=["here", "there"])
def far(request):
    return request.param == "there"


@pytest.fixture
def host(sshd):
    return Template((("RSYNC_HOST", sshd[0].host), ("RSYNC_USER", USER)))


@pytest.fixture
def place(far, host, base, datastore):
    """The datastore; on this machine under another name, or on a host."""
    if far:
        return datastore(driver="rsync", base_path=str(base), template=host)
    return datastore(driver="rsync", base_path="/nonexistent//one/datastores/1")


@pytest.fixture
def driver(far, base, sshd):
    async def nobody(request):
        raise AssertionError("it is here")

    if far:
        return RsyncDatastore(paths={}, call=call, settings=sshd[1])
    return RsyncDatastore(paths={THEIRS: str(base)}, call=nobody)


@pytest.fixture
def kept(base):
    return Repository(base)


@pytest.fixture
def disks(driver, place):
    async def disks(image):
        return {part.name: part for part in await driver.disks(place, image)}

    return disks


async def test_a_backup_is_a_directory_that_is_looked_at_when_opened(driver, place):
    (holding,) = await driver.holdings(place, [backup()])
    assert holding.deferred
    assert (holding.content, holding.trouble, holding.disks) == (None, None, ())


async def test_each_increment_is_the_disk_at_that_moment(disks, kept, tmp_path, far):
    kept.incremental(4)
    parts = await disks(backup(increments=increments(0, 1, 2, 3)))
    assert sorted(parts) == [
        *(f"disk.{disk}.{run}" for disk in (0, 2) for run in range(4)),
        *(f"vm.{run}" for run in range(4)),
    ]
    for (disk, run), data in kept.truth.items():
        part = parts[f"disk.{disk}.{run}"]
        assert part.date == 1_700_000_000 + run
        assert part.content.view == "raw"
        assert paths_of(part.content) == [f"disk.{disk}.{n}" for n in range(run, -1, -1)]
        assert seen_in(part.content, tmp_path) == data
    document = parts["vm.1"].content
    assert (document.format, document.view) == ("xml", "")
    assert path_of(document).read_bytes() == kept.document(1)
    assert parts["vm.0"].content.locator.transport == ("sftp" if far else "file")


async def test_the_first_run_that_is_kept_is_whole(disks, kept, tmp_path):
    kept.incremental(4, disks=(0,))
    image = backup(increments=increments(0, 1, 2, 3))
    was = (await disks(image))["disk.0.2"].content
    kept.flatten(0, 2)
    for run in (0, 1):
        shutil.rmtree(kept.directory(run))
    parts = await disks(replace(image, increments=increments(2, 3)))
    assert sorted(parts) == ["disk.0.2", "disk.0.3", "vm.2", "vm.3"]
    assert paths_of(parts["disk.0.3"].content) == ["disk.0.3", "disk.0.2"]
    for run in (2, 3):
        assert seen_in(parts[f"disk.0.{run}"].content, tmp_path) == kept.truth[0, run]
    assert parts["disk.0.2"].content.identity != was.identity


async def test_a_full_backup_is_its_files(disks, kept):
    kept.full(0)
    raw = kept.file(1, 0)
    raw.write_bytes(b"a raw disk" * 100)
    kept.document(0)
    parts = await disks(backup(disk_ids=(0, 1)))
    assert sorted(parts) == ["disk.0.0", "disk.1.0", "vm"]
    assert [parts[f"disk.{n}.0"].content.format for n in (0, 1)] == ["qcow2", "raw"]
    assert [parts[f"disk.{n}.0"].content.view for n in (0, 1)] == ["", ""]
    assert path_of(parts["disk.1.0"].content) == raw
    assert parts["disk.0.0"].date == 1_600_000_000


async def test_a_full_backup_that_was_pulled_names_a_server_that_is_gone(disks, kept, tmp_path):
    kept.full(0)
    rename_backing(kept.file(0, 0), "nbd+unix:///?socket=/var/lib/one/x.socket")
    content = (await disks(backup()))["disk.0.0"].content
    assert (content.view, content.backing) == ("raw", None)
    assert seen_in(content, tmp_path) == kept.truth[0, 0]


async def test_what_the_headers_say_does_not_count(disks, kept, tmp_path):
    kept.incremental(3, disks=(0,))
    rename_backing(kept.file(0, 2), "/etc/shadow")
    rename_backing(kept.file(0, 1), str(kept.file(0, 2)))
    rename_backing(kept.file(0, 0), str(kept.file(0, 1)))
    parts = await disks(backup(increments=increments(0, 1, 2)))
    for run in range(3):
        assert seen_in(parts[f"disk.0.{run}"].content, tmp_path) == kept.truth[0, run]


async def test_ceph_streams_are_given_as_they_are(disks, kept):
    (kept.directory(0) / "disk.0.rbd2").write_bytes(b"rbd image v2\n")
    (kept.directory(1) / "disk.0.1.rbdiff").write_bytes(b"rbd diff v1\n")
    parts = await disks(backup(format="rbd", increments=increments(0, 1)))
    assert {n: p.content.format for n, p in parts.items()} == {
        "disk.0.rbd2": "rbd2",
        "disk.0.1.rbdiff": "rbdiff",
    }
    assert path_of(parts["disk.0.rbd2"].content).read_bytes() == b"rbd image v2\n"


async def test_what_else_there_is_is_left_alone(disks, kept, base):
    kept.full(0)
    directory = kept.directory(0)
    (directory / "disk.tpm.0").write_bytes(b"state")
    (directory / "notes").write_text("x")
    (directory / "disk.3.0").symlink_to("/etc/shadow")
    os.mkfifo(directory / "disk.4.0")
    (directory / "disk.5.0").mkdir()
    parts = await disks(backup())
    assert sorted(parts) == ["disk.0.0", "disk.3.0", "disk.4.0", "disk.5.0", "disk.tpm.0"]
    for number, kind in ((3, "link"), (4, "pipe"), (5, "directory")):
        assert kind in parts[f"disk.{number}.0"].trouble.reason


async def test_a_lost_increment_breaks_what_follows_and_nothing_else(disks, kept, tmp_path):
    kept.incremental(4)
    shutil.rmtree(kept.directory(2))
    parts = await disks(backup(increments=increments(0, 1, 2, 3)))
    for disk in (0, 2):
        assert seen_in(parts[f"disk.{disk}.1"].content, tmp_path) == kept.truth[disk, 1]
        for run in (2, 3):
            trouble = parts[f"disk.{disk}.{run}"].trouble
            assert trouble.errno == errno.EIO
            assert "increment 2" in trouble.reason
    assert parts["vm.3"].content is not None


async def test_a_lost_file_breaks_what_follows_and_nothing_else(disks, kept, tmp_path):
    kept.incremental(3)
    kept.file(0, 1).unlink()
    parts = await disks(backup(increments=increments(0, 1, 2)))
    assert "increment 1" in parts["disk.0.1"].trouble.reason
    assert "increment 1" in parts["disk.0.2"].trouble.reason
    assert seen_in(parts["disk.2.2"].content, tmp_path) == kept.truth[2, 2]
    kept.file(2, 0).unlink()
    parts = await disks(backup(increments=increments(0, 1, 2)))
    assert {parts[f"disk.2.{run}"].trouble.errno for run in (1, 2)} == {errno.EIO}


async def test_a_disk_that_the_vm_got_later(disks, kept, tmp_path):
    kept.incremental(3, disks=(0,), finished=False)
    kept.full(7, 1)
    kept.increment(7, 2)
    kept.finish()
    parts = await disks(backup(increments=increments(0, 1, 2)))
    assert paths_of(parts["disk.7.2"].content) == ["disk.7.2", "disk.7.1"]
    assert seen_in(parts["disk.7.2"].content, tmp_path) == kept.truth[7, 2]


async def test_a_chain_that_starts_anew(disks, kept, tmp_path):
    kept.incremental(2, disks=(0,), finished=False)
    kept.full(0, 2)
    kept.increment(0, 3)
    kept.finish()
    ids = increments(0, 1, 2, 3)
    parts = await disks(backup(increments=(*ids[:2], replace(ids[2], full=True), ids[3])))
    assert paths_of(parts["disk.0.3"].content) == ["disk.0.3", "disk.0.2"]
    assert seen_in(parts["disk.0.3"].content, tmp_path) == kept.truth[0, 3]


async def test_a_disk_that_the_record_has_and_the_backup_has_not(disks, kept):
    kept.full(0)
    trouble = (await disks(backup(disk_ids=(0, 5))))["disk.5"].trouble
    assert trouble.errno == errno.EIO


async def test_nothing_of_the_backup_is_there(driver, place, kept, base):
    with pytest.raises(BadAnswer, match="no directory of the backup"):
        await driver.disks(place, backup())
    kept.full(0)
    kept.directory(0).rename(base / "elsewhere")
    (base / str(VM) / RUNS[0]).symlink_to(base / "elsewhere")
    with pytest.raises(BadAnswer):
        await driver.disks(place, backup())
    (base / str(VM)).rename(base / "vm")
    (base / str(VM)).symlink_to(base / "vm")
    (base / "vm" / RUNS[0]).unlink()
    (base / "elsewhere").rename(base / "vm" / RUNS[0])
    with pytest.raises(BadAnswer):
        await driver.disks(place, backup())


async def test_a_base_that_is_a_link_is_where_the_administrator_wants_it(
    sshd, host, kept, datastore, tmp_path, base
):
    kept.full(0)
    (tmp_path / "link").symlink_to(base)
    place = datastore(base_path=str(tmp_path / "link"), template=host)
    (part,) = await RsyncDatastore(paths={}, call=call, settings=sshd[1]).disks(place, backup())
    assert path_of(part.content) == kept.file(0, 0).resolve()


async def test_a_directory_with_too_many_files(driver, place, kept):
    kept.full(0)
    for number in range(300):
        (kept.directory(0) / f"disk.9.{number}").touch()
    with pytest.raises(BadAnswer):
        await driver.disks(place, backup())


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_ids": ()},
        {"vm_ids": (-1,)},
        {"source": ""},
        {"source": "-"},
        {"source": ".."},
        {"source": "../x"},
        {"source": "a/b"},
        {"source": "a\0b"},
        {"increments": (replace(increments(0)[0], source="../../etc"),)},
    ],
)
async def test_a_record_that_says_no_place(driver, place, changes):
    (holding,) = await driver.holdings(place, [backup(**changes)])
    assert holding.trouble.errno == errno.EIO
    with pytest.raises(BadAnswer):
        await driver.disks(place, backup(**changes))


@pytest.mark.parametrize("path", ["", "/", "relative"])
async def test_a_base_path_that_is_none(datastore, path):
    driver = RsyncDatastore(paths={})
    (holding,) = await driver.holdings(datastore(base_path=path), [backup()])
    assert "BASE_PATH" in holding.trouble.reason


# --- who is asked -----------------------------------------------------------------------------


class Host:
    """Says that a directory is there, and nothing in it."""

    def __init__(self, body=None, failure=None):
        self.body = body
        self.failure = failure
        self.requests = []

    async def __call__(self, request):
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        return CallAnswer(200, (), self.body or b'[[0, [], "/x"]]')


@pytest.mark.parametrize(
    ("template", "settings", "expected"),
    [
        ({"RSYNC_HOST": "h", "RSYNC_USER": "u"}, {}, "u@h"),
        ({"RSYNC_HOST": "h"}, {}, "oneadmin@h"),
        ({"RSYNC_HOST": "h"}, {"user": "reader"}, "reader@h"),
        ({"RSYNC_HOST": "h:22", "RSYNC_USER": "u"}, {"user": "reader"}, "u@h:22"),
        ({"RSYNC_HOST": "::1", "RSYNC_USER": "u"}, {}, "u@[::1]"),
    ],
)
async def test_who_logs_in_where(datastore, template, settings, expected):
    asked = Host()
    place = datastore(base_path="/b//108", template=Template(tuple(template.items())))
    await RsyncDatastore(paths={}, call=asked, settings=settings).disks(place, backup())
    (request,) = asked.requests
    assert (request.method, request.transport) == ("LIST", "sftp")
    assert request.url == f"sftp://{expected.partition('@')[2]}/b/108"
    assert f'"bridges": "{expected}"' in request.body.decode()
    assert f"/b/108/{VM}/{RUNS[0]}" in request.body.decode()


@pytest.mark.parametrize(
    "template",
    [{}, {"RSYNC_HOST": "-oProxyCommand=x"}, {"RSYNC_HOST": "h", "RSYNC_USER": "-l root"}],
)
async def test_without_a_usable_host_nobody_is_asked(datastore, template):
    asked = Host()
    place = datastore(template=Template(tuple(template.items())))
    with pytest.raises(Unsupported, match="RSYNC_HOST"):
        await RsyncDatastore(paths={}, call=asked).disks(place, backup())
    assert asked.requests == []


async def test_a_mapping_that_has_no_such_backup_leaves_it_to_the_host(datastore, base, tmp_path):
    asked = Host()
    place = datastore(base_path="/theirs/1", template=Template((("RSYNC_HOST", "h"),)))
    await RsyncDatastore(paths={"/theirs": str(tmp_path)}, call=asked).disks(place, backup())
    assert len(asked.requests) == 1


async def test_an_address_of_a_front_end_does_not_stand_for_the_host_of_backups(datastore):
    asked = Host()
    place = datastore(base_path="/theirs/1", template=Template((("RSYNC_HOST", "h"),)))
    await RsyncDatastore(paths={"/theirs": "sftp://f/x"}, call=asked).disks(place, backup())
    assert asked.requests[0].url == "sftp://h/theirs/1"


@pytest.mark.parametrize("failure", [Unreachable("no"), Refused("no")])
async def test_a_host_that_fails(datastore, failure):
    place = datastore(template=Template((("RSYNC_HOST", "h"),)))
    with pytest.raises(type(failure)):
        await RsyncDatastore(paths={}, call=Host(failure=failure)).disks(place, backup())


async def test_a_host_without_the_directory(datastore):
    place = datastore(template=Template((("RSYNC_HOST", "h"),)))
    with pytest.raises(BadAnswer):
        await RsyncDatastore(paths={}, call=Host(failure=Missing("no"))).disks(place, backup())


@pytest.mark.parametrize(
    "body",
    [
        b"5",
        b"{}",
        b"[]",
        b"[5]",
        b"[[0, []]]",
        b'[[0, [], "x"]]',
        b'[[0, [5], "/x"]]',
        b'[[0, [["a/b", "file", "", "", 1, 0, 0]], "/x"]]',
        b'[[0, [], "/x"], [0, [], "/x"]]',
        b"[[0, [" + b"[]," * 300 + b'[]], "/x"]]',
    ],
)
async def test_an_answer_that_makes_no_sense(datastore, body):
    place = datastore(template=Template((("RSYNC_HOST", "h"),)))
    with pytest.raises(BadAnswer):
        await RsyncDatastore(paths={}, call=Host(body)).disks(place, backup())


async def test_a_hundred_increments_take_two_questions(datastore):
    async def answer(request):
        asked.append(request)
        count = request.body.count(b"/42/")
        return CallAnswer(200, (), b"[" + b",".join([b'[0, [], "/x"]'] * count) + b"]")

    asked = []
    many = tuple(replace(increments(0)[0], id=n, source=f"{n:06x}") for n in range(100))
    place = datastore(template=Template((("RSYNC_HOST", "h"),)))
    await RsyncDatastore(paths={}, call=answer).disks(place, backup(increments=many))
    assert len(asked) == 2


async def test_it_is_in_the_registry(datastore):
    driver = DatastoreDrivers()("rsync")
    assert isinstance(driver, RsyncDatastore)
    assert await driver.holdings(datastore(type=DatastoreType.SYSTEM), [backup()]) == ()
