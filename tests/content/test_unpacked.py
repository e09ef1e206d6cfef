"""What was unpacked of a disk is kept: the next read unpacks nothing, and is right in any case."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from contextlib import asynccontextmanager

import pytest
import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, DiskStore
from nebfs.blocks.index import Verdict
from nebfs.content import views
from nebfs.content.layers import blockmap_reader, qcow2_clusters, unpacked, unpacked_keeping
from nebfs.content.layers.qcow2 import Qcow2
from nebfs.content.layers.unpacked import Unpacked
from nebfs.content.layers.watched import Watched
from nebfs.content.stack import read
from nebfs.errors import CacheFault, Damaged
from nebfs.model import Checksum, Content, Locator, Revision
from tests.content.disk_images import make
from tests.content.qcow2 import opened as qcow2_opened
from tests.content.qcow2 import run
from tests.promises.subjects.places import Files, shop

KIB, MIB = 1 << 10, 1 << 20
TOP, BELOW = "http://host/top", "http://host/below"
SIZE = 4 * MIB + 70_000 - 70_000 % 512


def text(size, seed=1):
    """Bytes that can be compressed, no two pieces of them alike."""
    chance = random.Random(seed)
    return b"".join(chance.randbytes(16) * 4 for _ in range(-(-size // 64)))[:size]


DATA = text(SIZE)


def packed(home, data=DATA, kind="zlib", *options):
    """Return an image whose clusters are compressed."""
    raw, path = home / "raw", home / "packed.qcow2"
    raw.write_bytes(data)
    words = ("-o", ",".join((f"compression_type={kind}", *options)))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", *words, raw, path)
    return path


def content(address=TOP, **facts):
    return Content(Locator("http", address), format="qcow2", view="raw", **facts)


@pytest.fixture
def unpackings(monkeypatch):
    """The clusters that are unpacked, each time that they are."""
    done = []
    real = qcow2_clusters.unpacker

    def unpacker(kind):
        unpack = real(kind)

        def counted(data, size):
            done.append(size)
            return unpack(data, size)

        return counted

    monkeypatch.setattr(qcow2_clusters, "unpacker", unpacker)
    return done


@asynccontextmanager
async def place(home, files, **settings):
    found = {address: path.read_bytes() for address, path in files.items()}
    async with shop(home, Files(found), **settings) as made:
        yield made


async def opened(made, disk):
    """Open a disk as whoever lists it and opens it does."""
    for file in views.files(disk):
        if (await made.prober.ask(file)).is_unseen:
            await made.library.look(file)
    return await made.library.open(disk, made.prober.view(disk).revision)


async def read_all(reader, step=MIB):
    found = b""
    for at in range(0, reader.size, step):
        found += bytes(await read(reader, at, min(step, reader.size - at)))
        await kept(reader)
    return found


async def kept(reader):
    """Wait until all that is to be kept is."""
    await trio.lowlevel.checkpoint()
    while isinstance(reader, Unpacked) and reader.keeping._queue:
        await trio.lowlevel.checkpoint()


async def once(made, disk, step=MIB):
    """Open a disk, read it, and close it."""
    reader = await opened(made, disk)
    try:
        return await read_all(reader, step)
    finally:
        await reader.aclose()


def sources(made):
    """What the cache has of disks that were unpacked: their bytes on the disk."""
    found = {}
    for key, (_, size) in made.store._resting.items():
        if key == made.library.unpackings.of(content()).key:
            found[key] = size
    return found


# --- the second read ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [MIB, 128 * KIB, 3 * MIB])
@pytest.mark.parametrize("kind", ["zlib", "zstd"])
async def test_the_second_read_unpacks_nothing(tmp_path, unpackings, kind, step):
    async with place(tmp_path, {TOP: packed(tmp_path, DATA, kind)}) as made:
        disk = content()
        assert await once(made, disk, step) == DATA
        assert len(unpackings) >= SIZE // (64 * KIB)
        unpackings.clear()
        assert await once(made, disk, step) == DATA
        chance = random.Random(2)
        reader = await opened(made, disk)
        for _ in range(100):
            length = chance.choice((1, 4096, 70_000, 300_000))
            at = chance.randrange(SIZE - length)
            assert bytes(await read(reader, at, length)) == DATA[at : at + length]
        await reader.aclose()
        assert unpackings == []
        made.idle()


@pytest.mark.parametrize("turned", [False, True])
async def test_reads_that_begin_anywhere_are_kept_whole(tmp_path, unpackings, turned):
    """As the kernel reads ahead of somebody who began with a small read; in pairs out of order."""
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        reader = await opened(made, content())
        starts = [0, 16 * KIB, *range(48 * KIB, SIZE, 300 * KIB)]
        spans = list(zip(starts, [*starts[1:], SIZE], strict=True))
        if turned:
            spans = [spans[n ^ 1] if n ^ 1 < len(spans) else spans[n] for n in range(len(spans))]
        for start, end in spans:
            assert bytes(await read(reader, start, end - start)) == DATA[start:end]
            await kept(reader)
        assert reader.keeping.file.complete
        unpackings.clear()
        assert await read_all(reader) == DATA
        assert unpackings == []
        await reader.aclose()


async def test_what_is_kept_is_there_for_the_next_life(tmp_path, unpackings):
    files = {TOP: packed(tmp_path)}
    async with place(tmp_path, files) as made:
        assert await once(made, content()) == DATA
        _, index = made.store.paths(made.library.unpackings.of(content()).key)
        (used, _) = made.store._resting[index.stem]
        assert used == index.stat().st_mtime == 0, "it will not be the first to leave"
    unpackings.clear()
    async with place(tmp_path, files) as made:
        assert await once(made, content()) == DATA
    assert unpackings == []


async def test_random_reads_are_right_and_unpack_no_more_than_they_touch(tmp_path, unpackings):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        reader = await opened(made, content())
        chance = random.Random(3)
        for _ in range(150):
            at = chance.randrange(SIZE // 4096) * 4096
            length = min(4096, SIZE - at)
            assert bytes(await read(reader, at, length)) == DATA[at : at + length]
            if chance.random() < 0.1:
                at = chance.randrange(SIZE // SLOT_SIZE) * SLOT_SIZE
                assert bytes(await read(reader, at, SLOT_SIZE)) == DATA[at : at + SLOT_SIZE]
        await reader.aclose()
        made.idle()


async def test_the_disk_in_a_streamed_vmdk_is_kept_too(tmp_path, monkeypatch):
    asked = []
    real = blockmap_reader.PackedBlocks.at_once

    def at_once(self, number, entry, *, unpack):
        asked.append(number)
        return real(self, number, entry, unpack=unpack)

    monkeypatch.setattr(blockmap_reader.PackedBlocks, "at_once", at_once)
    (tmp_path / "raw").write_bytes(DATA)
    path = make("vmdk", tmp_path / "raw", tmp_path / "x.vmdk", "subformat=streamOptimized")
    async with place(tmp_path, {TOP: path}) as made:
        disk = Content(Locator("http", TOP), format="vmdk", view="raw")
        assert (await once(made, disk))[:SIZE] == DATA
        asked.clear()
        assert (await once(made, disk))[:SIZE] == DATA
        assert asked == []


# --- what is kept, and what is not ----------------------------------------------------------------


async def test_of_a_plain_disk_nothing_is_kept_and_nothing_is_in_the_way(tmp_path):
    (tmp_path / "raw").write_bytes(DATA)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", tmp_path / "plain")
    async with place(tmp_path, {TOP: tmp_path / "plain"}) as made:
        reader = await opened(made, content())
        assert await read_all(reader) == DATA
        assert reader.warm == reader.below.warm, "each read goes through a layer more"
        await reader.aclose()
        assert sources(made) == {}
        assert len(made.store._resting) == 1


async def test_of_a_disk_that_is_partly_compressed_only_that_is_kept(tmp_path, unpackings):
    noise = random.Random(4).randbytes(MIB)  # which qemu-img leaves as it is
    half = text(64 * KIB, 5) + random.Random(6).randbytes(64 * KIB)
    data = text(MIB, 7) + noise + half + bytes(MIB) + text(MIB + 512, 8)
    async with place(tmp_path, {TOP: packed(tmp_path, data)}) as made:
        assert await once(made, content()) == data
        unpackings.clear()
        assert await once(made, content(), 300_000) == data
        assert unpackings == []
        reader = await opened(made, content())
        slots = [int(one) for one in reader.keeping.file.present()]
        assert slots == [1] * 8 + [0] * 8 + [1] + [0] * 8 + [1] * 9
        await reader.aclose()


async def test_a_chain_is_kept_as_the_disk_that_it_is(tmp_path, unpackings):
    below, top = packed(tmp_path), tmp_path / "top.qcow2"
    run("qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", below, top)
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 {200 * KIB} 300k", top)
    expected = bytearray(DATA)
    expected[200 * KIB : 500 * KIB] = b"\x07" * (300 * KIB)
    async with place(tmp_path, {TOP: top, BELOW: below}) as made:
        chain, alone = content(backing=content(BELOW)), content(BELOW)
        for disk, data in ((chain, expected), (alone, DATA)):
            assert await once(made, disk) == data
        unpackings.clear()
        for disk, data in ((chain, expected), (alone, DATA)):
            assert await once(made, disk) == data
        assert unpackings == []


async def test_another_version_is_another_object(tmp_path):
    path = packed(tmp_path)
    async with place(tmp_path, {TOP: path}) as made:
        assert await once(made, content()) == DATA
        other = text(SIZE, 9)
        made.files.files[TOP] = packed(tmp_path, other).read_bytes()
        made.prober.forget(content())
        assert await once(made, content()) == other
        assert await once(made, content()) == other


async def test_an_image_elsewhere_with_the_same_length_and_etag_is_another_object(
    tmp_path, monkeypatch
):
    one, other = packed(tmp_path).read_bytes(), packed(tmp_path, text(SIZE, 9)).read_bytes()
    length = max(len(one), len(other))
    monkeypatch.setattr(Files, "revision", lambda *_: Revision(length, '"1"'))
    async with shop(tmp_path, Files({})) as made:
        made.files.files = {TOP: one.ljust(length, b"\0"), BELOW: other.ljust(length, b"\0")}
        for _ in range(2):
            assert await once(made, content()) == DATA
            assert await once(made, content(BELOW)) == text(SIZE, 9)


async def test_of_what_others_may_write_to_nothing_is_kept(tmp_path):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        reader = await opened(made, content(volatile=True))
        assert isinstance(reader, Watched)
        assert isinstance(reader._view, Qcow2)
        assert await read_all(reader) == DATA
        await reader.aclose()


async def test_of_what_is_read_in_place_nothing_is_kept(tmp_path):
    path = packed(tmp_path)
    async with place(tmp_path, {}) as made:
        disk = Content(Locator("file", str(path)), format="qcow2", view="raw")
        reader = await opened(made, disk)
        assert isinstance(reader, Qcow2)
        assert await read_all(reader) == DATA
        await reader.aclose()
        assert made.store._resting == {}


async def test_in_memory_nothing_is_kept(tmp_path):
    async with place(tmp_path, {TOP: packed(tmp_path)}, in_memory=True) as made:
        reader = await opened(made, content())
        assert isinstance(reader, Qcow2)
        assert await read_all(reader) == DATA
        await reader.aclose()


# --- several at once ------------------------------------------------------------------------------


async def test_two_who_have_it_open_share_what_is_kept(tmp_path, unpackings):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        one, other = await opened(made, content()), await opened(made, content())
        half = SIZE // 2 // MIB * MIB
        for at in range(0, SIZE, MIB):
            reader = one if at < half else other
            length = min(MIB, SIZE - at)
            assert bytes(await read(reader, at, length)) == DATA[at : at + length]
            await kept(reader)
        assert one.keeping.file is other.keeping.file
        unpackings.clear()
        async with trio.open_nursery() as nursery:

            async def check(reader):
                assert await read_all(reader) == DATA

            nursery.start_soon(check, one)
            nursery.start_soon(check, other)
        assert unpackings == []
        await one.aclose()
        assert await read_all(other) == DATA
        await other.aclose()
        made.idle()


async def test_readers_of_all_sizes_at_once(tmp_path):
    noise = random.Random(4).randbytes(MIB)
    data = text(MIB, 7) + noise + text(MIB, 8) + bytes(MIB)
    async with place(tmp_path, {TOP: packed(tmp_path, data)}) as made:
        reader = await opened(made, content())

        async def some(seed):
            chance = random.Random(seed)
            for _ in range(40):
                length = chance.choice((4096, 128 * KIB, 300_000, MIB, 2 * MIB))
                at = chance.randrange((len(data) - length) // 4096 + 1) * 4096
                assert bytes(await read(reader, at, length)) == data[at : at + length]

        async with trio.open_nursery() as nursery:
            for seed in range(6):
                nursery.start_soon(some, seed)
        await reader.aclose()
        assert unpacked_keeping.room.left == unpacked_keeping.WAITING
        made.idle()


# --- room, and faults -----------------------------------------------------------------------------


async def test_without_room_to_spare_nothing_is_kept_and_nothing_leaves(tmp_path):
    path = packed(tmp_path)
    async with place(tmp_path, {TOP: path}, limit=len(path.read_bytes()) + MIB) as made:
        fetched = await made.open(made.content(TOP))
        await read_all(fetched)
        for _ in range(2):
            assert await once(made, content()) == DATA
        assert fetched._cached.file.complete
        await fetched.aclose()
        assert made.store.evicted == 0
        assert made.store.faults == 0
        assert not made.store.trouble
        assert sum(sources(made).values()) < MIB


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_is_kept_leaves_before_what_was_fetched(tmp_path, is_open):
    first, second = packed(tmp_path), tmp_path / "second"
    second.write_bytes(random.Random(5).randbytes(3 * MIB))
    size = len(first.read_bytes())
    limit = 10 * (size + SIZE + MIB) // 9
    async with place(tmp_path, {TOP: first, BELOW: second}, limit=limit) as made:
        assert await once(made, content()) == DATA
        assert await once(made, content()) == DATA
        assert sum(sources(made).values()) >= SIZE // 2
        fetched = made.content(TOP)
        disk = await opened(made, content()) if is_open else None
        if disk is not None:
            assert await read_all(disk) == DATA
            # What it is made of was used long ago.
            touched = disk.below.file._cached.file.touched
            touched.update(dict.fromkeys(touched, 1.0))
        reader = await made.open(made.content(BELOW))
        assert await read_all(reader) == second.read_bytes()
        await reader.aclose()
        assert made.store.evicted > 0
        reader = await made.open(fetched)
        assert reader._cached.file.complete
        await reader.aclose()
        if disk is not None:
            assert await read_all(disk) == DATA
            await disk.aclose()


async def test_what_does_not_come_in_time_is_not_waited_for(tmp_path, monkeypatch, unpackings):
    monkeypatch.setattr(unpacked_keeping.room, "left", 0)
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        assert await once(made, content()) == DATA
        reader = await opened(made, content())
        assert await read_all(reader) == DATA
        assert reader.keeping.file.here == 0
        await reader.aclose()


async def test_a_disk_that_refuses_costs_what_would_be_kept(tmp_path, monkeypatch):
    def record(self, slot, view):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(unpacked_keeping, "PAUSE", 0.0)
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        reader = await opened(made, content())
        with monkeypatch.context() as patched:
            patched.setattr(BlockFile, "record", record)
            for _ in range(2):
                assert await read_all(reader) == DATA
        assert reader.keeping.file.here == 0
        assert made.store.faults == 0
        assert made.store.reserved == 0
        # It works again.
        assert await read_all(reader) == DATA
        assert reader.keeping.file.complete
        await reader.aclose()
        made.idle()


async def test_an_object_that_cannot_be_opened_costs_what_would_be_kept(tmp_path, monkeypatch):
    real = DiskStore.open

    async def open_it(self, key, size, source="", **options):
        if source.endswith("(unpacked)"):
            raise CacheFault("the cache disk refused an object")
        return await real(self, key, size, source, **options)

    monkeypatch.setattr(DiskStore, "open", open_it)
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        for _ in range(2):
            assert await once(made, content()) == DATA
        made.idle()


async def test_what_rots_is_unpacked_again(tmp_path, unpackings):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        assert await once(made, content()) == DATA
        data, _ = made.store.paths(made.library.unpackings.of(content()).key)
        with data.open("r+b") as file:
            for slot in (3, 4, 9):
                file.seek(slot * SLOT_SIZE + 1000)
                file.write(b"rot")
        unpackings.clear()
        assert await once(made, content()) == DATA
        assert 6 <= len(unpackings) < SIZE // (64 * KIB)
        unpackings.clear()
        assert await once(made, content()) == DATA
        assert unpackings == []


async def test_a_disk_that_cannot_be_read_is_read_below(tmp_path, monkeypatch):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        assert await once(made, content()) == DATA
        reader = await opened(made, content())
        broken = reader.keeping.file.fd
        real = os.preadv, os.pread

        def preadv(fd, buffers, offset, flags=0):
            if fd == broken:
                raise OSError(errno.EIO, "no")
            return real[0](fd, buffers, offset, flags)

        def pread(fd, length, offset):
            if fd == broken:
                raise OSError(errno.EIO, "no")
            return real[1](fd, length, offset)

        monkeypatch.setattr(os, "preadv", preadv)
        monkeypatch.setattr(os, "pread", pread)
        assert await read_all(reader) == DATA
        await reader.aclose()


async def test_a_slow_disk_is_not_asked_again(tmp_path, monkeypatch):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        assert await once(made, content()) == DATA
        reader = await opened(made, content())
        file = reader.keeping.file
        monkeypatch.setattr(file, "warm", lambda *_: None)
        monkeypatch.setattr(unpacked, "SLOW", -1.0)
        assert await read_all(reader) == DATA
        assert reader.keeping.file is None
        assert reader.warm == reader.below.warm
        await reader.aclose()
        made.idle()


async def test_a_slot_that_leaves_while_it_is_read_is_read_below(tmp_path):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        assert await once(made, content()) == DATA
        reader = await opened(made, content())
        for at in range(0, SIZE, MIB):
            length = min(MIB, SIZE - at)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.keeping.file.drop, 0, reader.keeping.file.slots)
                assert bytes(await reader.pread(at, length)) == DATA[at : at + length]
        await reader.aclose()


# --- damage ---------------------------------------------------------------------------------------


def published(data):
    return Checksum("sha256", hashlib.sha256(data).hexdigest())


@asynccontextmanager
async def kept_and_verified(home):
    """An open disk all of which is kept, of an image that is what was published."""
    path = packed(home)
    disk = content(checksums=(published(path.read_bytes()),))
    async with place(home, {TOP: path}) as made:
        for _ in range(3):
            assert await once(made, disk) == DATA
        reader = await opened(made, disk)
        yield reader
        await reader.aclose()


async def test_only_of_what_was_found_to_be_what_was_published_something_is_kept(
    tmp_path, unpackings
):
    path = packed(tmp_path)
    disk = content(checksums=(published(path.read_bytes()),))
    async with place(tmp_path, {TOP: path}) as made:
        reader = await opened(made, disk)
        assert bytes(await read(reader, 0, MIB)) == DATA[:MIB]
        await kept(reader)
        assert reader.keeping.file is None or not reader.keeping.file.here
        (verified,) = reader._published
        for _ in range(2):
            # All of it is here after the first time: then it is compared.
            assert await read_all(reader) == DATA
            await read(reader.below.file, 0, reader.below.file.size)
        assert verified.verdict is Verdict.VERIFIED
        await reader.aclose()
        assert await once(made, disk) == DATA
        unpackings.clear()
        assert await once(made, disk) == DATA
        assert unpackings == []


async def test_what_is_kept_of_a_damaged_image_is_not_answered_with(tmp_path):
    async with kept_and_verified(tmp_path) as reader:
        assert reader.keeping.file.here == reader.keeping.file.slots
        (verified,) = reader._published
        verified._settle(Verdict.MISMATCH)
        calls = []
        reader.below.warm = lambda *span: calls.append(span)
        with pytest.raises(Damaged):
            await reader.below.file.pread(0, 1)

        async def refuse(*span):
            raise Damaged("the copy at its source is damaged")

        reader.below.pread = refuse
        assert reader.warm(0, MIB) is None
        with pytest.raises(Damaged):
            await reader.pread(0, MIB)
        assert calls == [(0, MIB)]


async def test_while_a_verdict_is_awaited_what_is_kept_waits_too(tmp_path):
    async with kept_and_verified(tmp_path) as reader:
        (verified,) = reader._published
        assert verified.verdict is Verdict.VERIFIED
        assert reader.warm(0, MIB) is not None
        verified.verdict = Verdict.UNKNOWN  # as of one that was completed this moment
        asked = []
        reader.below.warm = lambda *span: asked.append(span)
        assert reader.warm(0, MIB) is None
        assert asked == [(0, MIB)]
        verified.verdict = Verdict.VERIFIED


async def test_a_cluster_that_cannot_be_unpacked_is_damage_each_time(tmp_path):
    path = packed(tmp_path)
    disk = await qcow2_opened(path)
    entry = (await disk._plan(2 * MIB, 1)).packed[0].entry
    found = qcow2_clusters.place_of(entry, 16, disk.file.size)
    await disk.aclose()
    data = bytearray(path.read_bytes())
    data[found.offset : found.offset + 100] = b"\xff" * 100
    path.write_bytes(data)
    async with place(tmp_path, {TOP: path}) as made:
        for _ in range(2):
            reader = await opened(made, content())
            for start in range(0, SIZE, SLOT_SIZE):
                length = min(SLOT_SIZE, SIZE - start)
                if start == 2 * MIB:
                    with pytest.raises(Damaged):
                        await read(reader, start, length)
                else:
                    got = bytes(await read(reader, start, length))
                    assert got == DATA[start : start + length]
                await kept(reader)
            await reader.aclose()


# --- closing --------------------------------------------------------------------------------------


async def test_closing_in_the_middle_leaves_nothing_waiting(tmp_path):
    async with place(tmp_path, {TOP: packed(tmp_path)}) as made:
        for number in range(6):
            reader = await opened(made, content())
            for at in range(0, (number % 4 + 1) * MIB, MIB):
                assert bytes(await read(reader, at, MIB)) == DATA[at : at + MIB]
            await reader.aclose()
            made.idle()
            assert unpacked_keeping.room.left == unpacked_keeping.WAITING
        assert await once(made, content()) == DATA
