"""Taking a snapshot: the front-end's lists, and every place's word on where the bytes are.

The front-end's lists are all or nothing, since half a list looks like deleted images. Each place
then has its own deadline and its own failure: one that hangs or breaks keeps its last good listing,
and the others never notice.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import structlog
import trio

from nebfs.catalog.homes import apps_by_marketplace, images_by_datastore, marketplaces_at
from nebfs.catalog.keeping import kept_holdings, kept_offers, kept_parked
from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing, MarketplaceListing
from nebfs.catalog.together import together
from nebfs.datastores import DatastoreDriver, SystemDatastore
from nebfs.ending import pass_on
from nebfs.errors import NebfsError, Refused
from nebfs.marketplaces import MarketplaceDriver
from nebfs.marketplaces.record import is_template
from nebfs.model import (
    App,
    Datastore,
    DatastoreType,
    Holding,
    Image,
    Marketplace,
    Offer,
    Parked,
    Trouble,
    User,
    VirtualMachine,
    Zone,
    without_credentials,
)
from nebfs.opennebula import app_homes, image_homes
from nebfs.units import format_duration

log = structlog.get_logger()

T = TypeVar("T")


class FrontEnd(Protocol):
    """What a survey asks of a front-end; ``opennebula.FrontEnd`` is one.

    Each raises Refused when the session is not accepted, or another NebfsError.
    """

    async def version(self) -> str:
        """Return OpenNebula's version."""
        ...

    async def user(self) -> User:
        """Return the user of the session."""
        ...

    async def zones(self) -> tuple[Zone, ...]:
        """Return the zones of the federation."""
        ...

    async def marketplaces(self) -> tuple[Marketplace, ...]:
        """Return the marketplaces that the session may use."""
        ...

    async def apps(self, known_ids: Mapping[int, int]) -> tuple[App, ...]:
        """Return the apps that the session may use. `known_ids`: app -> its marketplace."""
        ...

    async def datastores(self) -> tuple[Datastore, ...]:
        """Return the datastores that the session may use."""
        ...

    async def images(self, known_ids: Mapping[int, int]) -> tuple[Image, ...]:
        """Return the images that the session may use. `known_ids`: image -> its datastore."""
        ...

    async def machines(self) -> tuple[VirtualMachine, ...]:
        """Return the VMs that the session may use and that are at rest."""
        ...


@dataclass(slots=True)
class _Lists:
    """What the front-end has answered."""

    version: str = ""
    user: User | None = None
    zones: tuple[Zone, ...] = ()
    marketplaces: tuple[Marketplace, ...] = ()
    apps: tuple[App, ...] = ()
    datastores: tuple[Datastore, ...] = ()
    images: tuple[Image, ...] = ()
    machines: tuple[VirtualMachine, ...] | _Failed = ()


