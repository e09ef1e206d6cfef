"""What is asked of places and kept: the catalogue, openings and backups, and what files are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import trio

from nebfs.blocks import Documents
from nebfs.catalog import Backups, Catalog, CloudSnapshot, Keeping, Openings
from nebfs.content import Prober
from nebfs.errors import Unreachable
from nebfs.model import App, Content, Datastore, Holding, Image, Locator, Marketplace, Offer, Part
from tests.catalog.conftest import World, make_datastore, make_image
from tests.promises.model.reference import Versions
from tests.promises.subjects import Made, Operation, subject
from tests.promises.subjects.places import Files

ADDRESSES = [f"http://host/{number}" for number in range(3)]


def _images(snapshot: CloudSnapshot) -> set[int]:
    return {h.image.id for listing in snapshot.datastores for h in listing.holdings}


def _catalog(world: World, home: Path) -> Catalog:
    return Catalog(world.survey, Documents(home), interval=60.0, deadline=30.0)


@subject
async def first_lists(home: Path) -> AsyncIterator[Made]:
    """The first lists of a life, new or as they were saved, and those of the next hours."""
    world = World()

    async def prepare() -> None:
        world.cloud.error = None

    async def run() -> None:
        catalog = _catalog(world, home)
        await catalog.start()
        with trio.move_on_after(200):
            await catalog.run()
        world.cloud.error = Unreachable("not now")
        assert await catalog.refresh() is not None

    async def check() -> None:
        world.cloud.error = None
        catalog = _catalog(world, home)
        await catalog.start()
        # What was saved is whole, or is not there.
        world.cloud.error = Unreachable("not now")
        saved = _catalog(world, home)
        await saved.start()
        assert saved.current is not None
        assert catalog.current is not None
        for one, other in zip(
            saved.current.marketplaces, catalog.current.marketplaces, strict=True
        ):
            assert one.offers == other.offers

    yield Operation(run, check, prepare)


@subject
async def refreshing(home: Path) -> AsyncIterator[Made]:
    """Two who ask at once, of whom one gives up: the other has his answer, and it is saved."""
    world = World()
    catalog = _catalog(world, home)
    await catalog.start()
    heard: list[set[int]] = []
    catalog.subscribe(lambda old, new: heard.append(_images(new)))

    async def prepare() -> None:
        world.cloud._images.append(make_image(200 + len(world.cloud._images)))
        world.cloud._datastores[:] = [
            make_datastore(1),
            make_datastore(2, image_ids=tuple(i.id for i in world.cloud._images)),
        ]

    async def run() -> None:
        await catalog.refresh()

    async def check() -> None:
        assert await catalog.refresh() is None
        assert catalog._flight is None
        current = catalog.current
        assert current is not None
        shown = {image.id for image in world.cloud._images}
        assert _images(current) == heard[-1] == shown, "somebody was not told"
        world.cloud.error = Unreachable("not now")
        saved = _catalog(world, home)
        await saved.start()
        world.cloud.error = None
        assert saved.current is not None
        assert _images(saved.current) == shown, "the newest lists were not saved"

    yield Operation(run, check, prepare)


@subject
async def what_files_are(home: Path) -> AsyncIterator[Made]:
    """What places have: asked, kept, and known to the next life."""
    image = Versions().make("qcow2", 1000).data
    files = Files({address: image + address.encode() for address in ADDRESSES})
    contents = [Content(Locator("http", address)) for address in ADDRESSES]
    local = home / "file"
    local.write_bytes(b"x" * 5000)
    kept = Documents(home)
    prober = Prober(files, kept)

    async def prepare() -> None:
        for content in contents:
            prober.forget(content)
        prober._refused.clear()
        await kept.forget("probes.json")
        files.script = [Unreachable("not now")]

    async def ask(content: Content) -> None:
        found = await prober.ask(content)
        assert found.revision == files.revision(content.locator.address)

    async def run() -> None:
        await prober.load()
        try:
            await prober.ask(contents[0])
        except Unreachable:
            prober._refused.clear()
        async with trio.open_nursery() as nursery:
            for content in contents:
                nursery.start_soon(ask, content)
                nursery.start_soon(ask, content)
        await prober.ask(Content(Locator("file", str(local))))
        await prober.ask(Content(Locator("http", ADDRESSES[0]), view="raw"))
        with trio.move_on_after(12):
            await prober.run()

    async def check() -> None:
        assert prober._asking == {}
        assert files.running == 0
        prober._refused.clear()
        files.script = []
        for content in contents:
            await ask(content)
        await prober.save()
        next_life = Prober(files, kept)
        await next_life.load()
        for content in contents:
            assert next_life.known(content) is not None, "what was learned was not saved"

    yield Operation(run, check, prepare)


@subject
async def openings_and_backups(home: Path) -> AsyncIterator[Made]:
    """The files of apps and backups of which no list tells."""
    world = World()
    catalog = _catalog(world, home)
    await catalog.start()
    app = Offer(App(1, "app", marketplace_id=0), deferred=True)
    backup = Holding(Image(7, "backup", datastore_id=1), deferred=True)
    content = Content(Locator("http", "http://host/x"))
    asked = {"files": 0, "disks": 0}

    async def files(market: Marketplace, one: App, version: str) -> tuple[Content, ...]:
        await trio.lowlevel.checkpoint()
        asked["files"] += 1
        return (content,)

    async def disks(store: Datastore, holding: Holding) -> tuple[Part, ...]:
        await trio.lowlevel.checkpoint()
        asked["disks"] += 1
        return (Part("disk", content),)

    def made(name: str) -> Keeping:
        return Keeping(Documents(home), name, timeout=20.0, max_age=60.0)

    openings = Openings(files, lambda: catalog.current, made("openings"))
    backups = Backups(disks, lambda: catalog.current, made("backups"))

    async def prepare() -> None:
        openings._known.clear()
        backups._known.clear()
        for name in ("openings", "backups"):
            await Documents(home).forget(name)

    async def run() -> None:
        await openings.load()
        openings._known.clear()
        assert await openings.contents(app) == (content,)
        assert await backups.disks(backup) == (Part("disk", content),)
        with trio.move_on_after(12):
            await openings.run()
        await backups.save()

    async def check() -> None:
        assert await openings.contents(app) == (content,)
        assert await backups.disks(backup) == (Part("disk", content),)
        await openings.save()
        await backups.save()
        before = dict(asked)
        again = Openings(files, lambda: catalog.current, made("openings"))
        await again.load()
        assert await again.contents(app) == (content,)
        more = Backups(disks, lambda: catalog.current, made("backups"))
        await more.load()
        assert await more.disks(backup) == (Part("disk", content),)
        assert asked == before, "what was learned was not saved"

    yield Operation(run, check, prepare)
