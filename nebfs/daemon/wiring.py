"""The only module that sees every room: builds the house from the settings, and takes it down."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import structlog
import trio

from nebfs import marketplaces
from nebfs.blocks import DiskStore, Documents, MemoryStore, Store
from nebfs.catalog import (
    Backups,
    Callers,
    Catalog,
    CloudSnapshot,
    Keeping,
    Openings,
    Survey,
    Surveyor,
)
from nebfs.config import Settings
from nebfs.content import Library, LibrarySettings, Prober
from nebfs.content.disks import Inside
from nebfs.content.profiling import Shelf
from nebfs.daemon.callers import callers_of, with_callers
from nebfs.daemon.credentials import session_of
from nebfs.daemon.lasting import lasting
from nebfs.daemon.pins import Pins
from nebfs.datastores import DatastoreDrivers, DeferringDatastore, SystemDatastore
from nebfs.errors import Refused, Unreachable, Unsupported
from nebfs.fetcher import access
from nebfs.fetcher.client import FetcherProcess, open_fetcher
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fuse import Operations, OperationsSettings
from nebfs.marketplaces import DeferringDriver
from nebfs.model import (
    App,
    Content,
    Datastore,
    Holding,
    Marketplace,
    Part,
    Revision,
    without_credentials,
)
from nebfs.opennebula import (
    Caller,
    FrontEnd,
    NotAuthenticated,
    find_endpoint,
)
from nebfs.tree import Tree, TreeSettings
from nebfs.tree.rights import Rights

log = structlog.get_logger()

OPENED_FOR = 600.0
"""Seconds for which the files of an app are believed where each app is asked about by itself:
public registries count such questions."""


@dataclass(slots=True)
class House:
    """Everything that lives while the filesystem is mounted."""

    source: str
    store: Store
    memory: MemoryStore
    fetcher: FetcherProcess
    catalog: Catalog
    prober: Prober
    library: Library
    tree: Tree
    operations: Operations
    nursery: trio.Nursery
    pins: Pins = field(init=False)
    _status: list[Callable[[], bytes]]
    caller: Caller | None = None
    """Who asks the front-end; None without a cloud."""
    callers: Callers | None = None
    """What other users may see, if each sees with his own session."""

    def show_status(self, make: Callable[[], bytes]) -> None:
        """Have .nebfs/status.json made by `make`."""
        self._status[:] = [make]


@asynccontextmanager
async def built(settings: Settings) -> AsyncIterator[House]:
    """Build the house and have its first lists: what is yielded can be mounted at once.

    Raises UserError, or what kept the first lists from being had.
    """
    store, documents = await _prepare_cache(settings)
    try:
        async with open_fetcher(fetcher_settings(settings)) as fetcher:
            drivers = _datastore_drivers(settings, fetcher)
            source, survey, identity, caller = _survey(settings, fetcher, drivers)
            callers = callers_of(settings, caller)
            catalog = Catalog(
                with_callers(survey, callers),
                documents,
                interval=settings.refresh_interval,
                deadline=settings.start_deadline,
                patience=settings.listing_deadline,
                document=f"catalogue-{identity}.json",
            )
            prober = Prober(fetcher, documents, timeout=settings.listing_deadline)
            await prober.load()
            keeping = Keeping(
                documents,
                f"openings-{identity}.json",
                timeout=settings.listing_deadline,
                max_age=max(settings.refresh_interval, OPENED_FOR),
            )
            openings = Openings(
                partial(_files_of, settings, fetcher), lambda: catalog.current, keeping
            )
            await openings.load()
            keeping = replace(keeping, document=f"backups-{identity}.json")
            backups = Backups(partial(_disks_of, drivers), lambda: catalog.current, keeping)
            await backups.load()
            try:
                await catalog.start()
            except NotAuthenticated as exc:
                where = settings.auth_file or "the file that ONE_AUTH names, or ~/.one/one_auth"
                raise Refused(
                    f"the front-end at {source} refuses the login: wrong user or password; "
                    f"look into {where}"
                ) from exc
            _see_that_something_was_listed(catalog)
            async with trio.open_nursery() as nursery:
                kept = settings.profiles and isinstance(store, DiskStore)
                house = _furnish(
                    *(settings, source, store, fetcher, catalog, prober, openings, backups),
                    Shelf(documents) if kept else None,
                    callers,
                    nursery,
                )
                house.caller = caller
                house.pins = Pins(store, documents)
                await house.pins.load()
                if callers is not None:
                    await nursery.start(callers.run)
                if isinstance(store, DiskStore):
                    nursery.start_soon(lasting, store.measure)
                for keeper in (prober, openings, backups, catalog, house.operations.slow):
                    nursery.start_soon(lasting, keeper.run)
                _spare_collections()
                try:
                    yield house
                finally:
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                        for remembered in (prober, openings, backups):
                            await _saved(remembered.save)
    finally:
        if isinstance(store, DiskStore):
            store.unlock()


async def _saved(save: Callable[[], Awaitable[None]]) -> None:
    """Save; a bug in it must not keep the others from being saved, nor the mount from ending."""
    try:
        await save()
    except Exception:
        log.exception("save.bug")


def _spare_collections() -> None:
    """Have the collector of garbage leave alone what lives as long as the mount.

    It walks through every object that it knows. Tens of thousands of images and apps made that
    tens of milliseconds, each time in the middle of what somebody waits for.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _see_that_something_was_listed(catalog: Catalog) -> None:
    """Raise if no place of a cloud-less mount was ever listed: nobody wants such a mount."""
    current = catalog.current
    if current is not None and current.user is None and current.marketplaces:
        troubles = [m.trouble for m in current.marketplaces if not m.as_of]
        if len(troubles) == len(current.marketplaces):
            raise Unreachable(troubles[0])


