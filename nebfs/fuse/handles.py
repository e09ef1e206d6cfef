"""What is open: files and directories by the handles that the kernel has of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nebfs.content import Reader
from nebfs.content.beneath import OpenFile
from nebfs.fuse.slow import facts_of
from nebfs.model import Content
from nebfs.tree import ContentFile, Node
from nebfs.tree.hostdir import HostFile
from nebfs.tree.sight import Sight


@dataclass(slots=True)
class Text:
    """An open document."""

    node: Node
    data: bytes


@dataclass(slots=True)
class Disk:
    """An open image."""

    node: ContentFile
    reader: Reader
    hits: int = 0
    """Reads that were answered at once."""


@dataclass(slots=True)
class Shared:
    """An open file of a directory that is shared with others, who may write to it."""

    node: HostFile
    file: OpenFile


@dataclass(frozen=True, slots=True)
class Listing:
    """An open directory: what it held when it was opened, and what of that who opened it sees."""

    entries: Sequence[tuple[str, Node]]
    sight: Sight | None


class Handles:
    """All that is open. A number is never given twice."""

    def __init__(self) -> None:
        self.files: dict[int, Disk | Shared | Text] = {}
        self.lists: dict[int, Listing] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self.files) + len(self.lists)

    def add(self, opened: Disk | Shared | Text | Listing) -> int:
        """Return the handle of what was opened."""
        handle, self._next = self._next, self._next + 1
        if isinstance(opened, Listing):
            self.lists[handle] = opened
        else:
            self.files[handle] = opened
        return handle

    def has(self, ino: int) -> bool:
        """Say whether a file with this inode is open."""
        return any(file.node.ino == ino for file in self.files.values())

    def image(self, ino: int) -> ContentFile | None:
        """Return the open image with this inode, as it was when it was opened; None: there is
        none.
        """
        return next((disk.node for disk in self._disks() if disk.node.ino == ino), None)

    def nodes_of(self, content: Content) -> list[Node]:
        """Return the nodes of open images with this content."""
        return [disk.node for disk in self._disks() if disk.node.content == content]

    def use_of(self, content: Content) -> tuple[int, int]:
        """Return how many open images have this content, and how many of their reads were answered
        at once.
        """
        found = [disk.hits for disk in self._disks() if disk.node.content == content]
        return len(found), sum(found)

    def shown(self) -> list[dict[str, object]]:
        """Return what is open: each file's name and place, and how its reads were answered."""
        found: list[dict[str, object]] = []
        for handle, file in self.files.items():
            match file:
                case Disk():
                    facts = facts_of(file.node.content, file.node.name)
                    size = file.reader.size
                    found.append({"fh": handle, **facts, "size": size, "warm": file.hits})
                case Shared():
                    found.append({"fh": handle, "kind": "of a shared directory"})
                case Text():
                    found.append({"fh": handle, "kind": "document", "size": len(file.data)})
        return found + [{"fh": handle, "kind": "directory"} for handle in self.lists]

    def _disks(self) -> Iterator[Disk]:
        return (file for file in self.files.values() if isinstance(file, Disk))
