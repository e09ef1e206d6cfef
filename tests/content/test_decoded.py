"""Compressed images, decompressed into the cache: compared with what the formats' tools packed."""

from __future__ import annotations

import math
import os
import random
import subprocess
from dataclasses import replace

import pytest
import trio

from nebfs.blocks import SLOT_SIZE, DiskStore, MemoryStore
from nebfs.content import Library, LibrarySettings, Prober
from nebfs.content.layers import decoded_stream
from nebfs.errors import CacheFault, Damaged, NebfsError, Unreachable, Unready, Unsupported
from nebfs.model import Checksum, Content, Locator
from tests.content.decoding import noise, pack, text
from tests.content.reading import read

MIB = 1 << 20

PACKED = {
    "gz": ("gzip", "-c"),
    "bz2": ("bzip2", "-c"),
    "xz": ("xz", "-c", "-0"),
    "zst": ("zstd", "-q", "-c"),
    "blocks.xz": ("xz", "-c", "-0", "-T2", "--block-size=1000000"),
}


def disk(length=6 * MIB + 777):
    """The bytes of a disk: some of them compress, some do not, some are zeros."""
    third = length // 3
    return text(third) + bytes(third) + noise(length - 2 * third)


@pytest.fixture(scope="module")
def original():
    return disk()


@pytest.fixture(scope="module")
def packed(original):
    return {name: pack(original, *command) for name, command in PACKED.items()}


class Kept(dict):
    """Documents."""

    async def load(self, name):
        return self.get(name)

    async def save(self, name, data):
        self[name] = data


class World:
    """A place with one compressed file, and one mount's life over a cache."""

    def __init__(self, place, store, documents, nursery, **settings):
        self.place = place
        self.store = store
        self.damaged = []
        self.seen = []
        self.prober = Prober(place, documents, now=trio.current_time)
        self.library = Library(
            *(place, store, MemoryStore(16 * MIB), nursery),
            LibrarySettings(**settings),
            on_changed=self.prober.forget,
            on_damaged=self.damaged.append,
            known=self.prober.known,
            on_seen=self._learn,
        )
        self.file = Content(Locator("http", "http://h/image"), format="raw")
        self.view = replace(self.file, view="raw")

    def _learn(self, content, revision, inside):
        self.seen.append(inside)
        self.prober.learn(content, revision, inside)

    async def look(self):
        await self.prober.ask(self.file)
        await self.library.look(self.file)
        return self.prober.known(self.file).inside

    async def open(self):
        """Open the disk, as the mount does: whoever must decompress all of it before does that."""
        inside = await self.look()
        if inside.is_unmeasured:
            await self.library.measure(self.file)
        return await self.library.open(self.view, self.prober.view(self.view).revision)


async def read_all(reader, step=MIB):
    parts = []
    for at in range(0, reader.size, step):
        parts.append(await read(reader, at, min(step, reader.size - at)))
    return b"".join(parts)


@pytest.fixture
def documents():
    return Kept()


@pytest.fixture
def make(place, store, documents, nursery):
    def make(data=None, **settings):
        if data is not None:
            place.data = data
        return World(place, store, documents, nursery, **settings)

    return make


def qcow2(tmp_path, data):
    (tmp_path / "flat").write_bytes(data)
    words = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2"]
    subprocess.run([*words, tmp_path / "flat", tmp_path / "disk"], check=True)
    return (tmp_path / "disk").read_bytes()


# --- right bytes ---


@pytest.mark.parametrize("name", PACKED)
async def test_a_disk_is_what_was_packed_from_any_offset(make, packed, original, name):
    world = make(packed[name])
    reader = await world.open()
    assert reader.size == len(original)
    chance = random.Random(5)
    for _ in range(60):
        offset = chance.randrange(len(original))
        length = min(chance.choice((1, 512, 4096, 128 << 10, MIB)), len(original) - offset)
        assert await read(reader, offset, length) == original[offset : offset + length]
    assert await read_all(reader) == original
    await reader.aclose()