def _furnish(
    settings: Settings,
    source: str,
    store: Store,
    fetcher: FetcherProcess,
    catalog: Catalog,
    prober: Prober,
    openings: Openings,
    backups: Backups,
    profiles: Shelf | None,
    callers: Callers | None,
    nursery: trio.Nursery,
) -> House:
    status: list[Callable[[], bytes]] = [lambda: b"{}\n"]
    tree = Tree(
        catalog,
        prober,
        nursery,
        TreeSettings(listing_deadline=settings.listing_deadline),
        status=lambda: status[0](),  # noqa: PLW0108 - it is replaced later
        cloud=not settings.marketplaces,
        openings=openings,
        backups=backups,
        look=lambda content: library.look(content),  # noqa: PLW0108 - it is made later
    )
    memory = store if isinstance(store, MemoryStore) else MemoryStore()

    def damaged(content: Content) -> None:
        operations.counters.damaged += 1
        tree.damaged(operations.handles.nodes_of(content))

    def seen(content: Content, revision: Revision, inside: Inside) -> None:
        prober.learn(content, revision, inside)
        tree.became_ready(replace(content, view="raw"))

    library = Library(
        fetcher,
        store,
        memory,
        nursery,
        LibrarySettings(
            patience=settings.deadline,
            turns=settings.connections,
            read_ahead=settings.read_ahead,
            fill=settings.fill,
        ),
        on_changed=prober.forget,
        on_damaged=damaged,
        latency=prober.latency,
        known=prober.known,
        on_seen=seen,
        profiles=profiles,
    )
    owner = (
        os.geteuid() if settings.uid is None else settings.uid,
        os.getegid() if settings.gid is None else settings.gid,
    )
    rights = None
    if settings.others == "modes":
        rights = Rights(settings.users.uids, settings.users.gids, owner)
    operations = Operations(
        tree,
        library,
        prober,
        OperationsSettings(
            deadline=settings.deadline,
            owner=owner,
            umask=settings.umask,
            slow=settings.slow_operations,
            rights=rights,
            callers=callers,
        ),
    )

    def changed(old: CloudSnapshot | None, new: CloudSnapshot) -> None:
        others = rights.take(new) if rights is not None else ()
        tree.update(old, new)
        tree.rights_changed(others)

    if catalog.current is not None:
        changed(None, catalog.current)
    catalog.subscribe(changed)
    return House(
        source,
        store,
        memory,
        fetcher,
        catalog,
        prober,
        library,
        tree,
        operations,
        nursery,
        status,
        callers=callers,
    )


