"""Whether a file is what was published: one judgement, for ``explain`` and for ``verify``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nebfs.blocks import SLOT_SIZE, DiskStore
from nebfs.blocks.index import Verdict
from nebfs.content.explaining import Stack
from nebfs.content.stack import ReaderFacts
from nebfs.daemon.explaining import explained
from nebfs.daemon.finding import File, Image
from nebfs.daemon.here import verdict_of
from nebfs.model import Checksum, Content, Locator, Revision

SUMS = (Checksum("sha256", "0" * 64),)
REVISION = Revision(3 * SLOT_SIZE)


def file_of(transport="http", checksums=SUMS):
    return File(Content(Locator(transport, f"{transport}://h/x"), checksums=checksums), REVISION)


@pytest.fixture
async def store(tmp_path):
    made = DiskStore.prepare(tmp_path / "cache", 1 << 30, 0)
    await made.measure()
    yield made
    made.unlock()


@pytest.fixture
def house(store):
    """A house in which `facts` is what an open file says of itself; None: nothing is open."""
    made = SimpleNamespace(facts=None, store=store)
    made.library = SimpleNamespace(
        facts=lambda content, revision: made.facts,
        explained=lambda content, revision: made.facts and Stack(made.facts, ()),
        pace=lambda content: None,
        unpackings=SimpleNamespace(of=lambda view: None),
    )
    made.prober = SimpleNamespace(known=lambda content: None)
    handles = SimpleNamespace(use_of=lambda content: (0, 0))
    made.operations = SimpleNamespace(handles=handles)
    return made


async def told(house, file):
    """What both say of a file."""
    image = Image(SimpleNamespace(name="x"), file.content, file.revision, (file,))
    answer = await explained(house, image)
    assert answer["verified"] == answer["files"][0]["verified"] == await verdict_of(house, file)
    return answer["verified"], answer["cached"]


async def rests(store, file, verdict):
    opened = await store.open(file.key, file.revision.size)
    await opened.judge(verdict)
    await store.release(opened)


@pytest.mark.parametrize(
    ("verdict", "word"),
    [(Verdict.UNKNOWN, "no"), (Verdict.VERIFIED, "yes"), (Verdict.MISMATCH, "mismatch")],
)
async def test_the_verdict_on_what_nobody_has_open_is_the_one_on_the_disk(
    house, store, verdict, word
):
    file = file_of()
    assert await told(house, file) == ("no", 0), "nothing of it is here"
    await rests(store, file, verdict)
    assert await told(house, file) == (word, 0)


async def test_what_is_open_speaks_for_itself(house, store):
    file = file_of()
    await rests(store, file, Verdict.VERIFIED)
    house.facts = ReaderFacts(file.revision.size, 5, "mismatch", "it differs")
    assert await told(house, file) == ("mismatch", 5)


async def test_where_nothing_is_compared_there_is_no_verdict(house, store):
    unpublished = file_of(checksums=())
    await rests(store, unpublished, Verdict.UNKNOWN)
    assert await told(house, unpublished) == ("", 0)
    # It is read where it is, and never compared with anything.
    assert await told(house, file_of("file")) == ("", None)
