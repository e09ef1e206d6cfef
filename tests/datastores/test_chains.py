"""Snapshots and chains of images of ``fs``, made by qemu-img: here, and on a real sshd."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
from dataclasses import replace

import pytest
import trio

from nebfs.content.layers.qcow2_header import HEAD
from nebfs.datastores import entries
from nebfs.datastores.filesystem import FilesystemDatastore
from nebfs.errors import Refused
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import sftp_directories
from nebfs.fetcher.transports.sftp import Sftp
from nebfs.model import ImageState, Snapshot
from tests.datastores import qcow2_files
from tests.datastores.qcow2_files import Disk, create, path_of, paths_of, rename_backing, seen_in
from tests.fetcher.sshd import Sshd, keygen

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
def driver(far, base, sshd):
    if not far:
        return FilesystemDatastore(paths={THEIRS: str(base)})
    host, settings = sshd
    paths = {THEIRS: f"sftp://{host.bridge}{base}"}
    return FilesystemDatastore(paths=paths, call=call, settings=settings)


@pytest.fixture
def look(driver, datastore, image):
    """Ask the driver about one disk, whose record says `changes`."""

    async def look(disk, transfer="shared", others=(), **changes):
        place = datastore(base_path=THEIRS, transfer=transfer)
        facts = {"source": f"{THEIRS}/{disk.name}", **disk.record(), **changes}
        images = [image(1, **facts), *others]
        return (await driver.holdings(place, images))[0]

    return look


@pytest.fixture
def disk(base):
    return Disk(base)


def whole(holding, disk, tmp_path):
    """Check what the image is and was against what QEMU sees."""
    assert seen_in(holding.content, tmp_path) == disk.now
    before(holding, disk, tmp_path)


def before(holding, disk, tmp_path):
    assert [part.trouble for part in holding.snapshots] == [None] * len(disk.truth)
    for part, (number, data) in zip(holding.snapshots, disk.truth.items(), strict=True):
        assert (part.name, part.date) == (f"{number}-step {number}", 1_700_000_000 + number)
        assert seen_in(part.content, tmp_path) == data


@pytest.mark.parametrize("absolute", [False, True])
async def test_a_chain_of_shared_or_qcow2(look, disk, tmp_path, absolute):
    disk.shared(3, absolute)
    holding = await look(disk)
    assert paths_of(holding.content) == ["3", "2", "1", disk.name]
    assert holding.content.view == "raw"
    assert [paths_of(p.content)[0] for p in holding.snapshots] == [disk.name, "1", "2"]
    assert holding.snapshots[0].content.view == ""
    whole(holding, disk, tmp_path)


async def test_what_is_known_of_each_file_is_that_files(look, disk, far, base):
    disk.shared(1)
    holding = await look(disk)
    for content in (holding.content, holding.content.backing):
        found = path_of(content).stat()
        modified = found.st_mtime_ns
        if far:
            modified = modified // 10**9 * 10**9
        assert content.revision.size == found.st_size
        assert content.revision.modified == str(modified)
        assert content.revision.etag == ("" if far else f"{found.st_dev}:{found.st_ino}")
        assert content.allocated == (None if far else found.st_blocks * 512)
    assert holding.content.format == "qcow2"


async def test_names_of_another_time_and_place_still_mean_the_images_own_files(
    look, disk, tmp_path
):
    disk.shared(3)
    truth = disk.now
    rename_backing(disk.snap / "3", "/var/lib/one//datastores/0/42/disk.0.snap/2")
    rename_backing(disk.snap / "2", f"/old/place/{disk.name}.snap/1")
    (disk.snap / "0").unlink()
    (disk.snap / "0").symlink_to(f"/old/place/{disk.name}")
    holding = await look(disk)
    assert paths_of(holding.content) == ["3", "2", "1", disk.name]
    assert seen_in(holding.content, tmp_path) == truth


async def test_a_chain_without_its_links(look, disk, tmp_path):
    disk.shared(2)
    truth = disk.now
    rename_backing(disk.snap / "1", f"../{disk.name}")
    (disk.snap / "0").unlink()
    (disk.snap / disk.snap.name).unlink()
    holding = await look(disk, snapshots=disk.snapshots[1:])
    assert paths_of(holding.content) == ["2", "1", disk.name]
    assert seen_in(holding.content, tmp_path) == truth


async def test_a_chain_of_local(look, disk, tmp_path):
    disk.local(3)
    holding = await look(disk, transfer="local")
    assert paths_of(holding.content) == ["3", "2", "1", "0"]
    whole(holding, disk, tmp_path)


async def test_images_without_a_file_do_not_stand_in_the_way(look, disk, image):
    disk.local(2)
    others = [image(2, source=""), image(3, source=f"{THEIRS}/")]
    holding = await look(disk, transfer="local", others=others)
    assert paths_of(holding.content) == ["2", "1", "0"]


async def test_what_the_link_of_local_says_counts_not_the_highest_number(look, disk, tmp_path):
    disk.local(2)
    create(disk.snap / "7", "0")
    disk.source.unlink()
    disk.source.symlink_to(f"/other/host/{disk.snap.name}/2")
    holding = await look(disk, transfer="local")
    assert paths_of(holding.content) == ["2", "1", "0"]


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
@pytest.mark.parametrize("transfer", ["ssh", "shared"])
async def test_copies(look, disk, tmp_path, kind, transfer):
    disk.copies(2, kind)
    if kind == "qcow2" and transfer == "shared":
        transfer = "local"
    holding = await look(disk, transfer=transfer, format=kind)
    assert paths_of(holding.content) == [disk.name]
    assert holding.content.view == ""
    assert holding.content.format == kind
    if kind == "qcow2":
        assert seen_in(holding.content, tmp_path) == qcow2_files.disk_in(disk.source)
        before(holding, disk, tmp_path)
        return
    for part, data in zip(holding.snapshots, disk.truth.values(), strict=True):
        assert path_of(part.content).read_bytes() == data
        assert part.content.view == ""


async def test_reverted_and_flattened_it_is_another_content(look, disk, tmp_path):
    disk.shared(2)
    before_it = (await look(disk)).content
    disk.revert(0)
    states = tuple(replace(one, active=one.id == 0) for one in disk.snapshots)
    reverted = await look(disk, transfer="qcow2", snapshots=states, current_base=0)
    assert paths_of(reverted.content) == ["2", disk.name]
    assert seen_in(reverted.content, tmp_path) == disk.truth[0]
    assert reverted.content.identity != before_it.identity
    before(reverted, disk, tmp_path)
    disk.flatten(1)
    flat = await look(disk, snapshots=(), current_base=-1, next_snapshot=2)
    assert paths_of(flat.content) == [disk.name]
    assert flat.content.view == ""
    assert seen_in(flat.content, tmp_path) == disk.truth[1]
    assert flat.content.identity != reverted.content.backing.identity
    assert flat.snapshots == ()


async def test_a_revert_within_one_second_is_seen_by_the_records(look, disk):
    disk.shared(2)
    old = (await look(disk)).content
    new = (await look(disk, current_base=0)).content
    assert new.revision == old.revision
    assert new.identity != old.identity


async def test_a_file_that_a_running_vm_has_merged(look, disk, tmp_path):
    disk.shared(3)
    truth = disk.now
    # Snapshot 1 deleted: what was in 2 is in 1 now, and 3 is over 1.
    merged = disk.snap / "merged"
    qcow2_files.run("qemu-img", "convert", "-O", "qcow2", disk.snap / "2", merged)
    merged.replace(disk.snap / "1")
    (disk.snap / "2").unlink()
    (disk.snap / "2.current").write_text(f"/var/lib/one/datastores/1/{disk.snap.name}/1\n")
    first, _, third = disk.snapshots
    holding = await look(disk, snapshots=(first, third))
    # 3 still says 2.
    assert paths_of(holding.content) == ["3", "1"]
    assert seen_in(holding.content, tmp_path) == truth
    assert [p.name for p in holding.snapshots] == ["0-step 0", "2-step 2"]
    assert seen_in(holding.snapshots[1].content, tmp_path) == disk.truth[2]


async def test_a_persistent_image_without_snapshots_is_its_file(look, disk, far, monkeypatch):
    disk.shared(0)

    def refuse(*_):
        raise AssertionError("it was opened")

    monkeypatch.setattr(entries, "_read", refuse)
    monkeypatch.setattr(sftp_directories.Reader, "_read", refuse)
    holding = await look(disk)
    assert paths_of(holding.content) == [disk.name]
    assert (holding.content.view, holding.content.format) == ("", "qcow2")
    assert holding.content.version == ""
    assert holding.snapshots == ()


async def test_snapshots_whose_files_are_not_there(look, disk, base):
    create(disk.source)
    disk.took(0, b"")
    holding = await look(disk)
    assert holding.content.view == ""
    (part,) = holding.snapshots
    assert part.trouble.errno == errno.EIO
    assert "no snapshots" in part.trouble.reason
    disk.snap.mkdir()
    (part,) = (await look(disk)).snapshots
    assert "not there" in part.trouble.reason


async def test_the_highest_file_counts_when_the_first_snapshot_is_gone(look, disk, tmp_path):
    disk.shared(1)
    truth = disk.now
    qcow2_files.run("qemu-img", "rebase", "-q", "-b", "", disk.snap / "1")
    (disk.snap / "0").unlink()
    holding = await look(disk, snapshots=(), next_snapshot=1)
    assert paths_of(holding.content) == ["1"]
    assert seen_in(holding.content, tmp_path) == truth


# --- what is wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("{snap}/2", errno.EIO, "in a circle"),
        ("{snap}/3", errno.EIO, "in a circle"),
        ("{snap}/9", errno.EIO, "not there"),
        ("9", errno.EIO, "not there"),
        ("{snap}/..", errno.EIO, "not there"),
        ("{snap}/{snap}", errno.EIO, "in a circle|leads to itself|not there"),
        ("/etc/shadow", errno.EACCES, "outside"),
        ("/etc/1", errno.EACCES, "outside"),
        ("../../1", errno.EACCES, "outside"),
        ("/1", errno.EACCES, "outside"),
        ("../other.snap/1", errno.EACCES, "another image"),
        ('json:{{"driver":"file","filename":"/etc/shadow"}}', errno.EACCES, "no file"),
        ("nbd://host/1", errno.EACCES, "no file"),
        ("file:1", errno.EACCES, "no file"),
        ("x" * 300, errno.EIO, "not there"),
    ],
)
async def test_a_header_that_leads_astray(look, disk, image, name, number, words):
    disk.shared(3)
    rename_backing(disk.snap / "2", name.format(snap=disk.snap.name))
    holding = await look(disk, others=[image(2, source=f"{THEIRS}/other")])
    assert holding.content is None
    assert holding.trouble.errno == number
    assert any(one in holding.trouble.reason for one in words.split("|"))
    assert len(holding.trouble.reason) < 300
    # What does not build on it is well.
    assert [part.trouble is None for part in holding.snapshots] == [True, True, False]


@pytest.mark.parametrize(
    ("target", "number", "words"),
    [
        ("{snap}/2", errno.EIO, "itself"),
        ("/etc/shadow", errno.EACCES, "outside"),
        ("../../2", errno.EACCES, "outside"),
        ("{snap}/9", errno.EIO, "not there"),
        (".", errno.EIO, "not there"),
    ],
)
async def test_a_link_that_leads_astray(look, disk, target, number, words):
    disk.shared(2)
    (disk.snap / "2").unlink()
    (disk.snap / "2").symlink_to(target.format(snap=disk.snap.name))
    holding = await look(disk)
    assert holding.trouble.errno == number
    assert words in holding.trouble.reason
    assert all(part.content is not None for part in holding.snapshots)


async def test_the_image_itself_as_a_link_out_of_the_datastore(look, disk, base):
    (base.parent / "secret").write_text("secret")
    disk.local(1)
    disk.source.unlink()
    disk.source.symlink_to("../secret")
    assert (await look(disk, transfer="local")).trouble.errno == errno.EACCES


async def test_a_loop_of_the_image_and_its_first_snapshot(look, disk):
    disk.shared(1)
    disk.source.unlink()
    disk.source.symlink_to(f"{disk.snap.name}/0")
    holding = await look(disk, transfer="local")
    assert holding.trouble.errno == errno.EIO
    assert "itself" in holding.trouble.reason


async def test_what_is_no_file_is_not_opened(look, disk):
    disk.shared(1)
    (disk.snap / "1").unlink()
    os.mkfifo(disk.snap / "1")
    (disk.snap / "5").mkdir()
    holding = await look(disk)
    assert holding.trouble.errno == errno.EOPNOTSUPP
    assert "directory" in holding.trouble.reason
    (disk.snap / "5").rmdir()
    assert "pipe" in (await look(disk)).trouble.reason


async def test_a_directory_with_too_many_files(look, disk):
    disk.shared(1)
    for number in range(300):
        (disk.snap / f"x{number}").touch()
    holding = await look(disk)
    assert "too many" in holding.trouble.reason
    assert "too many" in holding.snapshots[0].trouble.reason


async def test_a_chain_that_is_a_link_is_none(look, disk, tmp_path):
    disk.shared(1)
    disk.snap.rename(tmp_path / "elsewhere")
    disk.snap.symlink_to(tmp_path / "elsewhere")
    holding = await look(disk)
    assert paths_of(holding.content) == [disk.name]


async def test_the_bytes_of_a_raw_disk_are_never_taken_for_a_header(look, disk):
    disk.copies(1, "raw")
    for path in (disk.source, disk.snap / "0"):
        create(path)
        rename_backing(path, "/etc/shadow")
    holding = await look(disk, format="raw")
    assert paths_of(holding.content) == [disk.name]
    assert holding.content.view == ""
    assert holding.snapshots[0].content.view == ""


async def test_a_header_of_nonsense_is_that_images_trouble(look, disk):
    disk.shared(1)
    (disk.snap / "1").write_bytes(b"QFI\xfb" + b"\xff" * 2000)
    holding = await look(disk)
    assert holding.content is None
    assert holding.trouble.errno in {errno.EIO, errno.EOPNOTSUPP}
    (disk.snap / "1").write_bytes(b"QFI\xfb")
    assert (await look(disk)).content is None


async def test_a_file_of_another_format_than_its_overlay_says_is_not_guessed(look, disk):
    disk.shared(2)
    qcow2_files.run(
        "qemu-img", "rebase", "-u", "-F", "raw", "-b", f"{disk.snap.name}/1", disk.snap / "2"
    )
    holding = await look(disk)
    assert holding.trouble.errno == errno.EOPNOTSUPP
    assert "another format" in holding.trouble.reason


async def test_a_raw_file_beneath_qcow2_files(look, disk, tmp_path):
    disk.snap.mkdir()
    disk.source.write_bytes(random.Random(1).randbytes(qcow2_files.SIZE))
    create(disk.snap / "1", f"../{disk.name}", kind="raw")
    disk.written(disk.snap / "1")
    create(disk.snap / "2", "1")
    (disk.snap / disk.snap.name).symlink_to(".")
    holding = await look(disk)
    assert paths_of(holding.content) == ["2", "1", disk.name]
    assert holding.content.backing.backing.view == ""
    assert seen_in(holding.content, tmp_path) == disk.now


async def test_a_busy_image_says_so_of_its_snapshots_too(look, disk):
    disk.shared(1)
    holding = await look(disk, state=ImageState.LOCKED)
    assert holding.trouble.errno == errno.EBUSY
    assert [part.trouble.errno for part in holding.snapshots] == [errno.EBUSY]


async def test_a_snapshots_name_is_as_opennebula_has_it(look, disk):
    disk.shared(1)
    nameless = Snapshot(0, "", 5, 1, -1, True)
    holding = await look(disk, snapshots=(nameless,))
    assert [part.name for part in holding.snapshots] == ["0"]


async def test_many_chains_take_few_questions(driver, datastore, image, base, far, monkeypatch):
    disk = Disk(base).shared(2)
    copies = []
    for number in range(2, 60):
        copy = Disk(base, f"{number:032x}")
        shutil.copy(disk.source, copy.source)
        shutil.copytree(disk.snap, copy.snap, symlinks=True)
        (copy.snap / disk.snap.name).rename(copy.snap / copy.snap.name)
        (copy.snap / "0").unlink()
        (copy.snap / "0").symlink_to(copy.source)
        copies.append(image(number, source=f"{THEIRS}/{copy.name}", **disk.record()))
    asked = []
    if far:
        real = driver._call

        async def counted(request):
            asked.append(request)
            return await real(request)

        driver._call = counted
    holdings = await driver.holdings(datastore(base_path=THEIRS, transfer="shared"), copies)
    assert all(paths_of(h.content)[:2] == ["2", "1"] for h in holdings)
    assert len({paths_of(h.content)[2] for h in holdings}) == len(copies)
    assert len(asked) == int(far)


@pytest.mark.parametrize("unreadable", ["1", "2"])
async def test_a_file_that_may_not_be_read_is_its_images_trouble(
    look, disk, monkeypatch, unreadable
):
    disk.shared(2)
    # Without the links only the newest file tells that it is a chain.
    (disk.snap / "0").unlink()
    (disk.snap / disk.snap.name).unlink()
    rename_backing(disk.snap / "1", disk.name)
    read, read_far = entries._read, sftp_directories.Reader._read

    def refused(at, fd):
        if at == unreadable:
            raise PermissionError(errno.EACCES, "no")
        return read(at, fd)

    async def refused_far(reader, path):
        if path.endswith(f"/{unreadable}"):
            raise Refused("no")
        return await read_far(reader, path)

    monkeypatch.setattr(entries, "_read", refused)
    monkeypatch.setattr(sftp_directories.Reader, "_read", refused_far)
    holding = await look(disk)
    assert holding.trouble.errno == errno.EACCES
    assert "may not be read" in holding.trouble.reason
    second = holding.snapshots[1]
    assert (second.trouble is None) == (unreadable == "2")


def test_the_two_ends_agree_on_what_they_look_at():
    assert (entries.MOST, HEAD) == (sftp_directories.MOST, sftp_directories.HEAD)
    assert entries.KINDS == sftp_directories.KINDS
