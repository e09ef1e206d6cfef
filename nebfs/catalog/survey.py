"""Taking a snapshot: the front-end's lists, and every place's word on where the bytes are.

The front-end's lists are all or nothing, since half a list looks like deleted images. Each place
then has its own deadline and its own failure: one that hangs or breaks keeps its last good listing,
and the others never notice.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
import trio

from nebfs.catalog.homes import apps_by_marketplace, images_by_datastore, marketplaces_at
from nebfs.catalog.keeping import kept_holdings, kept_offers, kept_parked
from nebfs.catalog.lists import (
    Failed,
    FrontEnd,
    Lists,
    datastores_of,
    lists_of,
    marketplaces_of,
)
from nebfs.catalog.snapshot import (
    MARKETPLACE,
    CloudSnapshot,
    DatastoreListing,
    MarketplaceListing,
    Place,
)
from nebfs.datastores import DatastoreDriver, SystemDatastore
from nebfs.ending import pass_on
from nebfs.errors import Bug, NebfsError
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
    VirtualMachine,
    without_credentials,
)
from nebfs.units import format_duration

log = structlog.get_logger()

T = TypeVar("T")


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
        self,
        front_end: FrontEnd,
        source: str,
        previous: CloudSnapshot | None,
        only: Place | None = None,
        *,
        patience: float = math.inf,
    ) -> CloudSnapshot:
        """Survey the cloud behind `front_end`, at the address `source`; or `only` one place of
        `previous`, whose other places stay as they are, and as old.

        Raises what the front-end raises, and TimedOut when it takes longer than `patience` seconds
        for a round of questions; places that fail are a part of the snapshot.
        """
        if previous is not None and only is not None:
            return await self._one_of_cloud(front_end, previous, only, patience)
        lists = await lists_of(front_end, machines=self.system is not None, patience=patience)
        return await self._places(
            without_credentials(source),
            previous,
            lists,
            apps_by_marketplace(lists.marketplaces, lists.apps),
        )

    async def marketplaces(
        self,
        urls: Sequence[str],
        previous: CloudSnapshot | None,
        only: Place | None = None,
        *,
        patience: float = math.inf,  # noqa: ARG002 - each place has its own deadline
    ) -> CloudSnapshot:
        """Survey the public marketplaces at `urls`, without a front-end; or `only` one of them, see
        ``cloud``. Raises nothing.
        """
        homes = [(marketplace, None) for marketplace in marketplaces_at(urls)]
        if previous is not None and only is not None:
            return await self._one_market(previous, only[1], homes)
        source = " ".join(without_credentials(url) for url in urls)
        return await self._places(source, previous, Lists(), homes)

    async def _one_of_cloud(
        self, front_end: FrontEnd, previous: CloudSnapshot, only: Place, patience: float
    ) -> CloudSnapshot:
        kind, number = only
        if kind == MARKETPLACE:
            lists = await marketplaces_of(front_end, patience=patience)
            homes = apps_by_marketplace(lists.marketplaces, lists.apps)
            return await self._one_market(previous, number, homes)
        old = {d.datastore.id: d for d in previous.datastores}
        parks = number in old and old[number].datastore.type is DatastoreType.SYSTEM
        machines = self.system is not None and parks
        lists = await datastores_of(front_end, machines=machines, patience=patience)
        stores = {n: listing for n, listing in old.items() if n != number}
        for home, images in images_by_datastore(lists.datastores, lists.images):
            if home.id == number:
                listing = await self._store(home, images, old.get(number, DatastoreListing(home)))
                stores[number] = listing
                if self.system is not None and machines:
                    wanted = {number: listing}
                    await self._park(self.system, wanted, _held(stores), lists.machines, old)
                    stores |= wanted
        return replace(previous, datastores=tuple(stores[n] for n in sorted(stores)))

    async def _one_market(
        self,
        previous: CloudSnapshot,
        number: int,
        homes: Sequence[tuple[Marketplace, list[App] | None]],
    ) -> CloudSnapshot:
        """Return `previous` with that marketplace as it is now; without it, if it is gone."""
        markets = {m.marketplace.id: m for m in previous.marketplaces}
        old = markets.pop(number, None)
        for home, apps in homes:
            if home.id == number:
                before = old or MarketplaceListing(home)
                markets[number] = await self._market(home, apps, previous.version, before)
        return replace(previous, marketplaces=tuple(markets[n] for n in sorted(markets)))

    async def _places(
        self,
        source: str,
        previous: CloudSnapshot | None,
        lists: Lists,
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
            await self._park(self.system, stores, _held(stores), lists.machines, old_stores)
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
        if isinstance(answer, Failed):
            offers = kept_offers(apps, old.offers, answer.reason)
            return MarketplaceListing(place, offers, old.as_of, answer.reason)
        return MarketplaceListing(place, answer, self.now())

    async def _store(
        self, place: Datastore, images: list[Image], old: DatastoreListing
    ) -> DatastoreListing:
        async def ask() -> tuple[Holding, ...]:
            return await self.datastore_driver(place.driver).holdings(place, images)

        answer = await self._asked(ask, "datastore", place.name, old.trouble)
        if isinstance(answer, Failed):
            holdings = kept_holdings(place, images, old.holdings, answer.reason)
            return DatastoreListing(place, holdings, old.as_of, answer.reason)
        answer = tuple(map(_marked, answer))
        return DatastoreListing(place, answer, self.now())

    async def _park(
        self,
        system: SystemDatastore,
        stores: dict[int, DatastoreListing],
        images: Mapping[int, Holding],
        machines: tuple[VirtualMachine, ...] | Failed,
        old_stores: Mapping[int, DatastoreListing],
    ) -> None:
        """Put the disks of VMs at rest into the listings of their system datastores.

        After the others: a disk may build on one of `images`.
        """

        async def one(listing: DatastoreListing) -> None:
            place = listing.datastore
            old = old_stores.get(place.id, DatastoreListing(place))
            answer: tuple[Parked, ...] | Failed
            if isinstance(machines, Failed):
                answer, known = machines, None
            else:
                known = [machine for machine in machines if machine.datastore_id == place.id]

                async def ask() -> tuple[Parked, ...]:
                    return await system.parked(place, known or (), images)

                answer = await self._asked(ask, "datastore", place.name, old.trouble)
            if isinstance(answer, Failed):
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
    ) -> T | Failed:
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
            reason = str(Bug(exc))
            if reason != known_trouble:
                log.exception("place.bug", kind=kind, name=name)
        else:
            if known_trouble:
                log.info("place.answers_again", kind=kind, name=name)
            return answer
        if reason != known_trouble:
            log.warning("place.failed", kind=kind, name=name, reason=reason)
        return Failed(reason)


def _held(stores: Mapping[int, DatastoreListing]) -> dict[int, Holding]:
    return {h.image.id: h for listing in stores.values() for h in listing.holdings}


def _marked(holding: Holding) -> Holding:
    """Say of a persistent image that its bytes do not stay as they are, whatever its driver is."""
    content = holding.content
    if content is None or not holding.image.persistent or content.volatile:
        return holding
    return replace(holding, content=replace(content, mutable=True))


_DISABLED = "the marketplace is disabled in OpenNebula"


def _of_disabled(apps: Sequence[App]) -> tuple[Offer, ...]:
    # OpenNebula forgets the apps of a marketplace when it is disabled; some may linger.
    refused = Trouble(errno.EACCES, _DISABLED)
    return tuple(
        Offer(app, trouble=None if is_template(app) else refused)
        for app in sorted(apps, key=lambda app: app.id)
    )
