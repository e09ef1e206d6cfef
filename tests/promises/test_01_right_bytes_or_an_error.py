"""Promise 1: right bytes or an error; never zeros for what is missing, never a premature end.

Every way in which a server lies or fails (tests/faults/lies.py) is put under every kind of stack,
by the real fetcher process, and random reads are compared with the original. Other places have the
way to them broken (tests/faults/valve.py). What a cache disk does to reads is promise 6, and the
many ways to read a mount are in tests/mounted/test_like_fsx.py.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import trio

import nebfs.content.library
from nebfs.content.disks import DISKS
from nebfs.content.stack import read
from nebfs.errors import NebfsError, Unreachable
from nebfs.model import Content, Locator
from tests.faults.house import House, whole
from tests.faults.layers import Delayed, Failing, FailingSource, Short
from tests.faults.lies import LIES, LyingServer
from tests.faults.reading import LENGTHS, RAW, STACKS, made, random_reads
from tests.faults.valve import CUT, OPEN, REFUSED, SLOW, STALLED, Valves
from tests.faults.ways import bridge, object_store
from tests.promises.subjects import disks
from tests.promises.subjects.far import ADDRESS, DATA, SHA
from tests.promises.subjects.places import Files, shop


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with House(tmp_path_factory.mktemp("house")) as made_house:
        yield made_house


# --- what servers say ---------------------------------------------------------------------------

NAMES = sorted(LIES)


@pytest.mark.parametrize("names", [NAMES[at::4] for at in range(4)], ids=", ".join)
def test_servers_that_lie(house, names):
    """Under each stack some answers are lies, then none; and at one place all are."""

    async def all_of_it(servers):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for name, server in servers.items():
                    for kind in STACKS:
                        nursery.start_soon(lied_to, house, LIES[name], server, kind)
                    nursery.start_soon(lied_to_for_ever, house, LIES[name], server)

    with ExitStack() as stack:
        house.run(all_of_it, {n: stack.enter_context(LyingServer(LIES[n], n)) for n in names})


async def lied_to(house, lie, server, kind):
    data, wanted, view = made(kind)
    address, place = server.publish(data)
    content = Content(Locator("http", address), format="raw" * bool(view), view=view)
    with noted(server, kind):
        await house.ask(replace(content, view=""))
        place.lie, place.left = lie.tell, 1 if lie.slow else 2
        allowed = set() if lie.temporary else {lie.errno}
        try:
            reader = await house.open(content)
        except NebfsError as exc:
            if exc.errno not in allowed:
                raise
        else:
            await random_reads(reader, wanted, allowed)
            await reader.aclose()
        assert place.told
        place.heal()
        reader = await house.open(content)
        assert await whole(reader) == wanted
        await reader.aclose()


async def lied_to_for_ever(house, lie, server):
    address, place = server.publish(RAW)
    with noted(server, "for ever"):
        reader = await house.open(Content(Locator("http", address)), house.brief)
        place.lie = lie.tell
        found = await random_reads(reader, RAW, {lie.errno})
        assert set(found) <= {lie.errno, 0}
        assert not lie.sure or set(found) == {lie.errno}
        place.heal()
        await reader.aclose()


@contextmanager
def noted(server, kind):
    try:
        yield
    except Exception as exc:
        exc.add_note(f"of: {server.name}, {kind}")
        raise


# --- the way to a server ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valves():
    made_valves = Valves()
    yield made_valves
    made_valves.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory, valves):
    with object_store(tmp_path_factory.mktemp("store"), valves) as way:
        yield way


@pytest.fixture(scope="module")
def host(tmp_path_factory, valves):
    with bridge(tmp_path_factory.mktemp("bridge"), valves) as way:
        yield way


@pytest.mark.parametrize("mode", [CUT, REFUSED, SLOW, STALLED])
def test_a_way_that_is_broken(house, store, host, mode):
    """For a moment: it is outlived. For as long as one waits: an error. Then all is as before."""

    async def broken(way):
        patient, brief = way.content(f"patient-{mode}", RAW), way.content(f"brief-{mode}", RAW)
        reader, other = await house.open(patient), await house.open(brief, house.brief)
        await trio.to_thread.run_sync(way.valve.turn, mode)
        found = await random_reads(other, RAW, {errno.EIO})
        assert mode not in (REFUSED, STALLED) or set(found) == {errno.EIO}

        async def mended():
            await trio.sleep(0.4)
            await trio.to_thread.run_sync(way.valve.turn, OPEN)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mended)
            await random_reads(reader, RAW, set())
        # What has failed is there again, by the same handle.
        for one in (reader, other):
            assert await whole(one) == RAW
            await one.aclose()

    async def all_of_it():
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for way in (store, host):
                    nursery.start_soon(broken, way)

    try:
        house.run(all_of_it)
    finally:
        for way in (store, host):
            way.valve.turn(OPEN)


def test_an_object_store_that_refuses_and_fails(house, store):
    """Its clock goes wrong, then it fails for a moment."""
    content, late = store.content("refused", RAW), store.content("late", RAW)
    objects = store.store

    async def all_of_it():
        with trio.fail_after(60):
            reader, other = await house.open(content), await house.open(late, house.brief)
            objects.now = lambda: 4e9
            assert set(await random_reads(other, RAW, {errno.EACCES})) == {errno.EACCES}
            objects.now = time.time
            switches = objects.switches("/images/refused")
            switches.fail_next, switches.fail_status, switches.retry_after = 2, 503, 0
            await random_reads(reader, RAW, set())
            switches.cut_after = 50_000
            await random_reads(reader, RAW, set(), seed=2)
            switches.cut_after = None
            assert await whole(reader) == RAW
            assert await whole(other) == RAW
            await reader.aclose()
            await other.aclose()

    house.run(all_of_it)


@pytest.mark.parametrize("kind", ["raw", "qcow2, raw face", "gzip", "xz, blocks"])
def test_a_file_of_this_machine_that_is_cut_short(house, tmp_path, kind):
    """Whatever was not read before is an error, not zeros."""
    data, wanted, view = made(kind)
    path = tmp_path / "image"
    path.write_bytes(data)
    content = Content(Locator("file", str(path)), format="raw" * bool(view), view=view)

    async def all_of_it():
        reader = await house.open(content)
        assert await read(reader, 0, 4096) == wanted[:4096]
        os.truncate(path, 70_000)
        found = await random_reads(reader, wanted, {errno.ESTALE})
        # What was decompressed is of the version that was opened.
        assert kind == "gzip" or errno.ESTALE in found
        await reader.aclose()

    house.run(all_of_it)


# --- a layer within the stack -------------------------------------------------------------------

SHAPES = {
    "qcow2": "cluster_size=16k",
    "vdi": "",
    "vhd": "force_size=on",
    "vhdx": "",
    "vmdk": "",
}


def lost():
    return Unreachable("lost")


@pytest.mark.parametrize(
    "layer",
    [lambda file, at: Failing(file, lost, 1, at), lambda file, at: Short(file, 1, at)],
    ids=["fails", "short"],
)
@pytest.mark.parametrize("kind", SHAPES)
async def test_what_is_below_a_disk_fails_once(kind, layer):
    """In its first read, in its second, and so on. What was not had then is had the next time."""
    data, revision = disks.image(kind, SHAPES[kind]), disks.REVISION
    for at in range(40):
        opened = []
        below = layer(disks.Counted(data, opened), at)
        try:
            reader = await DISKS[kind].open(below, None, revision)
        except below.raised:
            assert below.failed
            assert opened == []
            continue
        await checked(reader, below)
        failed, below.left = below.failed, 0
        assert await whole(reader) == disks.disk()
        await reader.aclose()
        if not failed:
            break
    else:
        raise AssertionError("it always failed")
    assert at > 1


async def checked(reader, below):
    """Read at random, one after the other, until it has failed. A short answer is one that fails:
    the window to the kernel makes an error of it."""
    chance = random.Random(3)
    for _ in range(12):
        length = chance.choice(LENGTHS)
        offset = chance.randrange(reader.size - length + 1)
        before = below.failed
        try:
            got = bytes(await read(reader, offset, length))
        except below.raised:
            assert below.failed > before
            continue
        if len(got) != length:
            assert below.failed > before
            continue
        assert got == disks.disk()[offset : offset + length]


@pytest.mark.parametrize("kind", SHAPES)
async def test_what_is_below_a_disk_is_slow(kind, autojump_clock):
    below = Delayed(disks.Counted(disks.image(kind, SHAPES[kind]), []), 0.3)
    reader = await DISKS[kind].open(below, None, disks.REVISION)
    await random_reads(reader, disks.disk(), set())
    await reader.aclose()
    below.seconds = float("inf")
    assert trio.current_time() > 0


SOURCES = ("Fetched", "Pinned", "Limited", "Retried")


@pytest.mark.parametrize("height", SOURCES)
async def test_a_source_fails_at_each_height(height, tmp_path, monkeypatch, autojump_clock):
    """Below what tries again it is outlived; above it, it is an error of that read alone."""
    real = getattr(nebfs.content.library, height)
    sources = []

    def put(*args):
        sources.append(FailingSource(real(*args), lost, 3))
        return sources[-1]

    monkeypatch.setattr(nebfs.content.library, height, put)
    async with shop(tmp_path, Files({ADDRESS: DATA})) as made_shop:
        reader = await made_shop.open(made_shop.content(ADDRESS, SHA))
        allowed = {errno.EIO} if height == "Retried" else set()
        found = await random_reads(reader, DATA, allowed)
        # Above what tries again it fails once for each order, and how many there are varies.
        assert sources[0].failed == 3 or (height == "Retried" and sources[0].failed)
        assert (errno.EIO in found) == (height == "Retried")
        sources[0].left = 0
        assert await whole(reader) == DATA
        await reader.aclose()
        await trio.testing.wait_all_tasks_blocked()
        made_shop.idle()


@pytest.mark.parametrize("height", ["Cached", "Verified"])
async def test_a_reader_fails_at_each_height(height, tmp_path, monkeypatch, autojump_clock):
    real = getattr(nebfs.content.library, height)
    readers = []

    def put(*args, **named):
        readers.append(Failing(Delayed(real(*args, **named), 0.1), lost, 2))
        return readers[-1]

    async with shop(tmp_path, Files({ADDRESS: DATA})) as made_shop:
        monkeypatch.setattr(nebfs.content.library, height, put)
        reader = await made_shop.open(made_shop.content(ADDRESS, SHA))
        found = await random_reads(reader, DATA, {errno.EIO})
        assert found.count(errno.EIO) == readers[0].failed == 2
        assert await whole(reader) == DATA
        await reader.aclose()


@pytest.mark.parametrize("kind", ["gzip", "xz, one block", "xz, blocks", "zstd, frames"])
async def test_what_is_below_a_decoder_fails_once(kind, tmp_path):
    """In its first read, in its second, and so on."""
    data, wanted, view = made(kind)
    failed = at = 0
    while failed == at:
        home = tmp_path / str(at)
        home.mkdir()
        async with shop(home, Files({ADDRESS: data})) as made_shop:
            opening, layers = made_shop.library.open, []

            async def put(content, revision, opening=opening, layers=layers, at=at):
                below = await opening(content, revision)
                layers.append(Failing(below, lost, 0 if layers else 1, at))
                return layers[-1]

            made_shop.library.decodings._open_file = put
            content = made_shop.content(ADDRESS, format="raw", view=view)
            for _ in range(3):
                try:
                    reader = await made_shop.open_disk(content)
                except NebfsError as exc:
                    assert exc.errno == errno.EIO
                    continue
                await random_reads(reader, wanted, {errno.EIO}, number=3)
                await reader.aclose()
            reader = await made_shop.open_disk(content)
            assert await whole(reader) == wanted
            await reader.aclose()
        at += 1
        failed += any(one.failed for one in layers)
        assert at < 40
    assert at > 1


# --- over a real mount --------------------------------------------------------------------------


def url_of(cloud, end):
    return next(url for url in cloud.published if url.endswith(end))


@pytest.mark.mounted
def test_a_server_without_range_is_read_all_the_same(mount, servers, cloud, tools):
    url = url_of(cloud, "debian-12.raw")
    servers.files.switches(url).ranges = False
    path = mount.app("Debian 12") / "Debian 12.raw"
    with open(path, "rb") as file:
        file.seek(5 << 20)
        middle = file.read(4096)
    with open(cloud.published[url], "rb") as file:
        file.seek(5 << 20)
        assert middle == file.read(4096)
        assert tools.xattr(path, "user.nebfs.access") == "sequential"
    assert "read.sequential" in mount.log
    assert (
        hashlib.sha256(path.read_bytes()).digest()
        == hashlib.sha256(cloud.published[url].read_bytes()).digest()
    )


@pytest.mark.mounted
def test_a_server_that_lies_about_the_length_never_gives_a_wrong_byte(make_mount, servers, cloud):
    url = url_of(cloud, "debian-12.raw")
    original = cloud.published[url].read_bytes()
    mount = make_mount(servers.frontend_url, "-o", "deadline=3s,stall_timeout=1s")
    mount.start()
    path = mount.app("Debian 12") / "Debian 12.raw"
    size = path.stat().st_size
    servers.files.switches(url).longer = 1000
    with open(path, "rb", buffering=0) as file:
        for offset in range(0, size, 16 << 20):
            try:
                got = os.pread(file.fileno(), 4096, offset)
            except OSError as exc:
                assert exc.errno in {errno.EIO, errno.ETIMEDOUT, errno.ESTALE}
            else:
                assert got == original[offset : offset + 4096]


@pytest.mark.mounted
def test_bodies_that_break_off_are_continued(mount, servers, cloud):
    url = url_of(cloud, "debian-12.raw")
    path = mount.app("Debian 12") / "Debian 12.raw"
    path.stat()
    servers.files.switches(url).cut_after = 700_000
    with open(path, "rb") as file:
        got = file.read(6 << 20)
    assert got == cloud.published[url].read_bytes()[: 6 << 20]


@pytest.mark.mounted
def test_a_server_that_fails_for_a_moment_is_asked_again(mount, servers, cloud):
    url = url_of(cloud, "debian-12.raw")
    path = mount.app("Debian 12") / "Debian 12.raw"
    path.stat()
    servers.files.switches(url).fail_next = 2
    with open(path, "rb") as file:
        assert file.read(4096) == cloud.published[url].read_bytes()[:4096]
