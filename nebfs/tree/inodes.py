"""Inode numbers, and which of them the kernel still knows."""

from __future__ import annotations

import itertools
from collections.abc import Hashable

from nebfs.errors import Changed
from nebfs.tree.nodes import Node

ROOT = 1


class Inodes:
    """Numbers nodes by their key. A number is used for one key, ever.

    A node that leaves the tree keeps its number until the kernel forgets it: it may be open.
    """

    def __init__(self) -> None:
        self._next = itertools.count(ROOT)
        self._nodes: dict[int, Node] = {}
        self._numbers: dict[Hashable, int] = {}
        self._lookups: dict[int, int] = {}
        self._gone: set[int] = set()

    def __len__(self) -> int:
        return len(self._nodes)

    def enter(self, node: Node) -> None:
        """Give `node` the number of its key; it replaces an older node of the same key."""
        number = self._numbers.get(node.key)
        if number is None:
            number = self._numbers[node.key] = next(self._next)
        node.ino = number
        self._nodes[number] = node
        self._gone.discard(number)

    def leave(self, node: Node) -> None:
        """Take note that `node` is not in the tree any more."""
        if self._nodes.get(node.ino) is not node:
            return
        if self._lookups.get(node.ino):
            self._gone.add(node.ino)
        else:
            self._remove(node.ino)

    def node(self, ino: int) -> Node:
        """Return the node with this number. Raises Changed (ESTALE) when there is none."""
        try:
            return self._nodes[ino]
        except KeyError:
            raise Changed("this inode is not known any more", ino=ino) from None

    def now(self, node: Node) -> Node:
        """Return the node that has the number of `node` now: a newer one, or itself."""
        return self._nodes.get(node.ino, node)

    def seen(self, ino: int) -> None:
        """Count one lookup by the kernel."""
        self._lookups[ino] = self._lookups.get(ino, 0) + 1
        node = self._nodes.get(ino)
        if node is not None and node.passing:
            self._gone.add(ino)

    def nodes(self) -> list[Node]:
        """Return all nodes that have a number now."""
        return list(self._nodes.values())

    def stays(self, key: Hashable) -> bool:
        """Whether a node with this key is in the tree, and not only known to the kernel."""
        number = self._numbers.get(key)
        return number is not None and number not in self._gone

    def with_key(self, key: Hashable) -> Node | None:
        """Return the node with this key; None when there is none."""
        number = self._numbers.get(key)
        return None if number is None else self._nodes.get(number)

    def known(self, ino: int) -> bool:
        """Whether the kernel may hold something about this inode."""
        return ino in self._lookups

    def forget(self, ino: int, count: int) -> None:
        """Take `count` lookups back."""
        left = self._lookups.get(ino, 0) - count
        if left > 0:
            self._lookups[ino] = left
            return
        self._lookups.pop(ino, None)
        if ino in self._gone:
            self._gone.discard(ino)
            self._remove(ino)

    def _remove(self, ino: int) -> None:
        node = self._nodes.pop(ino, None)
        if node is not None:
            self._numbers.pop(node.key, None)
