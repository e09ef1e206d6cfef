"""pyfuse3's handlers: the kernel's requests in terms of the tree and of open images."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, cast

import pyfuse3
import structlog
import trio

from nebfs.content import Library, Prober
from nebfs.errors import Changed, Damaged, Missing, NebfsError
from nebfs.fuse.attributes import BLOCK, Attributes
from nebfs.fuse.given_up import GivenUp
from nebfs.fuse.guard import guarded, silenced, tell
from nebfs.fuse.handles import Disk, Handles, Listing, Shared, Text
from nebfs.fuse.opening import Opening
from nebfs.fuse.settings import OperationsSettings
from nebfs.fuse.slow import Slow, facts_of, facts_of_directory
from nebfs.tree import ContentFile, Directory, Document, Link, Node, Tree
from nebfs.tree.hostdir import Entries, HostDirectory, HostFile, HostLink
from nebfs.tree.inodes import ROOT
from nebfs.tree.links import everything
from nebfs.tree.nodes import AppLink, StatusDocument
from nebfs.tree.sight import Sight

log = structlog.get_logger()

NAME_MAX = 255
"""Bytes of a name, as statfs tells it. The kernel asks for names of up to 1024."""


@dataclass(slots=True)
class Counters:
    """What passed the window since the mount was made."""

    warm_reads: int = 0
    cold_reads: int = 0
    bytes_read: int = 0
    errors: int = 0
    opens: int = 0
    damaged: int = 0
    """Images that were found to be something else than what was published, or damaged."""

    @property
    def reads(self) -> int:
        """All reads."""
        return self.warm_reads + self.cold_reads


class Operations(pyfuse3.Operations):
    """Read-only: whatever would change something is refused with EROFS, as on any `ro` mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False
    unit = BLOCK

    def __init__(
        self, tree: Tree, library: Library, prober: Prober, settings: OperationsSettings
    ) -> None:
        super().__init__()
        self._tree = tree
        self._settings = settings
        self.handles = Handles()
        self._files = self.handles.files  # one step less on the way of each warm read
        self.opening = Opening(tree, library, prober, settings.revalidate)
        self._attributes = Attributes(
            tree,
            library,
            self.handles,
            settings.owner,
            settings.umask,
            settings.rights,
            by_user=settings.callers is not None,
        )
        self.counters = Counters()
        self._given_up = GivenUp()
        self.slow = Slow(settings.slow)

    # --- names ------------------------------------------------------------------------------

    def _directory(self, ino: int) -> Directory:
        node = self._tree.inodes.node(ino)
        if not isinstance(node, Directory):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return node

    async def _sight(self, uid: int) -> Sight | None:
        """Return what a user sees; None: everything. Why he sees nothing is logged where it is
        found out: here it would be at each of his calls.
        """
        callers = self._settings.callers
        if callers is None:
            return None
        try:
            usable = await callers.of(uid)
        except NebfsError as exc:
            raise pyfuse3.FUSEError(exc.errno) from exc
        return None if usable is None else Sight(usable)

    async def _seen(self, node: Node, ctx: pyfuse3.RequestContext) -> Sight | None:
        """Return what the user sees who asks about `node`, if he sees that; else raises Missing.

        Whoever asks may know the number from another's walk, or from before he lost a right. The
        root is seen by all: what is in it are no secrets, and it must be looked into by those who
        have no session.
        """
        if self._settings.callers is None or node is self._tree.root:
            return None
        sight = await self._sight(ctx.uid)
        if sight is not None and not sight.shows(node):
            raise Missing("no such entry", name=node.name)
        return sight

    @guarded
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Find a name in a directory."""
        directory = self._directory(parent_inode)
        await self._seen(directory, ctx)
        if len(name) > NAME_MAX:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        text = os.fsdecode(name)
        if text == ".":
            node: Node = directory
        elif text == "..":
            node = directory.parent or directory
        else:
            node = await self._tree.lookup(directory, text)
        sight = None
        if self._settings.callers is not None and directory is not self._tree.root:
            sight = await self._seen(node, ctx)  # a right may have been lost meanwhile
        self._tree.inodes.seen(node.ino)
        return self._attributes.of(node, sight)

    @silenced
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Take lookups back. It has no answer, so it may not fail."""
        for ino, count in inode_list:
            self._tree.inodes.forget(ino, count)

    @guarded
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Return an inode's attributes."""
        node = self._tree.inodes.node(inode)
        try:
            sight = await self._seen(node, ctx)
        except Missing:
            # A file that is open stays open, and whoever reads it asks how long it is.
            if not self.handles.has(inode):
                raise
            sight = None
        if isinstance(node, (HostDirectory, HostFile, HostLink)):
            await self._tree.hosts.refresh(node)
        return self._attributes.of(node, sight)

    @guarded
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Return a link's target."""
        node = self._tree.inodes.node(inode)
        sight = await self._seen(node, ctx)
        if not isinstance(node, Link):
            raise pyfuse3.FUSEError(errno.EINVAL)
        if sight is not None and isinstance(node, AppLink):
            return os.fsencode(self._tree.target_for(node, sight.may_use))
        if isinstance(node, HostLink):
            return os.fsencode(await self._tree.hosts.target(node))
        return os.fsencode(node.target)

    @guarded
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """Say whether access(2) is granted, where `default_permissions` leaves it to us."""
        node = self._tree.inodes.node(inode)
        await self._seen(node, ctx)
        if mode & os.W_OK:
            raise pyfuse3.FUSEError(errno.EROFS)
        return not (mode & os.R_OK and not node.mode & 0o444)

    # --- directories ------------------------------------------------------------------------

    @guarded
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Open a directory: what it holds now is what this handle will list."""
        directory = self._directory(inode)
        await self._seen(directory, ctx)
        listing = await self.slow.watched(
            "listing", self._tree.listing(directory), lambda: facts_of_directory(directory)
        )
        sight = await self._seen(directory, ctx)
        if sight is not None and not isinstance(listing, Entries):
            listing = sight.among(listing)
        return self.handles.add(Listing(listing, sight))

    @guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory from entry `start_id` on, attributes included."""
        listing = self.handles.lists[fh]
        entries, sight = listing.entries, listing.sight
        for number in range(start_id, len(entries)):
            name, node = entries[number]
            if node.passing:
                self._tree.inodes.enter(node)
            if not pyfuse3.readdir_reply(
                token, os.fsencode(name), self._attributes.listed(node, sight), number + 1
            ):
                if node.passing:
                    self._tree.inodes.leave(node)
                break
            self._tree.inodes.seen(node.ino)

    @silenced
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""
        self.handles.lists.pop(fh, None)

    # --- files ------------------------------------------------------------------------------

    @guarded
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """A file is opened for reading. Another version than the one looked up is ESTALE: the
        kernel then looks the name up again by itself and opens what is there now.
        """
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise pyfuse3.FUSEError(errno.EROFS)
        node = self._tree.inodes.node(inode)
        self._tree.check_allowed(node)
        await self._seen(node, ctx)
        if isinstance(node, Document):
            live = isinstance(node, StatusDocument)
            data = node.make() if isinstance(node, StatusDocument) else node.data
            return self._opened(Text(node, data), direct_io=live)
        if isinstance(node, HostFile):
            return self._opened(Shared(node, await self._tree.hosts.open(node)), direct_io=True)
        if not isinstance(node, ContentFile):
            raise pyfuse3.FUSEError(errno.EISDIR)
        with trio.fail_after(self._settings.deadline):
            disk = await self.slow.watched(
                "open", self.opening.image(node), lambda: facts_of(node.content, node.name)
            )
        self.counters.opens += 1
        volatile = disk.node.content is not None and disk.node.content.volatile
        return self._opened(disk, direct_io=volatile)

    def _opened(self, file: Disk | Shared | Text, *, direct_io: bool) -> pyfuse3.FileInfo:
        """Return what the kernel is told: it keeps what it reads, or it asks each time."""
        handle = pyfuse3.FileHandleT(self.handles.add(file))
        return pyfuse3.FileInfo(fh=handle, direct_io=direct_io, keep_cache=not direct_io)

    def read_warm(self, fh: int, offset: int, size: int) -> memoryview | bytes | None:
        """Answer a read at once, if that is possible; else None. See direct.py."""
        file = self._files.get(fh)
        if type(file) is not Disk:
            return None
        try:
            reader = file.reader
            if offset + size > reader.size:
                size = reader.size - offset
                if size <= 0:
                    return b""
            view = reader.warm(offset, size)
        except BaseException as exc:  # noqa: BLE001 - nothing is awaited: it is a bug of ours
            tell("read_warm", exc)
            return None  # the other way may still have the bytes
        if view is not None:
            file.hits += 1
            counters = self.counters
            counters.warm_reads += 1
            counters.bytes_read += size
        return view

    async def read_cold(self, fh: int, offset: int, size: int) -> tuple[int, bytes | memoryview]:
        """Answer a read that has to wait: 0 and the bytes, or an errno. See direct.py."""
        try:
            return 0, await self._read_waiting(fh, offset, size)
        except pyfuse3.FUSEError as exc:
            return exc.errno, b""

    @guarded
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Read: exactly what was asked for, up to the end of the file."""
        view = self.read_warm(fh, off, size)
        if view is None:
            view = await self._read_waiting(fh, off, size)
        # pyfuse3 takes any buffer and has copied it to the kernel before the next await.
        return cast("bytes", view)

    @guarded
    async def _read_waiting(self, fh: int, offset: int, size: int) -> bytes | memoryview:
        file = self.handles.files[fh]
        if isinstance(file, Text):
            return file.data[offset : offset + size]
        if isinstance(file, Shared):
            with trio.fail_after(self._settings.deadline):
                return await file.file.pread(offset, size)
        size = min(size, file.reader.size - offset)
        if size <= 0:
            return b""
        self.counters.cold_reads += 1
        try:
            node = file.node
            facts = partial(facts_of, node.content, node.name)
            kept = node.content is None or not node.content.volatile
            with self._given_up.waiting(fh, offset, size) if kept else nullcontext():
                work = file.reader.pread(offset, size)
                with trio.fail_after(self._settings.deadline):
                    data = await self.slow.watched("read", work, facts)
            if len(data) != size:
                # The kernel would take it for the end of the file, and fill up with zeros.
                raise Damaged("a layer gave too few bytes", wanted=size, got=len(data))
        except Changed:
            self._tree.outdated(file.node)
            self.counters.errors += 1
            raise
        except BaseException:
            self.counters.errors += 1
            raise
        self.counters.bytes_read += size
        return data

    async def flush(self, fh: int) -> None:
        """There is nothing to write back."""

    @guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        """There is nothing to write back."""

    @silenced
    async def release(self, fh: int) -> None:
        """Close a file. It has no answer that anybody sees, so it may not fail."""
        match self.handles.files.pop(fh, None):
            case Shared(file=file):
                file.close()
            case Disk(reader=reader):
                await reader.aclose()

    # --- attributes -------------------------------------------------------------------------

    @guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """List the names of an inode's extended attributes; the kernel allows links none."""
        node = self._tree.inodes.node(inode)
        sight = await self._seen(node, ctx)
        if isinstance(node, Link) or (sight is not None and not sight.knows(node)):
            return []
        return [name.encode() for name in self._attributes.extended(node)]

    @guarded
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Return one extended attribute. Outside ``user.`` there are none, and never will be."""
        if not name.startswith(b"user."):
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        node = self._tree.inodes.node(inode)
        sight = await self._seen(node, ctx)
        value = None
        if sight is None or sight.knows(node):
            value = self._attributes.extended(node).get(name.decode("utf-8", "replace"))
        if value is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return value.encode("utf-8", "replace")

    async def capacity(self, inode: int, uid: int) -> tuple[int, int, int, int]:
        """Answer df(1): blocks of BLOCK bytes, those of them that are free, files, NAME_MAX. Of the
        datastore that the inode is in, or of all together that `uid` may use. See direct.py.
        """
        sight = await self._sight(uid)
        usable = everything if sight is None else sight.may_use
        if sight is not None and inode != ROOT and not sight.shows(self._tree.inodes.node(inode)):
            raise Missing("no such entry", ino=inode)
        total, free = self._tree.capacity(inode, usable)
        files = len(self._tree.inodes) if sight is None else 0
        return total // BLOCK, free // BLOCK, files, NAME_MAX

    @guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Answer df(1) where direct.py does not: pyfuse3 does not tell us which inode is meant."""
        facts = pyfuse3.StatvfsData()
        facts.f_bsize = facts.f_frsize = BLOCK
        found = await self.capacity(ROOT, ctx.uid)
        facts.f_blocks, facts.f_bfree, facts.f_files, facts.f_namemax = found
        facts.f_bavail = facts.f_bfree
        facts.f_ffree = facts.f_favail = 0
        return facts

    # --- what would change something --------------------------------------------------------

    async def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise pyfuse3.FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = _refuse
    create = write = setxattr = removexattr = _refuse