@dataclass(frozen=True, slots=True)
class Surveyor:
    """Takes snapshots. `place_timeout`, in seconds, must be shorter than the catalog's deadline.

    `marketplace_driver` is asked for a driver by MARKET_MAD and OpenNebula's version,
    `datastore_driver` by DS_MAD. `now` is the time in seconds since the epoch. `system` looks at
    the disks of VMs that do not run; None: they are not shown.
    """

    marketplace_driver: Callable[[str, str], MarketplaceDriver]
    datastore_driver: Callable[[str], DatastoreDriver]
    place_timeout: float
    now: Callable[[], float]
    system: SystemDatastore | None = None

    async def cloud(
        self, front_end: FrontEnd, source: str, previous: CloudSnapshot | None
    ) -> CloudSnapshot:
        """Survey the cloud behind `front_end`, at the address `source`.

        Raises what the front-end raises; places that fail are a part of the snapshot.
        """
        lists = await _lists(front_end, machines=self.system is not None)
        return await self._places(
            without_credentials(source),
            previous,
            lists,
            apps_by_marketplace(lists.marketplaces, lists.apps),
        )

    async def marketplaces(
        self, urls: Sequence[str], previous: CloudSnapshot | None
    ) -> CloudSnapshot:
        """Survey the public marketplaces at `urls`, without a front-end. Raises nothing."""
        source = " ".join(without_credentials(url) for url in urls)
        homes = [(marketplace, None) for marketplace in marketplaces_at(urls)]
        return await self._places(source, previous, _Lists(), homes)

    async def _places(
        self,
        source: str,
        previous: CloudSnapshot | None,
        lists: _Lists,
        homes: Sequence[tuple[Marketplace, list[App] | None]],
    ) -> CloudSnapshot:
        if previous is not None and previous.source != source:
            previous = None  # another cloud's: its ids mean other things
        old_markets = {m.marketplace.id: m for m in previous.marketplaces} if previous else {}
        old_stores = {d.datastore.id: d for d in previous.datastores} if previous else {}
        markets: dict[int, MarketplaceListing] = {}
        stores: dict[int, DatastoreListing] = {}

        async def market(place: Marketplace, apps: list[App] | None) -> None:
            old = old_markets.get(place.id, MarketplaceListing(place))
            markets[place.id] = await self._market(place, apps, lists.version, old)

        async def store(place: Datastore, images: list[Image]) -> None:
            old = old_stores.get(place.id, DatastoreListing(place))
            stores[place.id] = await self._store(place, images, old)

        async with trio.open_nursery() as nursery:
            for home, apps in homes:
                nursery.start_soon(market, home, apps)
            for datastore, images in images_by_datastore(lists.datastores, lists.images):
                nursery.start_soon(store, datastore, images)
        if self.system is not None:
            await self._park(self.system, stores, lists.machines, old_stores)
        return CloudSnapshot(
            source=source,
            taken=self.now(),
            version=lists.version,
            user=lists.user,
            zones=lists.zones,
            marketplaces=tuple(markets[number] for number in sorted(markets)),
            datastores=tuple(stores[number] for number in sorted(stores)),
        )

    async def _market(
        self, place: Marketplace, apps: list[App] | None, version: str, old: MarketplaceListing
    ) -> MarketplaceListing:
        if not place.enabled:
            return MarketplaceListing(place, _of_disabled(apps or ()), self.now(), _DISABLED)

        async def ask() -> tuple[Offer, ...]:
            return await self.marketplace_driver(place.driver, version).offers(place, apps)

        answer = await self._asked(ask, "marketplace", place.name, old.trouble)
        if isinstance(answer, _Failed):
            offers = kept_offers(apps, old.offers, answer.reason)
            return MarketplaceListing(place, offers, old.as_of, answer.reason)
        return MarketplaceListing(place, answer, self.now())

    async def _store(
        self, place: Datastore, images: list[Image], old: DatastoreListing
    ) -> DatastoreListing:
        async def ask() -> tuple[Holding, ...]:
            return await self.datastore_driver(place.driver).holdings(place, images)

        answer = await self._asked(ask, "datastore", place.name, old.trouble)
        if isinstance(answer, _Failed):
            holdings = kept_holdings(place, images, old.holdings, answer.reason)
            return DatastoreListing(place, holdings, old.as_of, answer.reason)
        answer = tuple(map(_marked, answer))
        return DatastoreListing(place, answer, self.now())

    async def _park(
        self,
        system: SystemDatastore,
        stores: dict[int, DatastoreListing],
        machines: tuple[VirtualMachine, ...] | _Failed,
        old_stores: Mapping[int, DatastoreListing],
    ) -> None:
        """Put the disks of VMs at rest into the listings of their system datastores.

        After the others: a disk may build on an image.
        """
        images = {h.image.id: h for listing in stores.values() for h in listing.holdings}

        async def one(listing: DatastoreListing) -> None:
            place = listing.datastore
            old = old_stores.get(place.id, DatastoreListing(place))
            answer: tuple[Parked, ...] | _Failed
            if isinstance(machines, _Failed):
                answer, known = machines, None
            else:
                known = [machine for machine in machines if machine.datastore_id == place.id]

                async def ask() -> tuple[Parked, ...]:
                    return await system.parked(place, known or (), images)

                answer = await self._asked(ask, "datastore", place.name, old.trouble)
            if isinstance(answer, _Failed):
                kept = kept_parked(known, old.parked, answer.reason)
                stores[place.id] = DatastoreListing(
                    place, (), old.as_of, answer.reason, parked=kept
                )
            else:
                stores[place.id] = replace(listing, parked=answer)

        async with trio.open_nursery() as nursery:
            for listing in list(stores.values()):
                if listing.datastore.type is DatastoreType.SYSTEM:
                    nursery.start_soon(one, listing)

    async def _asked(
        self, ask: Callable[[], Awaitable[T]], kind: str, name: str, known_trouble: str
    ) -> T | _Failed:
        """Return the answer of one place, or why there is none. Logs when that changes."""
        try:
            with trio.fail_after(self.place_timeout):
                answer = await ask()
        except trio.TooSlowError:
            reason = f"no answer within {format_duration(self.place_timeout)}"
        except NebfsError as exc:
            reason = str(exc)
        except BaseException as exc:  # a bug in one driver must not take the other places down
            pass_on(exc)
            reason = f"an error in nebfs ({type(exc).__name__}); its log has the details"
            if reason != known_trouble:
                log.exception("place.bug", kind=kind, name=name)
        else:
            if known_trouble:
                log.info("place.answers_again", kind=kind, name=name)
            return answer
        if reason != known_trouble:
            log.warning("place.failed", kind=kind, name=name, reason=reason)
        return _Failed(reason)


def _marked(holding: Holding) -> Holding:
    """Say of a persistent image that its bytes do not stay as they are, whatever its driver is."""
    content = holding.content
    if content is None or not holding.image.persistent or content.volatile:
        return holding
    return replace(holding, content=replace(content, mutable=True))


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why a place gave no listing."""

    reason: str


_DISABLED = "the marketplace is disabled in OpenNebula"


def _of_disabled(apps: Sequence[App]) -> tuple[Offer, ...]:
    # OpenNebula forgets the apps of a marketplace when it is disabled; some may linger.
    refused = Trouble(errno.EACCES, _DISABLED)
    return tuple(
        Offer(app, trouble=None if is_template(app) else refused)
        for app in sorted(apps, key=lambda app: app.id)
    )


async def _lists(front_end: FrontEnd, *, machines: bool) -> _Lists:
    """Return all of the front-end's lists. Raises what the front-end raises; but that it does not
    tell its VMs, if `machines` are wanted, is a trouble of system datastores only.
    """
    lists = _Lists()

    async def version() -> None:
        lists.version = await front_end.version()

    async def user() -> None:
        lists.user = await front_end.user()

    async def zones() -> None:
        lists.zones = await front_end.zones()

    async def marketplaces() -> None:
        lists.marketplaces = await front_end.marketplaces()

    async def datastores() -> None:
        lists.datastores = await front_end.datastores()

    async def apps() -> None:
        lists.apps = await front_end.apps(app_homes(lists.marketplaces))

    async def images() -> None:
        lists.images = await front_end.images(image_homes(lists.datastores))

    await together(version, user, zones, marketplaces, datastores)

    async def virtual_machines() -> None:
        if not machines:
            return
        try:
            lists.machines = await front_end.machines()
        except Refused:
            raise
        except NebfsError as exc:
            lists.machines = _Failed(f"the front-end does not tell its VMs: {exc}")

    # These need to know which ids to expect, in case a list cannot be sent as a whole.
    await together(apps, images, virtual_machines)
    return lists
