"""An image that is a directory of a host (virtiofs): shown as it is at the moment somebody looks.

Others write there, so nothing is kept: each lookup and each listing asks the disk, and the kernel
may answer by itself for a second. What is in it has an inode number for as long as the kernel knows
it. A symbolic link is shown as one, and whoever follows it does so on his own; devices, sockets and
pipes are shown as what they are, without permissions, and never opened.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from cachetools import LRUCache

from nebfs.content.beneath import Beneath, OpenFile, Seen
from nebfs.errors import Changed
from nebfs.tree.nodes import Directory, Link, Node

BRIEFLY = 1.0
"""Seconds for which the kernel may answer by itself, as with other network file systems."""

_SHOWN = 0o555
"""Nothing can be written here, and nothing is run as somebody else."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A place below the directory `root` of an image, which is the node with the key `image`."""

    image: Hashable
    root: str
    names: tuple[str, ...] = ()

    def below(self, name: str) -> Spot:
        """Return the place of an entry in this directory."""
        return Spot(self.image, self.root, (*self.names, name))


@dataclass(slots=True, eq=False, kw_only=True)
class HostRoot(Directory):
    """The directory itself, an entry of its datastore."""

    spot: Spot


@dataclass(slots=True, eq=False, kw_only=True)
class HostDirectory(Directory):
    """A directory in it."""

    spot: Spot
    facts: Seen

    passing = True

    @property
    def mode(self) -> int:
        """As on the host, without what would write."""
        return stat.S_IFDIR | self.facts.mode & _SHOWN


@dataclass(slots=True, eq=False, kw_only=True)
class HostFile(Node):
    """A regular file in it, or a device, a socket or a pipe."""

    spot: Spot
    facts: Seen

    passing = True

    @property
    def size(self) -> int:
        """As on the host."""
        return self.facts.size if stat.S_ISREG(self.facts.mode) else 0

    @property
    def allocated(self) -> int:
        """What it takes there. A small file may take nothing: `tar -S` would drop it."""
        return min(max(self.facts.allocated, 4096), max(self.size, 4096)) if self.size else 0

    @property
    def mode(self) -> int:
        """As on the host, without what would write. What is no file has no permissions."""
        kind = stat.S_IFMT(self.facts.mode)
        return kind | (self.facts.mode & _SHOWN if stat.S_ISREG(kind) else 0)


@dataclass(slots=True, eq=False, kw_only=True)
class HostLink(Link):
    """A symbolic link in it; where it leads is asked when somebody wants to know."""

    spot: Spot
    facts: Seen
    target: str = ""

    passing = True

    @property
    def size(self) -> int:
        """The length of its text."""
        return self.facts.size


HostNode = HostDirectory | HostFile | HostLink


class Entries(Sequence[tuple[str, Node]]):
    """The entries of one directory, whose nodes are made when they are asked for: thousands of
    names may be listed, and few be looked at.
    """

    def __init__(self, parent: HostRoot | HostDirectory, found: list[tuple[str, Seen]]) -> None:
        self._parent = parent
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    @overload
    def __getitem__(self, index: int) -> tuple[str, Node]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, Node]]: ...

    def __getitem__(self, index: int | slice) -> tuple[str, Node] | list[tuple[str, Node]]:
        if isinstance(index, slice):
            return [(name, _node(self._parent, name, seen)) for name, seen in self._found[index]]
        name, seen = self._found[index]
        return name, _node(self._parent, name, seen)

    def __iter__(self) -> Iterator[tuple[str, Node]]:
        return (self[number] for number in range(len(self._found)))


class HostDirectories:
    """Asks the disk. Every function raises what ``content.beneath.Beneath`` raises."""

    def __init__(self, timeout: float, shown: Callable[[Hashable], bool]) -> None:
        """`timeout` is in seconds, for one question. `shown` says whether an image with this key is
        still in the tree: whoever sits in its directory loses it with the others.
        """
        self._timeout = timeout
        self._shown = shown
        # Each has threads of its own; images with the same directory share them.
        self._known: LRUCache[str, Beneath] = LRUCache(1024)

    def _beneath(self, spot: Spot) -> Beneath:
        if not self._shown(spot.image):
            raise Changed("the image is not there any more")
        beneath = self._known.get(spot.root)
        if beneath is None:
            beneath = self._known[spot.root] = Beneath(spot.root, timeout=self._timeout)
        return beneath

    async def lookup(self, directory: HostRoot | HostDirectory, name: str) -> Node:
        """Return the entry `name`, without a number. Raises Missing."""
        spot = directory.spot
        seen = await self._beneath(spot).look(spot.names, _identity(directory), name)
        return _node(directory, name, seen)

    async def entries(self, directory: HostRoot | HostDirectory) -> Entries:
        """Return all entries, without numbers."""
        spot = directory.spot
        found = await self._beneath(spot).entries(spot.names, _identity(directory))
        return Entries(directory, found)

    async def refresh(self, node: HostNode) -> None:
        """Look again at what `node` stands for. Raises Changed when it is not there any more."""
        spot = node.spot
        node.facts = await self._beneath(spot).facts(spot.names, node.facts.identity)
        node.mtime = node.facts.mtime_ns / 1e9

    async def target(self, node: HostLink) -> str:
        """Return what a link says."""
        return await self._beneath(node.spot).target(node.spot.names, node.facts.identity)

    async def open(self, node: HostFile) -> OpenFile:
        """Open a regular file."""
        return await self._beneath(node.spot).open(node.spot.names, node.facts.identity)


def _identity(directory: HostRoot | HostDirectory) -> tuple[int, int] | None:
    return directory.facts.identity if isinstance(directory, HostDirectory) else None


def _node(parent: HostRoot | HostDirectory, name: str, seen: Seen) -> HostNode:
    spot = parent.spot.below(name)
    key = ("host", spot.image, seen.device, seen.inode, stat.S_IFMT(seen.mode))
    kind: type[HostNode]
    if stat.S_ISDIR(seen.mode):
        kind = HostDirectory
    elif stat.S_ISLNK(seen.mode):
        kind = HostLink
    else:
        kind = HostFile
    return kind(
        name=name,
        key=key,
        parent=parent,
        mtime=seen.mtime_ns / 1e9,
        timeout=BRIEFLY,
        spot=spot,
        facts=seen,
    )
