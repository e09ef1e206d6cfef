"""A cloud that answers as it is told, drivers for its places, and somewhere to keep documents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest
import trio

from nebfs.catalog import CloudSnapshot, Place, Surveyor
from nebfs.model import (
    App,
    AppState,
    AppType,
    Checksum,
    Content,
    Datastore,
    DatastoreType,
    Holding,
    Image,
    ImageState,
    Locator,
    Marketplace,
    Offer,
    Revision,
    Template,
    User,
    Zone,
)


def make_marketplace(number: int = 0, **changes: object) -> Marketplace:
    facts = {"driver": "one", "app_ids": (number * 100 + 1, number * 100 + 2), **changes}
    return Marketplace(number, f"market {number}", **facts)


def make_app(number: int = 1, **changes: object) -> App:
    facts: dict[str, object] = {
        "marketplace_id": number // 100,
        "marketplace": f"market {number // 100}",
        "state": AppState.READY,
        "type": AppType.IMAGE,
        "source": f"http://market.example.org/{number}",
        "version": "1",
        "template": Template((("DISK", Template((("APP", "x"), ("NAME", "é\n")))),)),
    }
    return App(number, f"app {number}", **{**facts, **changes})


def make_datastore(number: int = 1, **changes: object) -> Datastore:
    facts = {"driver": "fs", "type": DatastoreType.IMAGE, "base_path": f"/ds/{number}", **changes}
    return Datastore(number, f"store {number}", **facts)


def make_image(number: int = 100, **changes: object) -> Image:
    facts: dict[str, object] = {
        "datastore_id": number // 100,
        "datastore": f"store {number // 100}",
        "state": ImageState.READY,
        "source": f"/ds/{number // 100}/{number}",
    }
    return Image(number, f"image {number}", **{**facts, **changes})


class Behaviour:
    """What happens when somebody asks: an answer, an error, or nothing for ever."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.takes = 0.0
        self.asked = 0

    async def happen(self) -> None:
        self.asked += 1
        await trio.sleep(self.takes)
        if self.hangs:
            await trio.sleep_forever()
        if self.error is not None:
            raise self.error


class Driver(Behaviour):
    """A driver of either kind that has a content for every object."""

    async def offers(self, marketplace, apps):
        await self.happen()
        if apps is None:
            apps = [make_app(1, marketplace_id=marketplace.id)]
        return tuple(
            Offer(app, (content_of(app.source),), published="{}")
            for app in sorted(apps, key=lambda app: app.id)
        )

    async def holdings(self, datastore, images):
        await self.happen()
        return tuple(
            Holding(image, content_of(image.source))
            for image in sorted(images, key=lambda image: image.id)
        )


def content_of(address: str) -> Content:
    return Content(
        Locator("http", address, (("option", "value"),)),
        checksums=(Checksum("md5", "0" * 32),),
        virtual_size=1 << 40,
        revision=Revision(7, "etag", "modified"),
        allocated=512,
    )


class Cloud(Behaviour):
    """A FrontEnd. Its pools come in descending order of ids, as OpenNebula's do."""

    def __init__(self) -> None:
        super().__init__()
        self._marketplaces = [make_marketplace(0), make_marketplace(1)]
        self._apps = [make_app(n) for n in (1, 2, 101, 102)]
        self._datastores = [make_datastore(1)]
        self._images = [make_image(100), make_image(101)]
        self.known_ids: list[Mapping[int, int]] = []
        self.parallel = 0
        self.most_parallel = 0

    async def _answer(self, value):
        self.parallel += 1
        self.most_parallel = max(self.most_parallel, self.parallel)
        try:
            await self.happen()
        finally:
            self.parallel -= 1
        return tuple(reversed(value)) if isinstance(value, list) else value

    async def version(self) -> str:
        return await self._answer("7.4.0")

    async def user(self) -> User:
        return await self._answer(User(2, "alice", 100, "users", (100, 101)))

    async def zones(self) -> tuple[Zone, ...]:
        return await self._answer([Zone(0, "OpenNebula", "http://one.example.org/RPC2")])

    async def marketplaces(self) -> tuple[Marketplace, ...]:
        return await self._answer(self._marketplaces)

    async def datastores(self) -> tuple[Datastore, ...]:
        return await self._answer(self._datastores)

    async def apps(self, known_ids: Mapping[int, int]) -> tuple[App, ...]:
        self.known_ids.append(known_ids)
        return await self._answer(self._apps)

    async def images(self, known_ids: Mapping[int, int]) -> tuple[Image, ...]:
        self.known_ids.append(known_ids)
        return await self._answer(self._images)


@dataclass
class World:
    """A cloud, one driver per kind of place, and a survey of it all."""

    cloud: Cloud = field(default_factory=Cloud)
    drivers: dict[str, Driver] = field(default_factory=dict)
    clock: Callable[[], float] = field(
        default_factory=lambda: itertools.count(1_700_000_000.0).__next__
    )
    versions: set[str] = field(default_factory=set)
    surveys: int = 0
    system: object = None
    """Who looks at the disks of VMs; None: nobody."""

    def driver(self, name: str) -> Driver:
        return self.drivers.setdefault(name, Driver())

    @property
    def surveyor(self) -> Surveyor:
        def market_driver(name: str, version: str) -> Driver:
            self.versions.add(version)
            return self.driver(name)

        return Surveyor(market_driver, self.driver, 10.0, self.clock, self.system)

    def survey(
        self,
        previous: CloudSnapshot | None = None,
        only: Place | None = None,
        *,
        patience: float = math.inf,
    ) -> Awaitable[CloudSnapshot]:
        self.surveys += 1
        source = "http://bob:canary@one.example.org/RPC2"
        return self.surveyor.cloud(self.cloud, source, previous, only, patience=patience)


class Shelf:
    """Documents in a dict. `broken` makes both ways fail."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.saves = 0
        self.broken: Exception | None = None

    async def load(self, name: str) -> bytes | None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise self.broken
        return self.kept.get(name)

    async def save(self, name: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise self.broken
        self.saves += 1
        self.kept[name] = data


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def make():
    """Functions that make model objects, by name."""

    class Make:
        app = staticmethod(make_app)
        image = staticmethod(make_image)
        marketplace = staticmethod(make_marketplace)
        datastore = staticmethod(make_datastore)

    return Make
