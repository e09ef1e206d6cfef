"""Nodes as the kernel and getfattr(1) see them: stat(2) and extended attributes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import pyfuse3

from nebfs.content import Library
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.library import object_key
from nebfs.content.profiling import lineage
from nebfs.fuse.guard import tell
from nebfs.fuse.handles import Handles
from nebfs.tree import ContentFile, Directory, Link, Node, Tree
from nebfs.tree.hostdir import HostFile
from nebfs.tree.nodes import AppLink
from nebfs.tree.rights import Rights
from nebfs.tree.sight import Sight

EVERY_CLASS = 0o777
"""All bits of owner, group and others."""

BLOCK = 4096
"""st_blksize, and the unit of statfs: larger ones change nothing for cp (measured)."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """`owner`: uid and gid of everything, less `umask`, unless `rights` tell. `by_user`: whether
    users see different things.
    """

    tree: Tree
    library: Library
    handles: Handles
    owner: tuple[int, int]
    umask: int
    rights: Rights | None
    by_user: bool

    def now(self, node: Node) -> Node:
        """Return what an inode is now. A listing that was opened earlier may have a file without
        the length that was found since, and a place that went away must not take back the length
        of what is open: the kernel would end reads that are under way, as if the file ended there.
        """
        if not isinstance(node, ContentFile) or node.revision is not None:
            return node
        return self.handles.image(node.ino) or self.tree.inodes.now(node)

    def of(self, node: Node, sight: Sight | None = None) -> pyfuse3.EntryAttributes:
        """Return what stat(2) tells of a node, to who sees `sight`; None: everything."""
        node = self.now(node)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.ino
        umask = 0 if isinstance(node, Link) else self.umask
        entry.st_uid, entry.st_gid = self.owner
        if self.rights is not None and not isinstance(node, Link):
            shown = self.rights.of(node)
            entry.st_uid, entry.st_gid = shown.uid, shown.gid
            umask |= EVERY_CLASS & ~shown.mask
        entry.st_mode = pyfuse3.ModeT(node.mode & ~umask)
        entry.st_nlink = 2 if isinstance(node, Directory) else 1
        entry.st_size = node.size
        entry.st_blksize = BLOCK
        entry.st_blocks = -(-node.allocated // 512)
        mtime = node.mtime
        entry.entry_timeout = entry.attr_timeout = node.timeout
        if self.by_user:
            # What the kernel keeps is for all users alike, so it must ask for each name again, and
            # before each step through a directory. That a file's attributes are kept tells nobody
            # anything: its name was asked before. Nor are those of the root any secret.
            entry.entry_timeout = 0.0
            if isinstance(node, (Directory, Link)) and node is not self.tree.root:
                entry.attr_timeout = 0.0
        if sight is not None:
            mtime = sight.dated(node)
            if isinstance(node, AppLink):
                entry.st_size = len(os.fsencode(self.tree.target_for(node, sight.may_use)))
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = int(mtime * 1e9)
        if isinstance(node, HostFile):
            entry.st_rdev = node.facts.rdev
        return entry

    def listed(self, node: Node, sight: Sight | None) -> pyfuse3.EntryAttributes:
        """Return a node's attributes for a list. What one entry cannot tell costs it its size and
        its permissions, and the others nothing.
        """
        try:
            return self.of(node, sight)
        except BaseException as exc:  # noqa: BLE001 - nothing is awaited
            tell("readdir", exc)
            entry = pyfuse3.EntryAttributes()
            entry.st_ino, entry.st_mode = node.ino, pyfuse3.ModeT(node.kind)
            entry.st_nlink, entry.st_blksize = 1, BLOCK
            return entry

    def extended(self, node: Node) -> dict[str, str]:
        """Return the extended attributes of a node."""
        found = dict(node.attributes())
        if isinstance(node, ContentFile):
            found |= self._of_content(node)
        listing = self.tree.listing_of(node)
        if listing is not None:
            found["user.nebfs.as-of"] = _time(listing.as_of)
            if listing.trouble:
                found["user.nebfs.trouble"] = listing.trouble
        return found

    def _of_content(self, node: ContentFile) -> dict[str, str]:
        found: dict[str, str] = {}
        content, revision = node.content, node.revision
        if node.trouble is not None:
            found["user.nebfs.trouble"] = node.trouble.reason
        if content is None:
            return found
        found["user.nebfs.source"] = content.locator.shown
        if revision is None:
            return found
        found["user.nebfs.revision"] = object_key(content, revision)[:16]
        if content.locator.transport not in TRANSPORTS:
            found["user.nebfs.profile"] = lineage(content)
        if not revision.ranges:
            found["user.nebfs.access"] = "sequential"
        facts = self.library.facts(content, revision)
        if facts is not None:
            found["user.nebfs.cached"] = str(facts.cached)
            if facts.verified:
                found["user.nebfs.verified"] = facts.verified
            if facts.last_error:
                found["user.nebfs.last-error"] = facts.last_error
        return found


def _time(seconds: float) -> str:
    if not seconds:
        return "never"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
