"""What of the tree one user of this machine sees, by what his own session of OpenNebula may use.

The tree is one for all: names, numbers and bytes are those of the mount's session. This says which
of it is there for somebody. What a node belongs to is told by the object of which its attributes
are made (see rights.py), and by that of every directory above it; a file that belongs to no object
is there for nobody.
"""

from __future__ import annotations

from collections.abc import Iterable

from nebfs.catalog.usable import Usable
from nebfs.model import App, Datastore, Image, Marketplace, Owned
from nebfs.tree.nodes import ByIdDirectory, Directory, Link, Node, StatusDocument
from nebfs.tree.rights import RESTRICTED, item_of

_PLACES = (Marketplace, Datastore)


class Sight:
    """What somebody sees who may use `usable`."""

    __slots__ = ("_usable",)

    def __init__(self, usable: Usable) -> None:
        self._usable = usable

    def may_use(self, item: Owned) -> bool:
        """Whether he may use an object or a place."""
        return self._usable.may_use(type(item), item.id)

    def shows(self, node: Node) -> bool:
        """Whether a node is there for him. Of what is not in the tree any more, what was above it
        is asked all the same.
        """
        held = isinstance(node, Directory)
        at, top = node, node.parent
        while True:
            if not self._itself(at):
                return False
            held = held or isinstance(item_of(at), RESTRICTED) or _by_id(at) is not None
            if top is None:
                return held and at.key == "root"
            at, top = top, top.parent

    def among(self, entries: Iterable[tuple[str, Node]]) -> list[tuple[str, Node]]:
        """Return those entries that are there for him, of a directory that is."""
        return [(name, node) for name, node in entries if self._itself(node)]

    def _itself(self, node: Node) -> bool:
        """Whether nothing about the node itself keeps it from him."""
        item = item_of(node)
        if item is None:
            kind = _by_id(node)
            if kind is not None:
                return self._usable.may_use(kind, int(node.name))
            return not isinstance(node, StatusDocument)
        if isinstance(item, _PLACES):
            return self._usable.may_enter(type(item), item.id)
        return self.may_use(item)

    def knows(self, node: Node) -> bool:
        """Whether he may know more of a node than its name: of a place that he only enters since
        something in it is his, he may not.
        """
        item = item_of(node)
        return not isinstance(item, _PLACES) or self.may_use(item)

    def dated(self, node: Node) -> float:
        """Return st_mtime: of a place, that of the newest thing in it that he may use."""
        item = item_of(node)
        if not isinstance(item, _PLACES):
            return node.mtime
        return float(self._usable.newest(type(item), item.id))


def _by_id(node: Node) -> type[App | Image] | None:
    """Return to what kind of object a link leads by its id."""
    if isinstance(node, Link) and isinstance(node.parent, ByIdDirectory):
        return App if node.parent.what == "apps" else Image
    return None
