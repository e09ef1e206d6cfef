"""VMs at rest in a survey: each in its datastore, and what stays while that is away."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from nebfs.catalog import Catalog
from nebfs.catalog.saved import pack, unpack
from nebfs.config import Settings
from nebfs.errors import Refused, Unreachable
from nebfs.model import (
    Content,
    DatastoreType,
    Locator,
    MachineDisk,
    MachineState,
    Parked,
    Part,
    VirtualMachine,
)
from tests.catalog.conftest import make_datastore


def machine(number=33, store=0, **changes):
    facts = {"state": MachineState.POWEROFF, "datastore_id": store, "disks": (MachineDisk(0),)}
    return VirtualMachine(number, f"vm {number}", **{**facts, **changes})


class System:
    """Has a content for every disk, and keeps what it was asked."""

    def __init__(self):
        self.asked, self.failure, self.hangs = [], None, False

    async def parked(self, datastore, machines, images):
        self.asked.append((datastore.id, [m.id for m in machines], sorted(images)))
        if self.hangs:
            await trio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        return tuple(
            Parked(m, tuple(Part(f"disk.{d.id}", Content(Locator("file", "/x"))) for d in m.disks))
            for m in machines
        )


@pytest.fixture
def system(world):
    """A cloud with a system datastore and two VMs, one of which is elsewhere."""
    made = System()
    world.system = made
    system = make_datastore(0, type=DatastoreType.SYSTEM, driver="-", image_ids=())
    world.cloud._datastores.append(system)
    world.cloud.told = (machine(33), machine(35, store=99))

    async def machines():
        if isinstance(world.cloud.told, Exception):
            raise world.cloud.told
        return world.cloud.told

    world.cloud.machines = machines
    return made


def store(snapshot, number):
    return next(d for d in snapshot.datastores if d.datastore.id == number)


async def test_each_vm_is_in_the_datastore_where_it_was_last(world, system):
    snapshot = await world.survey()
    assert [one.machine.id for one in store(snapshot, 0).parked] == [33]
    assert store(snapshot, 1).parked == ()
    ((number, machines, images),) = system.asked
    assert (number, machines) == (0, [33])
    assert images == [h.image.id for d in snapshot.datastores for h in d.holdings]
    assert unpack(pack(snapshot)) == snapshot


async def test_what_is_slow_and_hangs_one_after_the_other_is_no_reason_not_to_start(
    world, system, shelf, autojump_clock
):
    settings = Settings()
    world.cloud.takes = 0.9 * settings.listing_deadline
    world.driver("fs").hangs = world.driver("one").hangs = True
    system.hangs = True
    surveyor = replace(world.surveyor, place_timeout=settings.listing_deadline)

    async def survey(previous, only=None, *, patience):
        return await surveyor.cloud(world.cloud, "http://one.example.org/RPC2", previous)

    catalog = Catalog(survey, shelf, interval=60, deadline=settings.start_deadline)
    await catalog.start()
    assert not catalog.current.trouble
    assert {d.datastore.id: bool(d.trouble) for d in catalog.current.datastores} == {
        0: True,
        1: True,
    }


async def test_nobody_asks_for_vms_that_are_not_to_be_shown(world, system):
    world.system = None
    world.cloud.told = Unreachable("nobody may ask")
    snapshot = await world.survey()
    assert store(snapshot, 0).parked == ()
    assert system.asked == []


async def test_a_datastore_that_is_away_keeps_the_disks_of_vms_that_still_rest(world, system):
    before = await world.survey()
    system.failure = Unreachable("the disk gives errors")
    world.cloud.told = (machine(33), machine(36))
    after = await world.survey(before)
    known, fresh = store(after, 0).parked
    assert known == store(before, 0).parked[0]
    assert "does not answer" in fresh.disks[0].trouble.reason
    assert "the disk gives errors" in store(after, 0).trouble
    world.cloud.told = (machine(36),)
    (only,) = store(await world.survey(after), 0).parked
    assert only.machine.id == 36


async def test_a_vm_that_was_changed_meanwhile_has_no_old_disks(world, system):
    before = await world.survey()
    system.failure = Unreachable("away")
    world.cloud.told = (machine(33, disks=(MachineDisk(0), MachineDisk(1))),)
    (parked,) = store(await world.survey(before), 0).parked
    assert [part.content for part in parked.disks] == [None, None]


async def test_a_front_end_that_does_not_tell_its_vms_fails_in_their_datastores_only(world, system):
    before = await world.survey()
    world.cloud.told = Unreachable("cut off")
    after = await world.survey(before)
    assert store(after, 0).parked == store(before, 0).parked
    assert "does not tell its VMs" in store(after, 0).trouble
    assert store(after, 1).trouble == ""
    world.cloud.told = Refused("who are you?")
    with pytest.raises(Refused):
        await world.survey(after)
