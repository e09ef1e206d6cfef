"""What is inside the directories that may have to ask: apps, datastores, snapshots, backups, VMs.

Everything that goes on between "somebody looks into it" and "these are its entries". Putting them
into the tree, and telling the kernel, is tree.py's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio

from nebfs.catalog.snapshot import DatastoreListing
from nebfs.content.prober import Prober
from nebfs.ending import pass_on
from nebfs.errors import NebfsError
from nebfs.model import App, Content, Holding, Offer, Part
from nebfs.tree import appdir, images, machines
from nebfs.tree.nodes import (
    AppDirectory,
    Asked,
    DatastoreDirectory,
    MachineDirectory,
    MarketplaceDirectory,
    Node,
    PartsDirectory,
)

log = structlog.get_logger()

WALK = 2.0
"""Seconds between two apps' directories being opened for it to be a walk through all of them."""

AHEAD = 4
"""How many more apps are asked about for each one that a walk opens."""

WIDEST = 128
"""The most apps that the asking is ahead of a walk: several times what a place is asked at once."""


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """`listing_deadline`: seconds until a directory that asks the network gives up.
    `retry_after`: seconds until what could not be asked is asked again.
    """

    listing_deadline: float = 20.0
    retry_after: float = 10.0


class Files(Protocol):
    """What the tree needs to know about apps whose files no list tells; ``catalog.Openings``."""

    max_age: float
    """Seconds for which an answer is good."""

    async def contents(self, offer: Offer) -> tuple[Content, ...]:
        """Return the files of `offer`. Raises NebfsError."""
        ...


class Disks(Protocol):
    """What the tree needs to know about backups whose files no list tells; ``catalog.Backups``."""

    max_age: float
    """Seconds for which an answer is good."""

    async def disks(self, holding: Holding) -> tuple[Part, ...]:
        """Return the disks of `holding`. Raises NebfsError."""
        ...


class Insides:
    """Finds out what directories hold. Asking ahead of a walk runs in `nursery`."""

    def __init__(
        self,
        prober: Prober,
        nursery: trio.Nursery,
        settings: TreeSettings,
        openings: Files | None,
        backups: Disks | None,
        path_of: Callable[[App, str], str],
    ) -> None:
        """`openings` is asked for the files of offers that are deferred, `backups` for the disks of
        holdings that are. `path_of(app, name)` is the relative path to the app that another names.
        """
        self._prober = prober
        self._nursery = nursery
        self._settings = settings
        self._openings = openings
        self._backups = backups
        self._path_of = path_of

    async def of(self, directory: Asked) -> dict[str, Node]:
        """Return the entries of a directory, asking what is not known. Raises NebfsError."""
        deadline = self._settings.listing_deadline
        match directory:
            case AppDirectory():
                self._ask_ahead(directory)
                return await appdir.fill(
                    directory, self._prober, deadline, self._path_of, self._contents
                )
            case DatastoreDirectory():
                listing = directory.listing
                if not listing.as_of:
                    raise NebfsError(listing.trouble or "it was never listed")
                unasked = images.unasked(images.of_listing(listing))
                answers = await images.ask(unasked, self._prober, deadline)
                return self.listed(directory, answers)
            case PartsDirectory():
                found = await self._parts(directory)
                unasked = images.unasked(part.content for part in found)
                answers = await images.ask(unasked, self._prober, deadline)
                files = images.parts(directory, found, answers)
                directory.doubtful = any(node.trouble is not None for node in files.values())
                return dict(files)
            case MachineDirectory():
                unasked = images.unasked(disk.content for disk in directory.parked.disks)
                answers = await images.ask(unasked, self._prober, deadline)
                files = machines.files(directory, answers)
                directory.doubtful = any(isinstance(answers(d), NebfsError) for d in unasked)
                return dict(files)
        raise TypeError(type(directory).__name__)

    def at_once(self, directory: DatastoreDirectory) -> dict[str, Node] | None:
        """Return the entries of a datastore of which nothing needs to be asked; else None."""
        if images.unasked(images.of_listing(directory.listing)):
            return None
        return self.listed(directory, images.remembered(self._prober))

    def remembered(self, directory: DatastoreDirectory) -> dict[str, Node]:
        """Return the entries of a datastore by what is known; the rest says that it is not yet."""
        return self.listed(directory, images.remembered(self._prober))

    @staticmethod
    def listed(directory: DatastoreDirectory, answers: images.Answers) -> dict[str, Node]:
        """Return the entries of a datastore."""
        listing: DatastoreListing = directory.listing
        unasked = images.unasked(images.of_listing(listing))
        directory.doubtful = any(isinstance(answers(c), NebfsError) for c in unasked)
        return images.images(listing, answers) | machines.directories(listing)

    async def _parts(self, directory: PartsDirectory) -> tuple[Part, ...]:
        holding = directory.holding
        if directory.snapshots:
            return holding.snapshots
        if holding.deferred and self._backups is not None:
            return await self._backups.disks(holding)
        return holding.disks

    async def _contents(self, offer: Offer) -> tuple[Content, ...]:
        if self._openings is None:
            return offer.contents
        return await self._openings.contents(offer)

    def are_old(self, directory: Asked) -> bool:
        """Whether the entries of a directory are to be asked for again."""
        age = trio.current_time() - directory.filled_at
        files: Files | Disks | None = None
        if isinstance(directory, AppDirectory) and directory.offer.deferred:
            files = self._openings
        elif isinstance(directory, PartsDirectory) and directory.holding.deferred:
            files = self._backups
        if files is not None and age > files.max_age:
            return True
        return directory.doubtful and age > self._settings.retry_after

    def _ask_ahead(self, directory: AppDirectory) -> None:
        """Ask about the next apps of a marketplace while somebody walks through it (`ls -R`)."""
        market = directory.parent
        if not isinstance(market, MarketplaceDirectory) or market.children is None:
            return
        now = trio.current_time()
        walking = now - market.asked_at < WALK
        market.asked_at = now
        if not walking:
            after = itertools.dropwhile(lambda n: n is not directory, market.children.values())
            market.walk, market.lead = itertools.islice(after, 1, None), 0
            return
        market.lead -= 1
        for app in itertools.islice(market.walk, min(AHEAD, max(WIDEST - market.lead, 0))):
            market.lead += 1
            if isinstance(app, AppDirectory) and app.children is None:
                for content in app.offer.contents:
                    if self._prober.known(content) is None:
                        self._nursery.start_soon(self._ask_quietly, content)

    async def _ask_quietly(self, content: Content) -> None:
        try:
            await self._prober.ask(content)
        except NebfsError as exc:
            log.debug("probe.ahead_failed", error=str(exc))
        except BaseException as exc:  # whoever opens it asks again, and is told
            pass_on(exc)
            log.exception("probe.ahead_bug")
