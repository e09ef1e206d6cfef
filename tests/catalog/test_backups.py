"""The disks of deferred holdings: asked for once, kept, and asked anew when a backup has grown."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from nebfs.catalog import Backups, CloudSnapshot, DatastoreListing, Keeping
from nebfs.errors import NebfsError, Unreachable
from nebfs.model import Content, Datastore, Holding, Image, Increment, Locator, Part

STORE = Datastore(108, "backups", driver="rsync")
IMAGE = Image(71, "33 10-Oct", datastore_id=108, source="8a3454")
BACKUP = Holding(IMAGE, deferred=True)
BASE = Content(Locator("sftp", "sftp://host/b/33/8a3454/disk.0.0"))
TOP = Content(Locator("sftp", "sftp://host/b/33/f6e63e/disk.0.1"), view="raw", backing=BASE)
DISKS = (Part("disk.0.0", BASE), Part("disk.0.1", TOP, date=5))
SNAPSHOT = CloudSnapshot("x", 1.0, datastores=(DatastoreListing(STORE, (BACKUP,), 1.0),))


class Driver:
    def __init__(self):
        self.asked = []
        self.answer = DISKS

    async def __call__(self, datastore, holding):
        self.asked.append((datastore.id, holding.image.id))
        if isinstance(self.answer, NebfsError):
            raise self.answer
        return self.answer


@pytest.fixture
def driver():
    return Driver()


def made(driver, shelf, snapshot=SNAPSHOT):
    return Backups(
        driver,
        lambda: snapshot,
        Keeping(shelf, "backups", timeout=20.0, max_age=600.0, now=trio.current_time),
    )


async def test_disks_that_are_known_are_not_asked(driver, shelf):
    assert await made(driver, shelf).disks(Holding(IMAGE, disks=DISKS)) == DISKS
    assert driver.asked == []


async def test_they_are_asked_once_and_anew_when_the_backup_has_grown(driver, shelf):
    backups = made(driver, shelf)
    for _ in range(3):
        assert await backups.disks(BACKUP) == DISKS
    assert driver.asked == [(108, 71)]
    grown = replace(IMAGE, increments=(Increment(1, 0, False, 5, "f6e63e", 3),))
    await backups.disks(replace(BACKUP, image=grown))
    assert len(driver.asked) == 2


async def test_they_are_kept_for_the_next_start_chains_and_all(driver, shelf, autojump_clock):
    backups = made(driver, shelf)
    await backups.disks(BACKUP)
    await backups.save()
    later = made(driver, shelf)
    await later.load()
    driver.answer = Unreachable("no answer")
    assert await later.disks(BACKUP) == DISKS
    await trio.sleep(601)
    assert await later.disks(BACKUP) == DISKS


async def test_a_datastore_that_is_gone_has_no_disks(driver, shelf):
    backups = made(driver, shelf, replace(SNAPSHOT, datastores=()))
    with pytest.raises(NebfsError, match="not there any more"):
        await backups.disks(BACKUP)
