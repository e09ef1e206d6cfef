"""Boot profiles at work: what one boot reads is brought ahead of the next, and never more harm."""

from __future__ import annotations

import random

import pytest
import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, DiskStore, Documents, MemoryStore
from nebfs.content import Library, LibrarySettings
from nebfs.content.layers.limited import Gate
from nebfs.content.profiling import Part, Profile, Shelf, lineage
from nebfs.content.profiling.boots import LONGEST, QUIET, Boots
from nebfs.content.stack import Priority
from nebfs.errors import Unreachable
from nebfs.model import Content, Locator, Revision

MIB = 1 << 20
SIZE = 64 * MIB + 777
URL = "http://host/image"
DATA = random.Random(1).randbytes(SIZE)
KEY = lineage(Content(Locator("http", URL)))


def boot(seed=3, count=60):
    """Reads of 4 KiB in so many slots, in no order."""
    return random.Random(seed).sample(range(SIZE // SLOT_SIZE), count)


@pytest.fixture
def place(place):
    place.data = DATA
    return place


@pytest.fixture(autouse=True)
def _thread_time(monkeypatch):
    """Threads take their time on a loaded machine, while our clock jumps."""
    monkeypatch.setattr("nebfs.content.profiling.boots.PATIENCE", 1e6)


class Machine:
    """A machine's cache and profiles; ``library`` is a life of the daemon on it."""

    def __init__(self, place, store, shelf):
        self.place = place
        self.store = store
        self.shelf = shelf

    def library(self, nursery, shelf=True, **settings):
        return Library(
            self.place,
            self.store,
            MemoryStore(16 << 20),
            nursery,
            LibrarySettings(**settings),
            on_changed=lambda _: None,
            on_damaged=lambda _: None,
            profiles=self.shelf if shelf else None,
        )


@pytest.fixture
async def machine(tmp_path, place):
    store = DiskStore.prepare(tmp_path / "cache", 1 << 30, 0)
    await store.measure()
    yield Machine(place, store, Shelf(Documents(tmp_path / "cache/documents")))
    store.unlock()


@pytest.fixture
async def elsewhere(tmp_path, place, machine):
    """Another machine with an empty cache and the same profiles."""
    store = DiskStore.prepare(tmp_path / "cache2", 1 << 30, 0)
    await store.measure()
    yield Machine(place, store, machine.shelf)
    store.unlock()


async def opened(library, place):
    return await library.open(Content(Locator("http", URL)), place.revision)


async def read(reader, offset, length=4096):
    """Read as the window to the kernel does."""
    view = reader.warm(offset, length)
    return bytes(view) if view is not None else bytes(await reader.pread(offset, length))


async def boots(reader, place, slots, think=0.0):
    for slot in slots:
        at = slot * SLOT_SIZE + 4096
        assert await read(reader, at) == place.data[at : at + 4096]
        await trio.sleep(think)


async def settled(place):
    """Wait until nothing was asked for a while."""
    while True:
        asked = len(place.log)
        await trio.sleep(1)
        if len(place.log) == asked and not place.running:
            return


def slots_asked(place):
    return [
        slot
        for request in place.log
        for start, stop in request.ranges
        for slot in range(start // SLOT_SIZE, -(-stop // SLOT_SIZE))
    ]


async def record(machine, nursery, place, slots, **how):
    library = machine.library(nursery, **how)
    reader = await opened(library, place)
    await boots(reader, place, slots)
    await reader.aclose()
    place.log.clear()


async def kept(machine):
    """Return the profile as soon as it is on the disk: threads do not go by our clock."""
    for _ in range(100):
        found = await machine.shelf.load(KEY)
        if found is not None:
            return found
        await trio.sleep(0.1)
    raise AssertionError("there is no profile")


async def test_what_a_boot_read_is_recorded_in_its_order(machine, place, nursery, patient_clock):
    slots = boot()
    await record(machine, nursery, place, slots)
    found = await machine.shelf.load(KEY)
    assert list(found.slots()) == slots
    assert found.boots == 1
    assert found.revision == place.revision
    assert found.image == URL
    assert len(found.sums) > 40


async def test_the_next_boot_finds_it_on_its_way(machine, elsewhere, place, nursery, patient_clock):
    slots = boot()
    await record(machine, nursery, place, slots)
    place.latency, place.most = 0.02, 0
    reader = await opened(elsewhere.library(nursery, turns=2, read_ahead=0), place)
    await settled(place)
    came = slots_asked(place)
    assert set(slots) <= set(came)
    assert len(came) == len(set(came))  # each once
    assert place.fetched < 3 * 60 * SLOT_SIZE  # gaps are brought along, and no more
    assert len(place.log) < 55  # several slots in one request
    first = slots[:16]
    assert max(map(came.index, first)) < 40  # what is read first comes first
    assert place.most == 2
    place.log.clear()
    await boots(reader, place, slots)
    assert place.log == []
    await reader.aclose()


async def test_a_boot_that_runs_after_its_profile_waits_for_little(
    machine, elsewhere, place, nursery, patient_clock
):
    slots = boot()
    await record(machine, nursery, place, slots)
    place.latency = 0.02
    reader = await opened(elsewhere.library(nursery), place)
    began = trio.current_time()
    await boots(reader, place, slots)
    assert trio.current_time() - began < 60 * 0.02 / 3  # a third of one round trip for each
    came = slots_asked(place)
    assert len(came) == len(set(came))
    await reader.aclose()


async def test_without_profiles_nothing_is_recorded_or_brought(
    machine, elsewhere, place, nursery, patient_clock
):
    slots = boot()
    await record(machine, nursery, place, slots, shelf=False)
    assert await machine.shelf.keys() == []
    await record(machine, nursery, place, boot(4))
    reader = await opened(elsewhere.library(nursery, shelf=False), place)
    await settled(place)
    assert place.log == []
    await reader.aclose()


async def test_a_copy_leaves_no_profile(machine, place, nursery, patient_clock):
    reader = await opened(machine.library(nursery), place)
    for at in range(0, 24 * MIB, MIB):
        await read(reader, at, MIB)
    await reader.aclose()
    assert await machine.shelf.keys() == []


async def test_a_guest_that_goes_on_running_is_recorded_when_its_boot_is_over(
    machine, place, nursery, patient_clock
):
    slots = boot()
    reader = await opened(machine.library(nursery), place)
    await boots(reader, place, slots[:50])
    await trio.sleep(QUIET + 15)
    found = await kept(machine)
    assert list(found.slots()) == slots[:50]
    await boots(reader, place, slots[50:])  # it is running, and no longer booting
    await reader.aclose()
    found = await machine.shelf.load(KEY)
    assert list(found.slots()) == slots[:50]
    assert found.boots == 1


async def test_a_boot_lasts_ten_minutes_at_most(machine, place, nursery, patient_clock):
    slots = boot()
    reader = await opened(machine.library(nursery), place)
    await boots(reader, place, slots, think=LONGEST / 25)  # 24 s each: it is never quiet
    found = await kept(machine)
    assert 24 <= len(list(found.slots())) <= 27
    await reader.aclose()


async def test_two_guests_at_once_make_one_profile_and_fetch_once(
    machine, elsewhere, place, nursery, patient_clock
):
    slots = boot()
    library = machine.library(nursery)
    guests = [await opened(library, place) for _ in range(2)]
    async with trio.open_nursery() as both:
        both.start_soon(boots, guests[0], place, slots)
        both.start_soon(boots, guests[1], place, slots)
    for guest in guests:
        await guest.aclose()
    found = await machine.shelf.load(KEY)
    assert found.boots == 2
    assert list(found.slots()) == slots
    place.log.clear()
    library = elsewhere.library(nursery)
    guests = [await opened(library, place) for _ in range(2)]
    await settled(place)
    came = slots_asked(place)
    assert set(slots) <= set(came)
    assert len(came) == len(set(came))
    for guest in guests:
        await guest.aclose()


async def test_a_daemon_that_stops_keeps_what_it_has_recorded(machine, place, patient_clock):
    slots = boot()
    async with trio.open_nursery() as life:
        reader = await opened(machine.library(life), place)
        await boots(reader, place, slots)
        life.cancel_scope.cancel()
    assert list((await machine.shelf.load(KEY)).slots()) == slots


async def test_a_daemon_that_stops_with_a_slow_cache_disk_keeps_what_it_has_recorded(
    machine, place, patient_clock, monkeypatch
):
    """Hashing took longer than closing may, and the boot was lost without a word."""
    monkeypatch.setattr("nebfs.content.profiling.boots.PATIENCE", 5.0)
    slots = boot()
    async with trio.open_nursery() as life:
        reader = await opened(machine.library(life), place)
        await boots(reader, place, slots)
        swift = BlockFile.read

        async def slowly(self, offset, length):
            await trio.sleep(2)
            return await swift(self, offset, length)

        monkeypatch.setattr(BlockFile, "read", slowly)
        life.cancel_scope.cancel()
    found = await machine.shelf.load(KEY)
    assert list(found.slots()) == slots
    assert 1 <= len(found.sums) <= 3, "the checksums that were had in time"


async def test_a_daemon_that_stops_with_many_images_open_keeps_the_boots_of_all(
    machine, place, patient_clock, monkeypatch
):
    """They wait for each other: the last ones waited for longer than closing may take."""
    monkeypatch.setattr("nebfs.content.profiling.boots.PATIENCE", 5.0)
    load, urls = machine.shelf.load, [f"http://host/image{n}" for n in range(8)]

    async def slowly(key):
        await trio.sleep(1)
        return await load(key)

    async with trio.open_nursery() as life:
        library = machine.library(life)
        for url in urls:
            reader = await library.open(Content(Locator("http", url)), place.revision)
            await boots(reader, place, boot(count=20))
        await trio.sleep(2)  # what they follow was looked for
        monkeypatch.setattr(machine.shelf, "load", slowly)
        life.cancel_scope.cancel()
    keys = [lineage(Content(Locator("http", url))) for url in urls]
    assert [await load(key) is None for key in keys] == [False] * len(urls)


async def test_demands_and_read_ahead_have_turns_beside_it(autojump_clock):
    gate = Gate(4)
    held = []

    async def hold(priority):
        async with gate.turn(priority):
            held.append(priority)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for priority in (Priority.PROFILE, Priority.READ_AHEAD, Priority.DEMAND):
            for _ in range(9):
                nursery.start_soon(hold, priority)
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert held.count(Priority.PROFILE) == 6
    assert held.count(Priority.READ_AHEAD) == 1
    assert held.count(Priority.DEMAND) == 1
    assert gate.holding == 0


async def test_a_guest_that_ends_while_another_one_s_boot_is_kept(
    machine, place, nursery, patient_clock, monkeypatch
):
    merge = Boots._merge

    async def slowly(self, read):
        await trio.sleep(30)
        await merge(self, read)

    monkeypatch.setattr(Boots, "_merge", slowly)
    slots = boot()
    library = machine.library(nursery)
    guests = [await opened(library, place) for _ in range(2)]
    for guest in guests:
        await boots(guest, place, slots)
    await trio.sleep(QUIET + 15)  # the first one's is being kept
    await guests[1].aclose()
    await guests[0].aclose()
    assert (await machine.shelf.load(KEY)).boots == 2


async def test_closing_the_image_stops_it(machine, elsewhere, place, nursery, patient_clock):
    await record(machine, nursery, place, boot(count=120))
    place.latency = 1.0
    reader = await opened(elsewhere.library(nursery), place)
    await trio.sleep(1.5)
    await reader.aclose()
    asked = len(place.log)
    await trio.sleep(60)
    assert 0 < asked <= 12
    assert len(place.log) == asked
    assert place.running == 0


async def test_what_somebody_waits_for_overtakes_it(
    machine, elsewhere, place, nursery, patient_clock
):
    slots = boot(count=120)
    await record(machine, nursery, place, slots)
    place.latency = 1.0
    reader = await opened(elsewhere.library(nursery), place)
    await trio.sleep(0.5)
    other = next(s for s in range(SIZE // SLOT_SIZE) if min(abs(s - o) for o in slots) > 2)
    began = trio.current_time()
    await boots(reader, place, [other])
    assert trio.current_time() - began < 1.1
    await reader.aclose()


async def test_what_the_profile_does_not_know_is_read_as_ever(
    machine, elsewhere, place, nursery, patient_clock
):
    await record(machine, nursery, place, [slot for slot in boot() if slot > 256])
    place.latency = 1.0
    library = elsewhere.library(nursery)
    reader = await opened(library, place)
    await trio.sleep(3.5)  # how far the place is has been found out
    place.log.clear()
    await boots(reader, place, [100])
    await settled(place)
    assert {99, 100, 101, 102} <= set(slots_asked(place))  # as of any place far away
    await reader.aclose()


async def test_a_bug_costs_a_boot_its_speed_and_nothing_else(
    machine, place, nursery, patient_clock, monkeypatch
):
    slots = boot()
    await record(machine, nursery, place, slots)

    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("nebfs.content.profiling.boots.merged", broken)
    monkeypatch.setattr("nebfs.content.profiling.boots.Follower", broken)
    library = machine.library(nursery)
    reader = await opened(library, place)
    await boots(reader, place, slots)
    await reader.aclose()
    assert library.open_objects == 0


async def test_a_place_that_fails_is_left_alone(machine, elsewhere, place, nursery, patient_clock):
    await record(machine, nursery, place, boot())
    place.script = [Unreachable("it is down")] * 100
    reader = await opened(elsewhere.library(nursery), place)
    await trio.sleep(60)
    assert len(place.log) <= 8
    place.script.clear()
    await boots(reader, place, boot(9, 3))  # and reads are as they were
    await reader.aclose()


def newer(place, keep):
    """Have the place hold another version, of which `keep` of 10 slots are as they were."""
    data = bytearray(place.data)
    for slot in range(len(data) // SLOT_SIZE):
        if slot % 10 >= keep:
            data[slot * SLOT_SIZE] ^= 255
    place.data = bytes(data)
    place.etag = '"2"'


async def test_another_version_with_the_same_layout_is_brought_too(
    machine, elsewhere, place, nursery, patient_clock
):
    slots = boot()
    await record(machine, nursery, place, slots)
    newer(place, 8)
    reader = await opened(elsewhere.library(nursery), place)
    await settled(place)
    assert set(slots) <= set(slots_asked(place))
    await boots(reader, place, slots)
    await reader.aclose()
    found = await machine.shelf.load(KEY)
    assert found.revision == place.revision
    assert found.boots == 2


async def test_another_version_with_another_layout_is_found_out_after_a_few_requests(
    machine, elsewhere, place, nursery, patient_clock
):
    await record(machine, nursery, place, boot())
    newer(place, 2)
    reader = await opened(elsewhere.library(nursery), place)
    await settled(place)
    assert 0 < place.fetched <= 32 * SLOT_SIZE
    slots = boot(8)
    await boots(reader, place, slots)
    await reader.aclose()
    found = await machine.shelf.load(KEY)  # recorded anew
    assert found.boots == 1
    assert list(found.slots()) == slots
    assert found.revision == place.revision


async def test_a_layout_that_is_the_same_at_the_beginning_only_is_left_there(
    machine, elsewhere, place, nursery, patient_clock
):
    slots = sorted(boot(count=120))
    # Read by and by, forwards and with gaps: no stream, as a slot is left out now and then.
    await record(machine, nursery, place, slots)
    data = bytearray(place.data)
    for at in range(len(data) // 4, len(data), SLOT_SIZE):
        data[at // SLOT_SIZE * SLOT_SIZE] ^= 255
    place.data, place.etag = bytes(data), '"2"'
    reader = await opened(elsewhere.library(nursery), place)
    await settled(place)
    assert len(slots_asked(place)) < 100
    await reader.aclose()


def hostile(parts, sums=(), revision=None, size=SIZE):
    revision = revision or Revision(size, '"1"')
    return Profile(KEY, URL, revision, 1, 0.0, tuple(parts), tuple(sums))


async def test_a_profile_that_wants_everything_gets_a_quarter(
    machine, place, nursery, patient_clock
):
    await machine.shelf.save(hostile([Part(0, SIZE, 255)]))
    reader = await opened(machine.library(nursery), place)
    await settled(place)
    assert place.fetched <= SIZE // 4
    assert place.fetched > SIZE // 4 - MIB
    await reader.aclose()


async def test_a_profile_with_ranges_that_this_version_has_not_is_harmless(
    machine, place, nursery, patient_clock
):
    size = 1 << 50
    parts = [Part(n << 40, SLOT_SIZE, 1) for n in range(1, 900)]
    parts.append(Part(SIZE - 1, 100 * SLOT_SIZE))
    revision = Revision(size, '"1"')
    await machine.shelf.save(hostile(parts, [(1 << 40, 5)], revision))
    reader = await opened(machine.library(nursery), place)
    await settled(place)
    assert place.fetched <= 2 * SLOT_SIZE
    await boots(reader, place, boot(count=5))
    await reader.aclose()


async def test_a_profile_of_another_version_without_checksums_is_not_believed(
    machine, place, nursery, patient_clock
):
    await machine.shelf.save(hostile([Part(0, 8 * MIB)], revision=Revision(SIZE, '"0"')))
    reader = await opened(machine.library(nursery), place)
    await settled(place)
    assert place.log == []
    await reader.aclose()


async def test_a_machine_that_has_it_all_asks_for_nothing(machine, place, nursery, patient_clock):
    slots = boot()
    await record(machine, nursery, place, slots)
    reader = await opened(machine.library(nursery), place)
    await settled(place)
    assert place.log == []
    await boots(reader, place, slots)
    await reader.aclose()
    assert (await machine.shelf.load(KEY)).boots == 2


async def test_what_is_forgotten_while_the_image_is_open_stays_forgotten_until_it_is_recorded(
    machine, place, nursery, patient_clock
):
    slots = boot()
    await record(machine, nursery, place, slots)
    reader = await opened(machine.library(nursery), place)
    assert await machine.shelf.forget(KEY)
    await boots(reader, place, slots)
    await reader.aclose()
    assert (await machine.shelf.load(KEY)).boots == 1