@pytest.mark.parametrize("name", PACKED)
async def test_a_second_life_finds_it_whole_and_fetches_nothing(
    make, packed, original, name, documents
):
    world = make(packed[name])
    reader = await world.open()
    assert await read_all(reader) == original
    await reader.aclose()
    await trio.testing.wait_all_tasks_blocked(0.01)
    await world.prober.save()
    fetched = world.place.fetched
    again = make()
    await again.prober.load()
    reader = await again.library.open(again.view, again.prober.view(again.view).revision)
    assert await read_all(reader) == original
    assert world.place.fetched == fetched


async def test_zstd_from_a_pipe_and_in_several_frames_is_read_to_its_end(make, original):
    frames = [original[at : at + 2 * MIB] for at in range(0, len(original), 2 * MIB)]
    world = make(b"".join(pack(frame, "zstd", "-q", "-c") for frame in frames))
    reader = await world.open()
    assert await read_all(reader) == original


async def test_members_of_gzip_follow_one_another(make, original):
    parts = (b"", original[: 3 * MIB], b"", original[3 * MIB :])
    world = make(b"".join(pack(part, "gzip", "-c") for part in parts))
    reader = await world.open()
    assert await read_all(reader) == original


async def test_a_disk_of_zeros_takes_no_space(make):
    world = make(pack(bytes(100 * MIB), "gzip", "-1", "-c"))
    before = world.store.used
    reader = await world.open()
    assert reader.size == 100 * MIB
    assert await read(reader, 80 * MIB + 5, 4096) == bytes(4096)
    assert world.store.used - before < 2 * MIB


# --- the length ---


@pytest.mark.parametrize("name", ["xz", "blocks.xz"])
async def test_xz_tells_its_length_before_it_is_decompressed(make, packed, original, name):
    world = make(packed[name])
    inside = await world.look()
    assert (inside.disk, inside.decoded) == (len(original), len(original))
    assert world.prober.view(world.view).revision.size == len(original)


@pytest.mark.parametrize("name", ["gz", "bz2", "zst"])
async def test_a_length_that_nothing_tells_is_known_after_the_pass(make, packed, original, name):
    world = make(packed[name])
    assert (await world.look()).is_unmeasured
    with pytest.raises(Unready):
        world.prober.view(world.view)
    await world.library.measure(world.file)
    assert world.prober.view(world.view).revision.size == len(original)


async def test_opening_waits_for_a_while_says_how_far_it_is_and_goes_on(
    make, packed, original, patient_clock
):
    world = make(packed["gz"], read_ahead=0)
    await world.look()
    world.place.per_slot = 20.0
    with pytest.raises(Unready, match=r"\d+ % is done"):
        await world.library.measure(world.file)
    await trio.sleep(1000)
    # Nobody waits for it, and it is through: what is known is told.
    assert world.prober.view(world.view).revision.size == len(original)
    assert world.library.decodings._shared == {}


# --- qcow2 within ---