async def _prepare_cache(settings: Settings) -> tuple[Store, Documents]:
    """Return the cache on disk or, if the directory cannot be used, one in memory."""
    try:
        store = await trio.to_thread.run_sync(
            DiskStore.prepare, settings.cache_dir, settings.cache_size, settings.cache_min_free
        )
    except OSError as exc:
        log.warning(
            "cache.unusable",
            directory=str(settings.cache_dir),
            error=str(exc),
            effect="blocks are kept in memory only, and forgotten at the end",
        )
        return MemoryStore(), Documents(None)
    return store, Documents(settings.cache_dir / "documents")


def fetcher_settings(settings: Settings) -> FetcherSettings:
    """Raises UserError when the file of credentials cannot be used: only the fetcher keeps it."""
    if settings.credentials_file is not None:
        access.load(settings.credentials_file)
    return FetcherSettings(
        user_agent=settings.user_agent,
        ca_file=str(settings.ca_file or ""),
        credentials_file=str(settings.credentials_file or ""),
        connect_timeout=settings.connect_timeout,
        stall_timeout=settings.stall_timeout,
        private_addresses=settings.private_addresses,
        connections_per_host=2 * settings.connections,
        log_level=logging.getLevelNamesMapping()[settings.log_level.upper()],
        log_format=settings.log_format,
    )


def _datastore_drivers(settings: Settings, fetcher: FetcherProcess) -> DatastoreDrivers:
    return DatastoreDrivers(
        paths=settings.datastore_paths,
        call=fetcher.call,
        settings={
            "ceph": settings.ceph_places,
            "dev": {"devices": settings.datastores.devices},
            "fs": settings.datastores.ssh,
            "iscsi_libvirt": {"initiator": settings.datastores.iscsi_initiator},
            "lvm": {"mode": settings.datastores.lvm_mode},
            "netapp": settings.datastores.arrays,
            "purefa": settings.datastores.arrays,
            "restic": settings.datastores.ssh,
            "rsync": settings.datastores.ssh,
            "virtiofs": {"directories": settings.datastores.directories},
        },
        mappings=settings.datastores.mappings,
    )


def _survey(
    settings: Settings, fetcher: FetcherProcess, drivers: DatastoreDrivers
) -> tuple[str, Survey, str, Caller | None]:
    """Return what is mounted (for people), how its lists are had, a name for the saved ones, and
    who asks the front-end.

    The name is of the endpoint and the session: lists that one user may see are not another's.
    """
    surveyor = Surveyor(
        marketplace_driver=lambda name, version: marketplaces.driver_for(
            name, call=fetcher.call, version=version, platform=settings.platform
        ),
        datastore_driver=drivers,
        place_timeout=settings.listing_deadline,
        now=time.time,
        system=_system(settings),
    )
    if settings.marketplaces:
        urls = settings.marketplaces
        source = ",".join(map(without_credentials, urls))
        return source, partial(surveyor.marketplaces, urls), _digest(*urls), None
    session = session_of(settings)
    endpoint = find_endpoint(os.environ, Path.home(), explicit=settings.source)
    caller = Caller(fetcher.call, endpoint, session)
    survey = partial(surveyor.cloud, FrontEnd(caller), endpoint)
    return without_credentials(endpoint), survey, _digest(endpoint, session.text), caller


def _system(settings: Settings) -> SystemDatastore | None:
    if settings.system_datastores == "empty":
        return None
    return SystemDatastore(paths=settings.datastore_paths)


async def _files_of(
    settings: Settings,
    fetcher: FetcherProcess,
    marketplace: Marketplace,
    app: App,
    version: str,
) -> tuple[Content, ...]:
    """Ask a marketplace's driver for the files of one app."""
    driver = marketplaces.driver_for(
        marketplace.driver, call=fetcher.call, version=version, platform=settings.platform
    )
    if not isinstance(driver, DeferringDriver):
        raise Unsupported("the app's files are not known", driver=marketplace.driver)
    return await driver.contents(marketplace, app)


async def _disks_of(
    drivers: DatastoreDrivers, datastore: Datastore, holding: Holding
) -> tuple[Part, ...]:
    """Ask a datastore's driver for the disks of one backup."""
    driver = drivers(datastore.driver)
    if not isinstance(driver, DeferringDatastore):
        raise Unsupported("the backup's disks are not known", driver=datastore.driver)
    return await driver.disks(datastore, holding.image)


def _digest(*facts: str) -> str:
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
