"""The transport ``restic``: repositories on this machine, made by restic itself."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import subprocess
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nebfs.errors import BadAnswer, Changed, Damaged, Missing, Refused, Unsupported
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.transports import restic_places, restic_repository
from nebfs.fetcher.transports.restic_places import FilePlace
from nebfs.fetcher.transports.restic_stores import Directory
from nebfs.model import Locator, Revision
from tests.datastores.restic_pool import PASSWORD, Restic, packs
from tests.fetcher.restic_asking import (
    KNOWN,
    QUICK,
    SLOT,
    Reads,
    bring,
    locator,
    look,
    no_waiting,  # noqa: F401 - a fixture
    run,
)

SIZE = (12 << 20) + 777


@pytest.fixture(scope="module", params=[2, 1], ids=["version 2", "version 1"])
def made(request, tmp_path_factory):
    """A repository with one backup of a disk, half of which can be compressed."""
    home = tmp_path_factory.mktemp("restic")
    directory = home / "datastores/0/42/backup"
    directory.mkdir(parents=True)
    disk = directory / "disk.0.0"
    random_half = random.Random(5).randbytes(SIZE // 2)
    zeros = bytes(4 << 20)
    text = b"".join(b"line %d\n" % n for n in range(1 << 20))
    disk.write_bytes((random_half + zeros + text)[:SIZE])
    (directory / "vm.xml").write_bytes(b"PFZNPjwvVk0+\n")
    (directory / "empty").write_bytes(b"")
    (directory / "link").symlink_to("vm.xml")
    restic = Restic(home / "repository", home).init(request.param)
    snapshot = restic.backup(disk, directory / "vm.xml", directory / "empty", directory / "link")
    return SimpleNamespace(
        home=home, restic=restic, snapshot=snapshot, disk=disk, path=home / "repository"
    )


@pytest.fixture
def repository(made, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(made.path, tmp_path / "repository")
    facts = {**vars(made), "path": tmp_path / "repository"}
    facts["restic"] = Restic(tmp_path / "repository", tmp_path)
    return SimpleNamespace(**facts, address=f"file://{tmp_path}/repository")


@pytest.fixture
def target(make_target, repository):
    return make_target(repository.disk.read_bytes(), SLOT)


def read(repository, target, *ranges, settings=QUICK, options=KNOWN, **asked):
    """Look the disk up, and fetch slots of it."""

    async def use(transport):
        (files,) = await look(transport, repository.address, repository.snapshot, options=options)
        where = locator(repository.address, files["disk.0.0"], options)
        return await bring(transport, where, target, *ranges, **asked)

    return run(use, settings)


ALL = (0, SIZE // SLOT + 1)


def test_a_disk_is_what_was_backed_up(repository, target):
    revision, _ = read(repository, target, ALL)
    assert (revision.size, revision.ranges) == (SIZE, True)
    assert target.slots == set(range(*ALL))
    target.check()


def test_a_snapshot_has_the_files_that_it_was_made_of(repository, make_target):
    async def use(transport):
        (files,) = await look(transport, repository.address, repository.snapshot)
        assert set(files) == {"disk.0.0", "vm.xml", "empty", "link"}
        found = {}
        for name in ("vm.xml", "empty"):
            target = make_target((repository.disk.parent / name).read_bytes(), SLOT)
            where = locator(repository.address, files[name])
            found[name], _ = await bring(transport, where, target, (0, 1))
            target.check()
        with pytest.raises(Missing):
            await bring(transport, locator(repository.address, files["link"]), target, (0, 1))
        return found

    found = run(use)
    assert (found["vm.xml"].size, found["empty"].size) == (13, 0)


def test_a_read_in_the_middle_touches_the_blob_that_it_is_in(repository, target, monkeypatch):
    reads = Reads(monkeypatch, Directory)

    async def use(transport):
        (files,) = await look(transport, repository.address, repository.snapshot)
        where = locator(repository.address, files["disk.0.0"])
        revision, _ = await bring(transport, where, target, (0, 1))
        unlocked, file = await transport._files.at(FilePlace.at(where.address, where.options))
        number = len(file.ends) // 2
        identity = file.identities[32 * number : 32 * number + 32]
        slot = int(file.ends[number - 1]) // SLOT + 1
        spot = (await unlocked._known()).spots(identity)[0]
        del reads.paths[:]
        reads.bytes = 0
        for at in (slot, slot + 1):
            await bring(transport, where, target, (at, at + 1), expected=revision)
        return reads.bytes, spot.length

    touched, length = run(use)
    assert touched == length < 9 << 20
    assert len(target.slots) == 3
    target.check()


def test_neighbours_come_with_one_read_and_one_waiter_after_the_other(
    repository, target, monkeypatch
):
    reads = Reads(monkeypatch, Directory)

    async def use(transport):
        (files,) = await look(transport, repository.address, repository.snapshot)
        where = locator(repository.address, files["disk.0.0"])
        revision, _ = await bring(transport, where, target)
        del reads.paths[:]
        _, early = await bring(
            transport, where, target, ALL, expected=revision, wanted=(5 << 20, (5 << 20) + 4096)
        )
        return early

    early = run(use)
    assert early  # by itself, and perhaps again when its turn came
    assert set(early) == {(5 << 20, target.content[5 << 20 :][:4096])}
    target.check()
    blobs = SIZE >> 20
    assert len(reads.paths) < blobs


def test_the_loop_goes_on_while_the_processor_works(repository, target, monkeypatch):
    """What takes long is done in other threads: the password, the blobs, the documents."""
    seen = {}

    def noted(name, work):
        def wrapper(*args, **kwargs):
            seen.setdefault(name, set()).add(threading.get_ident())
            return work(*args, **kwargs)

        return wrapper

    for module, name in (
        (restic_places, "unlocked"),
        (restic_repository, "opened"),
        (restic_repository, "unpacked"),
        (restic_repository.documents, "read_tree"),
        (restic_repository.documents, "read_index"),
    ):
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    read(repository, target, ALL)
    assert set(seen) == {"unlocked", "opened", "unpacked", "read_tree", "read_index"}
    assert threading.get_ident() not in set().union(*seen.values())


def test_repositories_that_nobody_used_for_long_are_let_go(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(restic_places, "MAX_REPOSITORIES", 1)
    other = tmp_path / "other"
    shutil.copytree(repository.path, other)

    async def use(transport):
        for address in (repository.address, f"file://{other}", repository.address):
            (files,) = await look(transport, address, repository.snapshot)
            assert "disk.0.0" in files
            kept = transport._repositories._kept
            assert [place.address for place in kept] == [address]

    run(use)


def test_many_who_wait_for_one_repository_unlock_it_once(repository, target, monkeypatch):
    tried = []
    unlock = restic_places.unlocked
    monkeypatch.setattr(
        restic_places, "unlocked", lambda *args: tried.append(args) or unlock(*args)
    )

    async def use(transport):
        asking = [look(transport, repository.address, repository.snapshot) for _ in range(5)]
        first = asyncio.create_task(asking.pop())
        await asyncio.sleep(0)
        first.cancel()  # one that gives up does not take it from the others
        found = await asyncio.gather(*asking)
        where = locator(repository.address, found[0][0]["disk.0.0"])
        await asyncio.gather(*(bring(transport, where, target, (n, n + 1)) for n in range(4)))
        return found

    found = run(use)
    target.check()
    assert len(found) == 4
    assert len(tried) == 1


def test_another_version_than_the_one_expected_is_not_written(repository, target):
    with pytest.raises(Changed):
        read(repository, target, ALL, expected=Revision(SIZE, etag="another"))
    target.check_untouched()


def test_nothing_is_written_and_no_lock_stands_in_the_way(repository, target):
    locks = repository.path / "locks"
    (locks / ("0" * 64)).write_bytes(b"somebody has locked it")

    def everything():
        return {
            path: (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in [repository.path, *repository.path.rglob("*")]
        }

    before = everything()
    read(repository, target, ALL)
    assert everything() == before


def test_the_wrong_password_is_said_to_be_wrong_and_not_tried_twice(repository, target):
    async def use(transport):
        for options in ({"password": "canary-2"}, {"password": "canary-2"}):
            with pytest.raises(Refused) as caught:
                await look(transport, repository.address, repository.snapshot, options=options)
        assert "asked a moment ago" in str(caught.value)
        return str(caught.value)

    said = run(use)
    assert "RESTIC_PASSWORD of the datastore's template is not" in said
    assert "encrypted" in said
    assert f'repository-password under ["{repository.address.rpartition("/")[0]}"]' in said
    assert "canary-2" not in said


def test_without_a_password_the_remedy_is_said(repository, target):
    with pytest.raises(Refused, match=r"no password .* repository-password under"):
        read(repository, target, ALL, options={})


@pytest.fixture
def credentials(tmp_path):
    def write(text):
        path = tmp_path / "credentials.toml"
        path.write_text(text)
        path.chmod(0o600)
        return replace(QUICK, credentials_file=str(path))

    return write


def test_the_file_of_credentials_counts_before_the_template(
    repository, target, credentials, tmp_path
):
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    settings = credentials(f'["file://{tmp_path}"]\nrepository-password-file = "password"\n')
    read(repository, target, ALL, settings=settings, options={"password": "wrong"})
    target.check()


def test_a_wrong_password_in_the_file_of_credentials_is_called_that(
    repository, target, credentials, tmp_path
):
    settings = credentials(f'["file://{tmp_path}"]\nrepository-password = "canary-wrong"\n')
    with pytest.raises(Refused, match="of the credentials file") as caught:
        read(repository, target, ALL, settings=settings)
    assert "canary" not in str(caught.value)


def test_what_is_no_repository_is_missing(repository, target):
    shutil.rmtree(repository.path / "keys")
    with pytest.raises(Missing, match="no repository"):
        read(repository, target, ALL)


def test_a_snapshot_that_is_not_there_is_its_own_trouble(repository):
    async def use(transport):
        return await look(transport, repository.address, "00000000", repository.snapshot)

    missing, files = run(use)
    assert missing == errno.ENOENT
    assert "disk.0.0" in files


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_bit_that_flips_is_an_error_and_never_a_wrong_byte(repository, target, where):
    pack = packs(repository.path)[0]
    data = bytearray(pack.read_bytes())
    # The very first blob may be of a small file; the header at the end is not read at all.
    at = {"first": 1000, "middle": len(data) // 2, "last": len(data) * 9 // 10}[where]
    data[at] ^= 0x10
    pack.chmod(0o600)
    pack.write_bytes(data)
    with pytest.raises(Damaged):
        read(repository, target, ALL)
    assert target.slots < set(range(*ALL))
    target.check()


def test_a_pack_that_is_cut_off_is_damaged(repository, target):
    pack = packs(repository.path)[0]
    pack.chmod(0o600)
    os.truncate(pack, pack.stat().st_size // 2)
    with pytest.raises(Damaged, match="cut off"):
        read(repository, target, ALL)
    target.check()


def test_a_pack_that_is_gone_is_missing(repository, target):
    packs(repository.path)[0].unlink()
    with pytest.raises(Missing):
        read(repository, target, ALL)
    target.check()


@pytest.mark.parametrize("directory", ["index", "snapshots"])
def test_a_damaged_document_is_never_believed(repository, target, directory):
    (document,) = (repository.path / directory).iterdir()
    data = bytearray(document.read_bytes())
    data[len(data) // 2] ^= 1
    document.chmod(0o600)
    document.write_bytes(data)

    async def use(transport):
        return await look(transport, repository.address, repository.snapshot)

    if directory == "snapshots":
        assert run(use) == [errno.EIO]
    else:
        with pytest.raises(Damaged):
            run(use)


def test_a_link_or_a_pipe_in_the_place_of_a_pack_holds_nobody(repository, target):
    for make in (os.mkfifo, lambda path: os.symlink(repository.disk, path)):
        pack = packs(repository.path)[0]
        kept = pack.rename(pack.with_suffix(".kept"))
        make(pack)
        with pytest.raises(BadAnswer):
            read(repository, target, ALL)
        pack.unlink()
        kept.rename(pack)


def test_blobs_that_were_moved_by_a_prune_are_found_again(tmp_path, make_target, monkeypatch):
    monkeypatch.setattr(restic_places, "KEPT_BLOBS", 9 << 20)
    files = tmp_path / "backup"
    files.mkdir()
    common = random.Random(1).randbytes(8 << 20)
    disks = []
    for number in range(2):
        disk = files / f"disk.0.{number}"
        own = random.Random(10 + number).randbytes(6 << 20)
        # Each new part between old ones, so that packs have blobs of both.
        disk.write_bytes(common[: 4 << 20] + own + common[4 << 20 :])
        disks.append(disk)
    restic = Restic(tmp_path / "repository", tmp_path).init()
    snapshots = [restic.backup(disk) for disk in disks]
    address = f"file://{tmp_path}/repository"
    target = make_target(disks[1].read_bytes(), SLOT)
    before = set(packs(tmp_path / "repository"))

    async def use(transport):
        first, second = await look(transport, address, *snapshots)
        where = locator(address, second["disk.0.1"])
        gone = locator(address, first["disk.0.0"])
        revision, _ = await bring(transport, where, target, (0, 1))
        restic.run("forget", "--prune", "--max-unused", "0", snapshots[0])
        assert set(packs(tmp_path / "repository")) != before
        await bring(transport, where, target, (1, 112), expected=revision)
        with pytest.raises(Missing):
            await bring(transport, gone, make_target(disks[0].read_bytes(), SLOT), (0, 112))

    run(use)
    assert len(target.slots) == 112
    target.check()


def test_a_backup_that_is_made_meanwhile_is_found(repository, make_target):
    later = repository.disk.parent / "disk.0.1"
    later.write_bytes(b"a later one " * 100_000)
    target = make_target(later.read_bytes(), SLOT)

    async def use(transport):
        await look(transport, repository.address, repository.snapshot)
        snapshot = repository.restic.backup(later)
        (files,) = await look(transport, repository.address, snapshot)
        await bring(transport, locator(repository.address, files["disk.0.1"]), target, (0, 10))

    try:
        run(use)
    finally:
        later.unlink()
    target.check()


def test_the_head_of_a_qcow2_disk_is_told(tmp_path):
    files = tmp_path / "backup"
    files.mkdir()
    disk = files / "disk.3.7"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "nbd:unix:/gone", "-F", "raw"]
    subprocess.run([*argv, disk, "1M"], check=True)
    restic = Restic(tmp_path / "repository", tmp_path).init()
    snapshot = restic.backup(files)  # a directory stands for what is in it
    address = f"file://{tmp_path}/repository"

    async def use(transport):
        return (await look(transport, address, snapshot))[0]

    assert set(run(use)) == {"disk.3.7"}


@pytest.mark.parametrize(
    "address", ["gopher://x/y/trees/{tree}/a", "file:///x/trees/{tree}", "file:///x/trees/ab/a"]
)
def test_an_address_that_names_no_file_is_refused(make_target, address):
    where = Locator("restic", address.format(tree="0" * 64), tuple(KNOWN.items()))
    target = make_target(b"x", SLOT)
    with pytest.raises(Unsupported):
        run(lambda transport: bring(transport, where, target, (0, 1)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"snapshots": ["../../etc"]}',
        b'{"snapshots": ["ABCDEF01"]}',
        b'{"snapshots": ["abcdef01"], "options": {"password": 1}}',
    ],
)
def test_a_question_that_makes_no_sense_is_refused(body):
    request = CallRequest("LOOK", "file:///x", body=body, transport="restic")
    with pytest.raises(BadAnswer):
        run(lambda transport: transport.call(request))