@pytest.mark.parametrize("name", ["gz", "bz2", "xz", "zst"])
async def test_a_qcow2_image_in_it_tells_the_length_of_the_disk(make, original, tmp_path, name):
    world = make(pack(qcow2(tmp_path, original), *PACKED[name]))
    size = -(-len(original) // 512) * 512
    inside = await world.look()
    assert (inside.kind, inside.disk) == ("qcow2", size)
    reader = await world.open()
    assert await read_all(reader) == original.ljust(size, b"\0")
    await reader.aclose()


async def test_a_header_is_read_without_decompressing_the_rest(make, tmp_path, patient_clock):
    world = make(pack(qcow2(tmp_path, noise(20 * MIB)), "gzip", "-c"), read_ahead=0)
    world.place.latency = 1.0
    await world.look()
    reader = await world.library.open(world.view, world.prober.view(world.view).revision)
    await reader.aclose()
    await trio.sleep(100)
    assert world.place.fetched < 8 * MIB
    assert world.library.decodings._shared == {}


# --- while the pass is under way ---


async def test_what_the_pass_has_behind_it_is_answered_and_what_is_ahead_waits(
    make, packed, original, patient_clock
):
    world = make(packed["xz"], read_ahead=0)
    await world.look()
    world.place.per_slot = 1.0
    reader = await world.open()
    assert await read(reader, 0, 4096) == original[:4096]
    late = []

    async def ahead(offset):
        late.append(await read(reader, offset, 4096) == original[offset : offset + 4096])

    async with trio.open_nursery() as readers:
        for offset in (len(original) - 4096, len(original) - 200_000):
            readers.start_soon(ahead, offset)
        await trio.sleep(0.5)
        assert await read(reader, 100, 5000) == original[100:5100]
        assert not late
    assert late == [True] * 2
    assert trio.current_time() > 5
    assert await read_all(reader) == original


async def test_many_readers_make_one_pass(make, packed, original):
    world = make(packed["gz"])
    await world.look()
    await world.library.measure(world.file)
    revision = world.prober.view(world.view).revision
    readers = [await world.library.open(world.view, revision) for _ in range(8)]
    async with trio.open_nursery() as nursery:
        for number, reader in enumerate(readers):
            nursery.start_soon(read, reader, number * 700_000, 4096)
    assert world.place.fetched <= len(packed["gz"]) + 4 * MIB


async def test_a_block_is_decompressed_by_itself_where_the_format_can(make):
    whole = noise(9 * MIB)
    world = make(pack(whole, *PACKED["blocks.xz"]), read_ahead=0)
    reader = await world.open()
    assert await read(reader, 7 * MIB + 17, 70_000) == whole[7 * MIB + 17 :][:70_000]
    await reader.aclose()
    assert world.place.fetched < 6 * MIB


async def test_a_pass_that_was_broken_off_is_made_again_and_keeps_what_it_has(
    make, packed, original, monkeypatch
):
    world = make(packed["gz"], patience=0.2, read_ahead=0)
    inside = await world.look()
    world.place.script[:] = [2] + [Unreachable("down")] * 50
    with pytest.raises(NebfsError):
        await world.library.measure(world.file)
    await trio.testing.wait_all_tasks_blocked(0.01)
    world.place.script.clear()
    again = make()
    reader = await again.open()
    assert inside.is_unmeasured
    assert await read_all(reader) == original


async def test_what_has_left_the_cache_is_decompressed_again(make, packed, original):
    world = make(packed["gz"])
    reader = await world.open()
    assert await read_all(reader) == original
    file = next(iter(world.library.decodings._shared.values())).decoding.file
    await file.drop(3, 20)
    assert await read(reader, 4 * SLOT_SIZE, 4096) == original[4 * SLOT_SIZE :][:4096]
    assert await read_all(reader) == original


# --- all of it, for somebody who asked ---


@pytest.mark.parametrize("name", PACKED)
async def test_all_of_it_is_decompressed_for_who_asks(make, packed, original, name):
    world = make(packed[name])
    await world.look()
    async with world.library.decodings.held(world.view) as decoding:
        await decoding.complete()
        assert (decoding.file.complete, decoding.passing.whole) == (True, True)
        assert (decoding.size, decoding.frontier) == (len(original), len(original))
        passes = decoding.passing.passes
        await decoding.complete()
        assert decoding.passing.passes == passes, "what was whole was decompressed again"
    assert world.prober.view(world.view).revision.size == len(original)
    assert world.library.decodings.of(world.view).size == len(original)
    assert world.library.decodings.of(world.file) is None


async def test_what_has_left_is_brought_again_for_who_asks(make, packed, original):
    world = make(packed["gz"])
    reader = await world.open()
    async with world.library.decodings.held(world.view) as decoding:
        await decoding.complete()
        await decoding.file.drop(5, 20)
        assert decoding.frontier == 5 * SLOT_SIZE
        await decoding.complete()
        assert decoding.file.complete
    assert await read_all(reader) == original


async def test_what_keeps_leaving_is_an_error_and_not_decompressed_for_ever(
    make, packed, monkeypatch
):
    world = make(packed["gz"])
    await world.look()
    async with world.library.decodings.held(world.view) as decoding:
        end_of_pass = decoding._end_of_pass

        async def leaving():
            await end_of_pass()
            await decoding.file.drop(0, 8)

        monkeypatch.setattr(decoding, "_end_of_pass", leaving)
        with pytest.raises(CacheFault, match="no room for it"):
            await decoding.complete()
        assert decoding.passing.passes == 2


async def test_who_asks_for_all_of_it_and_leaves_does_not_have_it_go_on(make, patient_clock):
    large = pack(noise(24 * MIB), *PACKED["gz"])
    world = make(large, read_ahead=0)
    await world.look()
    world.place.per_slot = 20.0
    with trio.move_on_after(10):
        async with world.library.decodings.held(world.view) as decoding:
            await decoding.complete()
    await trio.sleep(1000)
    assert not decoding.passing.wanted_whole
    assert world.library.decodings._shared == {}
    assert world.place.fetched < len(large)


@pytest.mark.parametrize(("damage", "failure"), [(0.5, Damaged), (None, Unreachable)])
async def test_all_of_what_is_damaged_or_away_is_the_error_of_it(make, packed, damage, failure):
    data = bytearray(packed["gz"])
    world = make(data, patience=0.2, read_ahead=0)
    await world.look()
    if damage is None:
        world.place.script[:] = [Unreachable("down")] * 50
    else:
        at = int(len(data) * damage)
        data[at : at + 64] = bytes(64)
    async with world.library.decodings.held(world.view) as decoding:
        with pytest.raises(failure):
            await decoding.complete()


async def test_reads_that_waited_and_that_did_not_are_counted(make, packed, original):
    world = make(packed["xz"])
    reader = await world.open()
    async with world.library.decodings.held(world.view) as decoding:
        assert await read(reader, 0, 4096) == original[:4096]
        assert decoding.waits == 1
        await decoding.complete()
        assert await reader.pread(MIB, 4096) == original[MIB : MIB + 4096]
        assert (decoding.hits, decoding.waits) == (1, 1)


async def test_an_object_that_does_not_fit_the_cache_is_an_error_that_says_so(
    place, tmp_path, documents, nursery
):
    store = DiskStore.prepare(tmp_path / "small", 8 * MIB, 0)
    await store.measure()
    place.data = pack(text(10 * MIB), "gzip", "-c")
    world = World(place, store, documents, nursery)
    with pytest.raises(Unsupported, match="cache_size"):
        await world.open()
    with pytest.raises(Unsupported, match="cache_size"):
        world.prober.view(world.view)
    store.unlock()


# --- what is wrong ---


@pytest.mark.parametrize("name", ["gz", "bz2", "zst"])
async def test_what_is_cut_off_has_no_length(make, packed, name):
    world = make(packed[name][:-100_000])
    with pytest.raises(Damaged):
        await world.open()
    with pytest.raises(Damaged, match="cut off"):  # it is not for want of a reader
        world.prober.view(world.view)


async def test_a_qcow2_image_that_is_cut_off_is_right_up_to_there(make, tmp_path):
    data = noise(16 * MIB)
    world = make(pack(qcow2(tmp_path, data), "gzip", "-c")[: -8 * MIB])
    reader = await world.open()
    assert await read(reader, MIB, 4096) == data[MIB:][:4096]
    for _ in range(2):
        with pytest.raises(Damaged, match="cut off"):
            await read(reader, 15 * MIB, 4096)
    fetched = world.place.fetched
    with pytest.raises(Damaged, match="cut off"):
        await read(reader, 14 * MIB, 4096)
    assert world.place.fetched == fetched
    assert await read(reader, MIB, 4096) == data[MIB:][:4096]


@pytest.mark.parametrize("name", ["gz", "bz2", "xz", "zst"])
async def test_a_flipped_bit_is_never_served_once_it_was_found(make, packed, original, name):
    command = ("zstd", "-q", "-c", "--check") if name == "zst" else PACKED[name]
    data = bytearray(pack(original, *command))
    data[len(data) * 3 // 4] ^= 4
    world = make(bytes(data))
    with pytest.raises((Damaged, Unsupported)):
        await read_all(await world.open())
    assert world.damaged
    assert all(inside.flaw for inside in world.seen[1:])


@pytest.mark.parametrize("name", ["xz", "blocks.xz"])
async def test_what_came_out_of_a_file_that_is_not_what_was_published_is_dropped(
    make, packed, original, name
):
    world = make(packed[name])
    world.file = replace(world.file, checksums=(Checksum("md5", "0" * 32),))
    world.view = replace(world.file, view="raw")
    reader = await world.open()
    with pytest.raises(Damaged, match="published md5"):
        await read_all(reader)
    file = next(iter(world.library.decodings._shared.values())).decoding.file
    with trio.fail_after(10):
        while file.here:  # noqa: ASYNC110 - nobody is told when the last slot has left
            await trio.sleep(0.01)
    assert world.view in world.damaged
    with pytest.raises(Damaged, match="published md5"):
        await read(reader, 0, 4096)


async def test_the_disk_in_a_file_that_is_not_what_was_published_is_damaged(make, original):
    """As one that was replaced at its place while the front-end could not be asked."""
    world = make(pack(original, "gzip", "-c"))
    world.file = replace(world.file, checksums=(Checksum("md5", "0" * 32),))
    world.view = replace(world.file, view="raw")
    revision = (await world.prober.ask(world.file)).revision
    published = await world.library.open(world.file, revision)
    with pytest.raises(Damaged, match="published md5"):
        await read_all(published)
    assert (await world.look()).damaged
    with pytest.raises(Damaged, match="published md5"):
        world.prober.view(world.view)
    await published.aclose()


async def test_an_index_that_lies_is_found_out(make, original):
    first, second = (pack(original[:size], "xz", "-0", "-c") for size in (MIB, 2 * MIB))
    # The header and the block of one with the index and footer of another, as long as it is.
    lie = bytearray(first)
    lie[-12:] = second[-12:]
    world = make(bytes(lie))
    with pytest.raises((Damaged, Unsupported)):
        await read_all(await world.open())


@pytest.mark.parametrize("kind", ["tar", "twice", "claimed"])
async def test_what_is_no_disk_says_so(make, tmp_path, kind):
    (tmp_path / "file").write_bytes(os.urandom(5000))
    data = subprocess.run(
        ["tar", "-C", tmp_path, "-c", "file"], capture_output=True, check=True
    ).stdout
    if kind == "twice":
        data = pack(data, "gzip", "-c")
    world = make(pack(data, "xz", "-c"))
    if kind == "claimed":
        world.file = replace(world.file, format="tar")
        world.place.data = pack(b"no signature", "xz", "-c")
    inside = await world.look()
    assert inside.flaw == (
        "what is in the compressed file is compressed again"
        if kind == "twice"
        else "it is an archive of files, not a disk"
    )


async def test_what_is_not_compressed_behind_its_signature_says_so(make):
    world = make(b"\x1f\x8b" + bytes(5000))
    assert (await world.look()).flaw


async def test_a_change_of_the_file_meanwhile_is_an_error(make, packed, original):
    world = make(packed["xz"], read_ahead=0)
    reader = await world.open()
    world.place.etag = '"2"'
    with pytest.raises(NebfsError):
        await read_all(reader)


# --- what else may come ---


async def test_a_disk_format_whose_length_is_at_its_end_is_looked_at_then(make, tmp_path):
    (tmp_path / "flat").write_bytes(disk(3 * MIB))
    words = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk"]
    subprocess.run([*words, tmp_path / "flat", tmp_path / "disk"], check=True)
    world = make(pack((tmp_path / "disk").read_bytes(), "gzip", "-c"))
    reader = await world.open()
    assert await read_all(reader) == disk(3 * MIB)
    assert [inside.kind for inside in world.seen] == ["vmdk", "vmdk"]


@pytest.mark.parametrize("name", ["gz", "blocks.xz"])
async def test_readers_that_go_away_at_any_time_leave_right_bytes(make, packed, original, name):
    world = make(packed[name])
    await (await world.open()).aclose()
    revision = world.prober.view(world.view).revision
    chance = random.Random(3)

    async def some():
        reader = await world.library.open(world.view, revision)
        try:
            with trio.move_on_after(chance.random() * 0.1):
                while True:
                    offset = chance.randrange(len(original) - 300_000)
                    length = chance.choice((1, 4096, 300_000))
                    assert await read(reader, offset, length) == original[offset:][:length]
                    await trio.lowlevel.checkpoint()
        finally:
            with trio.CancelScope(shield=True):
                await reader.aclose()

    async def lose():
        for _ in range(20):
            await trio.sleep(0.01)
            for shared in list(world.library.decodings._shared.values()):
                first = chance.randrange(40)
                shared.users += 1
                await shared.decoding.file.drop(first, min(first + 9, shared.decoding.file.slots))
                shared.users -= 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose)
        for _ in range(12):
            nursery.start_soon(some)
    reader = await world.library.open(world.view, revision)
    assert await read_all(reader) == original
    await reader.aclose()
    file = world.store._files
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert not any(claimed for one in file.values() for claimed in one.claimed)
    assert world.store.reserved == 0


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        (("gzip", "-c"), 9 * MIB),
        (("xz", "-c", "-0", "-T2", "--block-size=4000000"), 7 * MIB),
    ],
    ids=["pass", "blocks"],
)
async def test_a_cache_that_is_too_small_for_both_files_still_gives_right_bytes(
    place, original, tmp_path, documents, nursery, command, limit
):
    store = DiskStore.prepare(tmp_path / "small", limit, 0)
    await store.measure()
    place.data = pack(original, *command)
    world = World(place, store, documents, nursery)
    reader = await world.open()
    with trio.fail_after(20):  # neither may wait for the room of the other
        # What begins in one block and ends in the next: nearly the whole cache is wanted for both.
        assert await read(reader, 4_000_000 - 100, 200) == original[4_000_000 - 100 :][:200]
        assert await read_all(reader, MIB // 4) == original
    assert store.used <= store.limit
    await reader.aclose()
    store.unlock()


# --- a cache disk that cannot be used -----------------------------------------------------------


@pytest.fixture(params=PACKED)
def refused(request, make, packed):
    """A world whose cache disk refuses everything but opening, and the file in each format."""
    world = make(packed[request.param])
    world.store._full_until = math.inf
    return world


def work(world):
    """How something was decoded: passes that were begun, and reads that nothing could keep."""
    (shared,) = world.library.decodings._shared.values()
    return shared.decoding.passing.passes, shared.decoding.streamed


async def test_what_a_disk_refuses_is_kept_in_memory(refused, original):
    reader = await refused.open()
    assert await read_all(reader) == original
    assert reader.facts().where == "memory"
    before = work(refused)
    assert await read_all(reader) == original
    assert work(refused) == (before[0], 0)


async def test_what_memory_has_no_room_for_is_decoded_for_each_reader(refused, original):
    refused.library._memory.limit = 5 * MIB // 2  # the compressed file takes some of it, too
    readers = [await refused.open() for _ in range(2)]
    assert await read_all(readers[0]) == original
    for _ in range(12):
        at = random.randrange(len(original) - 4096)
        for reader in readers:
            assert await read(reader, at, 4096) == original[at : at + 4096]
    with pytest.raises(Damaged):
        await readers[0].pread(len(original) - 5, 6)
    assert await read(readers[1], len(original) - 5, 5) == original[-5:]
    for reader in readers:
        await reader.aclose()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert refused.library._memory.open_files() == []
    assert not refused.library.decodings._streams._open


async def test_readers_one_after_the_other_share_what_is_decoded_for_them(
    make, packed, original, monkeypatch
):
    world = make(packed["gz"])
    world.store._full_until = math.inf
    world.library._memory.limit = 5 * MIB // 2
    readers = [await world.open() for _ in range(3)]
    await read(readers[0], 0, 10)
    begun = []
    stream = decoded_stream.Stream
    rewind = stream._rewind
    monkeypatch.setattr(stream, "_rewind", lambda self: begun.append(1) or rewind(self))
    for at in range(0, len(original) - 65536, 65536):
        for reader in readers:
            assert await read(reader, at, 65536) == original[at : at + 65536]
    assert begun == []


@pytest.mark.parametrize("name", ["gz", "xz", "blocks.xz"])
async def test_a_disk_that_works_again_is_used_again(make, packed, original, name):
    world = make(packed[name])
    world.store._full_until = math.inf
    world.library._memory.limit = 5 * MIB // 2
    reader = await world.open()
    assert await read(reader, 4 * MIB, 5000) == original[4 * MIB :][:5000]
    assert reader.facts().where == "memory"
    world.store._full_until = 0.0
    assert await read_all(reader) == original
    assert reader.facts().where == "disk"
    streamed = work(world)[1]
    assert await read_all(reader) == original
    assert work(world)[1] == streamed
    await reader.aclose()
    assert not world.library.decodings._streams._open


@pytest.mark.parametrize("name", ["gz", "zst", "xz"])
async def test_damage_that_is_found_while_nothing_is_kept_is_damage(
    make, packed, original, name, monkeypatch
):
    world = make(packed[name])
    reader = await world.open()  # while it is right: its length is known then
    world.store._full_until = math.inf
    world.library._memory.limit = MIB
    await world.store.discard(world.store.open_files()[0].key, force=True)
    advance = decoded_stream.Stream._advance

    def broken(self, offset, stop):
        if stop > 3 * MIB:
            raise Damaged("the compressed image is damaged")
        return advance(self, offset, stop)

    for file in world.store.open_files():
        await file.drop(0, file.slots)
    monkeypatch.setattr(decoded_stream.Stream, "_advance", broken)
    assert await read(reader, 0, 4096) == original[:4096]
    for at in (4 * MIB, 0):
        with pytest.raises(Damaged):
            await read(reader, at, 4096)
    assert world.damaged


async def test_a_cache_in_memory_holds_what_fits_into_it(
    place, documents, nursery, original, packed
):
    place.data = packed["gz"]
    world = World(place, MemoryStore(32 * MIB), documents, nursery)
    reader = await world.open()
    assert await read_all(reader) == original


async def test_at_most_two_are_decompressed_at_once_and_all_get_their_turn(
    make, packed, original, patient_clock
):
    world = make(packed["gz"], patience=1000.0, read_ahead=0)
    world.place.latency = 0.1
    files = [replace(world.file, locator=Locator("http", f"http://h/{n}")) for n in range(5)]
    for file in files:
        await world.prober.ask(file)
        await world.library.look(file)
    async with trio.open_nursery() as readers:
        for file in files:
            readers.start_soon(world.library.measure, file)
    for file in files:
        view = replace(file, view="raw")
        reader = await world.library.open(view, world.prober.view(view).revision)
        assert await read(reader, 5 * MIB, 4096) == original[5 * MIB :][:4096]
        await reader.aclose()
