"""From a path to a node, as the kernel would walk it: for commands that name files."""

from __future__ import annotations

import difflib

from nebfs.errors import BadAnswer, Missing, NebfsError, UserError
from nebfs.tree.hostdir import HostDirectory, HostRoot
from nebfs.tree.nodes import Directory, Link, Node
from nebfs.tree.tree import Tree

MOST_LINKS = 40
"""As the kernel has it: path_resolution(7)."""


MOST_NAMES = 2_000
"""Names that a wrong one is compared with: some milliseconds."""


async def find(tree: Tree, path: str) -> Node:
    """Return what is at `path`, from the root of the mount on. Links are followed.

    What is in a directory that is shared with others is not looked for: it is in the tree only for
    as long as the kernel knows it. Raises Missing, what listing a directory on the way raises, or
    UserError for a path that leads out of the mount.
    """
    node: Node = tree.root
    ahead = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    links = 0
    while ahead:
        part = ahead.pop()
        if not isinstance(node, Directory):
            raise UserError(f"{node.name} is no directory")
        if part == "..":
            node = node.parent or node
            continue
        if isinstance(node, (HostRoot, HostDirectory)):
            raise UserError(f"{node.name} is shared with others as it is: there is no image in it")
        try:
            found = await tree.lookup(node, part)
        except Missing as exc:
            raise Missing(await _nothing(tree, node, part)) from exc
        if isinstance(found, Link):
            links += 1
            if links > MOST_LINKS:
                raise BadAnswer("too many links on the way")
            if found.target.startswith("/"):
                raise UserError(f"{found.name} leads out of the mount")
            ahead += [part for part in reversed(found.target.split("/")) if part not in {"", "."}]
        else:
            node = found
    return node


async def _nothing(tree: Tree, directory: Directory, name: str) -> str:
    """Return what is said of a name that is not there, with what may have been meant."""
    where = f"in {directory.name}" if directory.parent is not None else "at the top of the mount"
    try:
        names = [entry for entry, _ in await tree.listing(directory)]
    except NebfsError:
        names = []  # it cannot be listed now: then nothing is proposed
    names = names[:MOST_NAMES]
    begun = [one for one in names if one.lower().startswith(name.lower())]
    near = (begun or difflib.get_close_matches(name, names, n=3))[:3]
    meant = f"; there is {' and '.join(map(repr, near))}" if near else ""
    return f"no such entry: {name!r} {where}{meant}"
