"""What there is in the mount: directories, image files, documents, links."""

from __future__ import annotations

import math
import stat
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import trio

from nebfs.catalog.snapshot import DatastoreListing, MarketplaceListing
from nebfs.content.formats import Format
from nebfs.model import App, Content, Holding, Offer, Parked, Revision, Trouble

FOREVER = 300.0
"""Seconds for which the kernel may answer by itself: it is told of every change."""

SOON = 5.0
"""Seconds for an entry that stands for something that could not be asked just now."""

Attributes = Callable[[], dict[str, str]]


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """Something with a name. `key` says what it is: the same key is the same inode."""

    name: str
    key: Hashable
    parent: Directory | None = None
    ino: int = 0
    mtime: float = 0.0
    timeout: float = FOREVER
    attributes: Attributes = dict
    """Its ``user.one.*`` attributes, made when asked for."""

    kind = 0
    permissions = 0o444
    passing = False
    """Whether it is in the tree only for as long as the kernel knows it."""

    @property
    def size(self) -> int:
        """st_size."""
        return 0

    @property
    def allocated(self) -> int:
        """Bytes that st_blocks shows. Never 0 for a file with bytes: `tar -S` would drop them."""
        return max(self.size, 4096) if self.size else 0

    @property
    def mode(self) -> int:
        """st_mode."""
        return self.kind | self.permissions

    @property
    def looks(self) -> tuple[int, int, int, float]:
        """What stat(2) shows of it."""
        return self.mode, self.size, self.allocated, self.mtime


@dataclass(slots=True, eq=False, kw_only=True)
class Directory(Node):
    """A directory. `children` is None until somebody looks into it."""

    children: dict[str, Node] | None = None
    hidden: dict[str, Node] = field(default_factory=dict)
    """Entries that can be looked up and are not listed."""

    kind = stat.S_IFDIR
    permissions = 0o555


@dataclass(slots=True, eq=False, kw_only=True)
class ContentFile(Node):
    """An image's bytes. Either `revision`, or `trouble` says why there are none."""

    content: Content | None
    revision: Revision | None = None
    trouble: Trouble | None = None
    unready: bool = False
    """Whether opening it ends its trouble: it is made then."""
    extension: str = ""
    """What is behind its name, if that is not what is claimed of it."""

    kind = stat.S_IFREG

    @property
    def size(self) -> int:
        """The exact length, or 0 when it is not known: what cannot be read must not be copied."""
        return self.revision.size if self.revision is not None else 0

    @property
    def allocated(self) -> int:
        """What it takes where it is, if that is known."""
        if not self.size:
            return 0
        known = self.content.allocated if self.content is not None else None
        whole = max(self.size, 4096)
        return whole if known is None else min(max(known, 4096), whole)

    @property
    def mode(self) -> int:
        """Without permissions when it cannot be read now."""
        return self.kind | (0 if self.trouble is not None else self.permissions)


@dataclass(slots=True, eq=False, kw_only=True)
class Document(Node):
    """A small text that nebfs makes."""

    data: bytes

    kind = stat.S_IFREG

    @property
    def size(self) -> int:
        """The length of the text."""
        return len(self.data)


@dataclass(slots=True, eq=False, kw_only=True)
class Link(Node):
    """A symbolic link, relative."""

    target: str

    kind = stat.S_IFLNK
    permissions = 0o777

    @property
    def size(self) -> int:
        """The length of the target, as lstat(2) has it."""
        return len(self.target.encode())


@dataclass(slots=True, eq=False, kw_only=True)
class AppLink(Link):
    """A link to the app called `wanted`, which `app` names. It leads to the one of that name that
    the session of the mount would take; for others it may have to be another one.
    """

    app: App
    wanted: str


@dataclass(slots=True, eq=False, kw_only=True)
class MarketplaceDirectory(Directory):
    """A marketplace: a directory of app directories."""

    listing: MarketplaceListing
    asked_at: float = -math.inf
    """When an app's directory in it was last opened, on trio's clock."""
    walk: Iterator[Node] = field(default_factory=lambda: iter(()))
    """The apps still to be asked about, ahead of somebody who walks through all of them."""
    lead: int = 0
    """How many apps the asking is ahead of who walks."""


@dataclass(slots=True, eq=False, kw_only=True)
class Asked(Directory):
    """A directory whose files' lengths may have to be asked of the place where they are."""

    filled_at: float = 0.0
    """When its files were asked about, on trio's clock."""
    doubtful: bool = False
    """Some of its files could not be asked about: try again soon."""
    filling: trio.Event | None = None
    """Set when whoever asks about its files just now has the answers."""


@dataclass(slots=True, eq=False, kw_only=True)
class Told(Asked):
    """A directory of which the place's listing tells what is in it, or whom to ask."""

    @property
    def told(self) -> object:
        """What the listing told: while it is the same, so are the entries."""
        raise NotImplementedError


@dataclass(slots=True, eq=False, kw_only=True)
class AppDirectory(Told):
    """An app: its image files, its definition, links to the apps that it names."""

    offer: Offer
    shapes: dict[str, Format] = field(default_factory=dict)
    """What its files were when they were last asked about, by label. A new version whose place is
    away keeps the name of the one before."""

    @property
    def told(self) -> object:
        """The offer."""
        return self.offer


@dataclass(slots=True, eq=False, kw_only=True)
class DatastoreDirectory(Asked):
    """A datastore: a directory of image files."""

    listing: DatastoreListing


@dataclass(slots=True, eq=False, kw_only=True)
class PartsDirectory(Told):
    """Several files of one image: its snapshots, or the disks of a backup."""

    holding: Holding
    snapshots: bool
    """Whether it is its snapshots."""

    @property
    def told(self) -> object:
        """What holds them."""
        return self.holding


@dataclass(slots=True, eq=False, kw_only=True)
class MachineDirectory(Told):
    """The disks of a VM that does not run."""

    parked: Parked

    @property
    def told(self) -> object:
        """The VM and its disks."""
        return self.parked


@dataclass(slots=True, eq=False, kw_only=True)
class ByIdDirectory(Directory):
    """Links by object id, for `what` = apps or images. Made anew each time."""

    what: str


@dataclass(slots=True, eq=False, kw_only=True)
class StatusDocument(Document):
    """A text that is made anew each time it is looked up, and never cached by the kernel."""

    make: Callable[[], bytes]
