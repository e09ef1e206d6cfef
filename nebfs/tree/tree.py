"""The tree: names and nodes for what the catalogue's current snapshot holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from nebfs.catalog.compare import changed_places
from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing, MarketplaceListing
from nebfs.content.prober import Prober
from nebfs.errors import Changed, Missing, NebfsError, Refused
from nebfs.model import App, Content, Owned
from nebfs.tree import images, links, places, rawface, rights
from nebfs.tree.hostdir import HostDirectories, HostDirectory, HostRoot
from nebfs.tree.inodes import ROOT, Inodes
from nebfs.tree.insides import Disks, Files, Insides, TreeSettings
from nebfs.tree.nodes import (
    AppDirectory,
    AppLink,
    Asked,
    ByIdDirectory,
    ContentFile,
    DatastoreDirectory,
    Directory,
    Link,
    MarketplaceDirectory,
    Node,
    StatusDocument,
    Told,
)
from nebfs.tree.rawface import RawDirectory


@dataclass(frozen=True, slots=True)
class Invalid:
    """What the kernel must forget: the entry `name` of inode `parent`, or the attributes of `ino`.

    `pages`: also what it has cached of the file's content.
    """

    parent: int = 0
    name: str = ""
    ino: int = 0
    pages: bool = False


class Lists(Protocol):
    """What the tree needs of the catalogue."""

    @property
    def current(self) -> CloudSnapshot | None:
        """The newest snapshot."""
        ...

    @property
    def denied(self) -> str:
        """Why the session may not see anything any more; empty while it may."""
        ...


class Tree:
    """Answers lookups and listings; see the room's docstring for its concurrency rule."""

    def __init__(
        self,
        lists: Lists,
        prober: Prober,
        nursery: trio.Nursery,
        settings: TreeSettings,
        *,
        status: Callable[[], bytes] = bytes,
        cloud: bool = True,
        openings: Files | None = None,
        backups: Disks | None = None,
        look: rawface.Look = rawface.blind,
    ) -> None:
        """Asking ahead of a walk runs in `nursery`. Without a `cloud` there are no datastores.
        `openings` is asked for the files of offers that are deferred, `backups` for the disks of
        holdings that are. `look` finds out which disk is in a file.
        """
        self._look = look
        self._unready: dict[str, dict[Hashable, RawDirectory]] = {}
        """Where files are shown, by their identity, that somebody has yet to get ready."""
        self._lists = lists
        self._prober = prober
        self._settings = settings
        self._insides = Insides(prober, nursery, settings, openings, backups, self._path_of)
        self.inodes = Inodes()
        self.hosts = HostDirectories(settings.listing_deadline, self.inodes.stays)
        """What is inside images that are directories."""
        self.root = Directory(name="", key="root", children={})
        self.inodes.enter(self.root)
        self._marketplaces = self._fixed(self.root, "marketplaces")
        self._datastores = self._fixed(self.root, "datastores") if cloud else None
        raw = self._fixed(self.root, "raw")
        for top in (self._marketplaces, self._datastores):
            if top is not None:
                self._adopt(raw, rawface.twin(top))
        own = Directory(name=".nebfs", key="own", children={}, parent=self.root)
        self.inodes.enter(own)
        self.root.hidden[own.name] = own
        self._adopt(own, StatusDocument(name="status.json", key="status", data=b"", make=status))
        by_id = self._fixed(own, "by-id")
        for what in ("apps", "images") if cloud else ("apps",):
            self._adopt(by_id, ByIdDirectory(name=what, key=("by-id", what), what=what))
        self._invalid: list[Invalid] = []
        self._on_invalid: Callable[[list[Invalid]], None] = lambda _: None

    def on_invalid(self, callback: Callable[[list[Invalid]], None]) -> None:
        """Have `callback` told what the kernel must forget. It is called on the trio thread."""
        self._on_invalid = callback

    def _fixed(self, parent: Directory, name: str) -> Directory:
        directory = Directory(name=name, key=("fixed", parent.key, name), children={})
        self._adopt(parent, directory)
        return directory

    def _adopt(self, parent: Directory, node: Node) -> None:
        node.parent = parent
        self.inodes.enter(node)
        assert parent.children is not None  # noqa: S101 - only for directories we just made
        parent.children[node.name] = node

    # --- answering --------------------------------------------------------------------------

    async def lookup(self, directory: Directory, name: str) -> Node:
        """Return the entry `name`. Raises Missing, or what listing the directory raises."""
        hidden = directory.hidden.get(name)
        if hidden is not None:
            return hidden
        if isinstance(directory, (HostRoot, HostDirectory)):
            self.check_allowed(directory)
            node = await self.hosts.lookup(directory, name)
            self.inodes.enter(node)
            return node
        found = (await self.children(directory)).get(name)
        if found is None:
            raise Missing("no such entry", name=name)
        if isinstance(found, StatusDocument):
            found.data, found.timeout = found.make(), 0.0
        return found

    async def listing(self, directory: Directory) -> Sequence[tuple[str, Node]]:
        """Return the entries as a list that stays as it is. Those that are `passing` have no number
        yet: whoever shows them enters them.
        """
        if isinstance(directory, (HostRoot, HostDirectory)):
            self.check_allowed(directory)
            return await self.hosts.entries(directory)
        return list((await self.children(directory)).items())

    def check_allowed(self, node: Node) -> None:
        """Raise Refused when the front-end refuses the session: the kernel may still know names."""
        if self._lists.denied and node is not self.root and not isinstance(node, StatusDocument):
            raise Refused(self._lists.denied)

    async def children(self, directory: Directory) -> dict[str, Node]:
        """Return the entries of `directory`: whole, or an error, never short by accident."""
        self.check_allowed(directory)
        if isinstance(directory, (HostRoot, HostDirectory)):
            return dict(await self.hosts.entries(directory))
        if isinstance(directory, RawDirectory):
            return await self._raw(directory)
        if isinstance(directory, Asked):
            return await self._asked(directory)
        if isinstance(directory, ByIdDirectory):
            return self._by_id(directory)
        if directory.children is None:
            self._replace(directory, self._listed(directory))
        return directory.children or {}

    def _listed(self, directory: Directory) -> dict[str, Node]:
        """Return the entries that a place's listing shows. Raises if it was never listed."""
        if isinstance(directory, MarketplaceDirectory):
            if not directory.listing.as_of:
                raise NebfsError(directory.listing.trouble or "it was never listed")
            return places.apps(directory.listing)
        return {}

    async def _asked(self, directory: Asked) -> dict[str, Node]:
        """Return the entries of a directory whose places may have to be asked, once at a time."""
        if isinstance(directory, DatastoreDirectory) and directory.listing.as_of:
            if directory.children is not None and not directory.doubtful:
                return directory.children
            known = None if directory.children else self._insides.at_once(directory)
            if known is not None:
                self._replace(directory, known)
                return known
        while True:
            if directory.children is not None and not self._insides.are_old(directory):
                return directory.children
            if directory.filling is None:
                break
            await directory.filling.wait()
        filling = directory.filling = trio.Event()
        try:
            fresh = await self._insides.of(directory)
            directory.filled_at = trio.current_time()
            self._replace(directory, fresh)
        finally:
            directory.filling = None
            filling.set()
        self._flush()
        return directory.children or {}

    async def _raw(self, directory: RawDirectory) -> dict[str, Node]:
        """Return the raw face of what the directory's other face holds now."""
        while True:
            # Another node may have taken its place since.
            of = self.inodes.node(directory.of.ino)
            assert isinstance(of, Directory)  # noqa: S101 - a number is for one key, ever
            published = await self.children(of)
            current = directory.children is not None and directory.made_of is published
            if directory.children is not None and current and not self._insides.are_old(directory):
                return directory.children
            if directory.filling is None:
                break
            await directory.filling.wait()
        filling = directory.filling = trio.Event()
        try:
            deadline = self._settings.listing_deadline
            fresh = await rawface.fill(*(directory, published, self._prober, deadline, self._look))
            for name, node in fresh.items():
                before = (directory.children or {}).get(name)
                if isinstance(before, RawDirectory) and before.key == node.key:
                    fresh[name] = before  # with everything that was asked about it
            directory.filled_at, directory.made_of = trio.current_time(), published
            self._replace(directory, fresh)
            for node in fresh.values():
                if isinstance(node, ContentFile) and node.unready and node.content is not None:
                    shown = self._unready.setdefault(node.content.identity, {})
                    shown[directory.key] = directory
        finally:
            directory.filling = None
            filling.set()
        self._flush()
        return directory.children or {}

    def _by_id(self, directory: ByIdDirectory) -> dict[str, Node]:
        """Return links to everything by id, whatever it is called now."""
        top = self._marketplaces if directory.what == "apps" else self._datastores
        found: dict[str, Node] = {}
        for place in (top.children or {}).values() if top is not None else ():
            if top is None or not isinstance(place, Directory) or self._never_listed(place):
                continue
            for number, name in places.names_by_id(place).items():
                target = f"../../../{top.name}/{place.name}/{name}"
                link = Link(
                    name=str(number), key=("by-id", directory.what, number, target), target=target
                )
                link.parent, link.timeout = directory, 0.0
                self.inodes.enter(link)
                found[link.name] = link
        return found

    @staticmethod
    def _never_listed(place: Directory) -> bool:
        return (
            isinstance(place, (MarketplaceDirectory, DatastoreDirectory))
            and not place.listing.as_of
        )

    def _path_of(self, app: App, name: str) -> str:
        tops = (self._marketplaces.children or {}).values()
        return links.path_to(app, name, self._lists.current, tops)

    def target_for(self, link: AppLink, usable: Callable[[Owned], bool]) -> str:
        """Return where a link leads for somebody for whom not everything is `usable`."""
        tops = (self._marketplaces.children or {}).values()
        return links.path_to(link.app, link.wanted, self._lists.current, tops, usable)

    def capacity(
        self, ino: int = ROOT, usable: Callable[[Owned], bool] = links.everything
    ) -> tuple[int, int]:
        """Return the bytes that the datastore in which `ino` is can hold, and those that are free;
        of all datastores that are `usable` together where it is in none.
        """
        return links.capacity(self._lists.current, self._datastore_of(ino), usable)

    def _datastore_of(self, ino: int) -> int | None:
        node: Node | None
        try:
            node = self.inodes.node(ino)
        except Changed:
            return None
        while node is not None and not isinstance(node, DatastoreDirectory):
            node = node.of if isinstance(node, RawDirectory) else node.parent
        return None if node is None else node.listing.datastore.id

    def listing_of(self, node: Node) -> MarketplaceListing | DatastoreListing | None:
        """Return the newest listing of a place's directory: its age changes without a change."""
        snapshot = self._lists.current
        if isinstance(node, RawDirectory):
            node = node.of
        if snapshot is None:
            return None
        if isinstance(node, MarketplaceDirectory):
            wanted = node.listing.marketplace.id
            return next((x for x in snapshot.marketplaces if x.marketplace.id == wanted), None)
        if isinstance(node, DatastoreDirectory):
            wanted = node.listing.datastore.id
            return next((x for x in snapshot.datastores if x.datastore.id == wanted), None)
        return None

    # --- changing ---------------------------------------------------------------------------

    def update(self, old: CloudSnapshot | None, new: CloudSnapshot) -> None:
        """Take up a new snapshot, and have the kernel told what is different."""
        changed = changed_places(old, new)
        tops: list[tuple[Directory | None, dict[str, MarketplaceDirectory | DatastoreDirectory]]]
        tops = [
            (self._marketplaces, dict(places.marketplaces(new))),
            (self._datastores, dict(places.datastores(new))),
        ]
        for top, fresh in tops:
            if top is None:
                continue
            known = {node.key: node for node in (top.children or {}).values()}
            for directory in fresh.values():
                before = known.get(directory.key)
                if isinstance(before, Directory) and before.children is not None:
                    directory.children = before.children
                    for child in before.children.values():
                        child.parent = directory
            self._replace(top, dict(fresh))
            for directory in fresh.values():
                if directory.key in changed and directory.children is not None:
                    self._relist(directory)
        self._flush()

    def _relist(self, directory: Directory) -> None:
        fresh = self._relisted(directory)
        old = directory.children or {}
        for name, node in fresh.items():
            before = old.get(name)
            if not (isinstance(node, Told) and isinstance(before, Told) and before.key == node.key):
                continue
            if isinstance(node, AppDirectory) and isinstance(before, AppDirectory):
                node.shapes = before.shapes
            if before.told == node.told:
                fresh[name] = before  # with everything that was asked about it
            elif before.children is not None:
                self._abandon(before)
        self._replace(directory, fresh)
        if self._never_listed(directory):
            directory.children = None

    def _relisted(self, directory: Directory) -> dict[str, Node]:
        """Return the entries by the newest listing, without asking anybody."""
        if self._never_listed(directory):
            return {}
        if isinstance(directory, DatastoreDirectory):
            directory.filled_at = -math.inf  # what is not remembered is asked when somebody looks
            return self._insides.remembered(directory)
        return self._listed(directory)

    def _abandon(self, directory: Directory) -> None:
        """Forget what was inside a directory, and have the kernel forget it too."""
        for name, node in (directory.children or {}).items():
            if isinstance(node, Directory):
                self._abandon(node)
            if self.inodes.known(node.ino):
                self._invalid.append(Invalid(parent=directory.ino, name=name))
            self.inodes.leave(node)
        directory.children = None
        self._abandon_raw(directory)

    def _abandon_raw(self, directory: Directory) -> None:
        """Forget the raw face of a directory that has other entries now: it is made of them."""
        raw = self.inodes.with_key(("raw", directory.key))
        if isinstance(raw, RawDirectory) and raw.children is not None:
            self._abandon(raw)

    def _replace(self, directory: Directory, fresh: dict[str, Node]) -> None:
        """Give `directory` new entries; note what the kernel must forget of the old ones."""
        old = directory.children or {}
        if {n: node.key for n, node in old.items()} != {n: x.key for n, x in fresh.items()}:
            self._abandon_raw(directory)
        for name, node in old.items():
            after = fresh.get(name)
            if after is None or after.key != node.key:
                self._invalid.append(Invalid(parent=directory.ino, name=name))
        staying = {node.key for node in fresh.values()}
        for node in old.values():
            if node.key not in staying:
                if isinstance(node, Directory):
                    self._abandon(node)
                self.inodes.leave(node)
        for node in fresh.values():
            before = old.get(node.name)
            node.parent = directory
            self.inodes.enter(node)
            if before is not None and before.key == node.key and before.looks != node.looks:
                self._invalid.append(Invalid(ino=node.ino))
        directory.children = fresh

    def outdated(self, node: ContentFile) -> None:
        """The place of `node` has another version now: ask again, and forget the old one."""
        if node.content is not None:
            self._prober.forget(node.content)
        parent = node.parent
        if isinstance(parent, RawDirectory):
            self._outdated_raw(parent, node)
        elif isinstance(parent, Asked) and not isinstance(parent, DatastoreDirectory):
            if parent.children is not None:
                self._abandon(parent)
        elif parent is not None:
            if isinstance(parent, DatastoreDirectory) and node.content is not None:
                # What its listing told is not so any more; the next one is minutes away. It is not
                # abandoned: the kernel would be told of each of its thousands of images.
                parent.listing = images.doubted(parent.listing, node.content)
                parent.doubtful, parent.filled_at = True, -math.inf
            self._invalid.append(Invalid(parent=parent.ino, name=node.name))
        self._flush()

    def _outdated_raw(self, directory: RawDirectory, node: ContentFile) -> None:
        """Have the file behind a raw face asked about again, which makes the face anew."""
        self._abandon(directory)
        of = self.inodes.node(directory.of.ino)
        wanted = node.key[1] if isinstance(node.key, tuple) else None
        for other in (of.children or {}).values() if isinstance(of, Directory) else ():
            if isinstance(other, ContentFile) and other.key == wanted:
                self.outdated(other)
                break

    def became_ready(self, content: Content) -> None:
        """Have a file shown as what it is now that was unready, or was found not to get ready."""
        for directory in self._unready.pop(content.identity, {}).values():
            directory.made_of = None
            self._invalid += [
                Invalid(parent=directory.ino, name=name)
                for name, node in (directory.children or {}).items()
                if isinstance(node, ContentFile) and node.unready
            ]
        self._flush()

    async def readied(self, node: ContentFile) -> ContentFile:
        """Return what an unready file is now. Raises Changed when there is no such file."""
        if isinstance(node.parent, Directory):
            await self.children(node.parent)
        fresh = self.inodes.node(node.ino)
        if not isinstance(fresh, ContentFile):
            raise Changed("it is something else now")
        return fresh

    def rights_changed(self, objects: Collection[rights.Key]) -> None:
        """Have the kernel ask again whose the nodes of `objects` are, and who may open them."""
        if objects:
            self._invalid.extend(
                Invalid(ino=node.ino)
                for node in self.inodes.nodes()
                if rights.object_of(node) in objects
            )
            self._flush()

    def damaged(self, nodes: Iterable[Node]) -> None:
        """Have the kernel drop the pages of files that are not what was published."""
        self._invalid.extend(Invalid(ino=node.ino, pages=True) for node in nodes)
        self._flush()

    def _flush(self) -> None:
        """Hand on what the kernel may know of what has changed."""
        told = [
            item
            for item in self._invalid
            if self.inodes.known(item.parent or item.ino) or item.parent == self.root.ino
        ]
        self._invalid.clear()
        if told:
            self._on_invalid(told)
