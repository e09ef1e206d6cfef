"""pyfuse3's handlers: the kernel's requests in terms of the tree and of open images."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, cast

import pyfuse3
import structlog
import trio

from nebfs.catalog.usable import Usable
from nebfs.content import Library, Prober, Reader
from nebfs.content.beneath import OpenFile
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.library import object_key
from nebfs.content.profiling import lineage
from nebfs.errors import Changed, Damaged, Missing, NebfsError, Refused, TimedOut, Unreachable
from nebfs.fuse.guard import guarded, silenced, tell
from nebfs.fuse.slow import Slow, facts_of, facts_of_directory
from nebfs.model import Content
from nebfs.tree import ContentFile, Directory, Document, Link, Node, Tree
from nebfs.tree.hostdir import Entries, HostDirectory, HostFile, HostLink
from nebfs.tree.inodes import ROOT
from nebfs.tree.links import everything
from nebfs.tree.nodes import AppLink, StatusDocument
from nebfs.tree.rights import Rights
from nebfs.tree.sight import Sight

log = structlog.get_logger()

EVERY_CLASS = 0o777
"""All bits of owner, group and others."""

BLOCK = 4096
"""st_blksize, and the unit of statfs: larger ones change nothing for cp (measured)."""

NAME_MAX = 255
"""Bytes of a name, as statfs tells it. The kernel asks for names of up to 1024."""


class Callers(Protocol):
    """Who knows what each user of this machine may use; ``catalog.Callers``."""

    async def of(self, uid: int) -> Usable | None:
        """Return what the user may use; None: everything. Raises NebfsError, in bounded time."""
        ...


@dataclass(frozen=True, slots=True)
class OperationsSettings:
    """`deadline`: seconds until a read fails. `revalidate`: seconds for which what a place said
    about an image is believed when the image is opened. `owner`: uid and gid of everything.
    `slow`: seconds from which what somebody waits for is logged.
    """

    deadline: float = 60.0
    revalidate: float = 60.0
    owner: tuple[int, int] = (0, 0)
    umask: int = 0
    slow: float = 5.0
    rights: Rights | None = None
    """What other users may open; None: everything."""
    callers: Callers | None = None
    """Each user sees what his own session may use; None: everybody sees everything."""


@dataclass(slots=True)
class _Text:
    """An open document."""

    data: bytes


@dataclass(slots=True)
class _Disk:
    """An open image."""

    reader: Reader
    node: ContentFile
    hits: int = 0
    """Reads that were answered at once."""


@dataclass(slots=True)
class _Shared:
    """An open file of a directory that is shared with others, who may write to it."""

    file: OpenFile


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
        self._library = library
        self._prober = prober
        self._settings = settings
        self._next_fh = 1
        self._files: dict[int, _Disk | _Shared | _Text] = {}
        self._lists: dict[int, Sequence[tuple[str, Node]]] = {}
        self._sights: dict[int, Sight] = {}
        """What of a list's entries who opened the directory may know."""
        self._held: dict[int, tuple[ContentFile, int]] = {}
        self._inodes: dict[int, int] = {}
        """Which inode a handle of a file is of."""
        self.counters = Counters()
        self.slow = Slow(settings.slow)

    # --- names ------------------------------------------------------------------------------

    def _directory(self, ino: int) -> Directory:
        node = self._tree.inodes.node(ino)
        if not isinstance(node, Directory):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return node

    def _shown(self, node: Node) -> Node:
        """Return what an inode is now. A listing that was opened earlier may have a file without
        the length that was found since, and a place that went away must not take back the length
        of what is open: the kernel would end reads that are under way, as if the file ended there.
        """
        if not isinstance(node, ContentFile) or node.revision is not None:
            return node
        held = self._held.get(node.ino)
        return held[0] if held is not None else self._tree.inodes.now(node)

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

    def _attributes(self, node: Node, sight: Sight | None = None) -> pyfuse3.EntryAttributes:
        node = self._shown(node)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.ino
        umask = 0 if isinstance(node, Link) else self._settings.umask
        entry.st_uid, entry.st_gid = self._settings.owner
        if self._settings.rights is not None and not isinstance(node, Link):
            shown = self._settings.rights.of(node)
            entry.st_uid, entry.st_gid = shown.uid, shown.gid
            umask |= EVERY_CLASS & ~shown.mask
        entry.st_mode = pyfuse3.ModeT(node.mode & ~umask)
        entry.st_nlink = 2 if isinstance(node, Directory) else 1
        entry.st_size = node.size
        entry.st_blksize = BLOCK
        entry.st_blocks = -(-node.allocated // 512)
        mtime = node.mtime
        entry.entry_timeout = entry.attr_timeout = node.timeout
        if self._settings.callers is not None:
            # What the kernel keeps is for all users alike, so it must ask for each name again, and
            # before each step through a directory. That a file's attributes are kept tells nobody
            # anything: its name was asked before. Nor are those of the root any secret.
            entry.entry_timeout = 0.0
            if isinstance(node, (Directory, Link)) and node is not self._tree.root:
                entry.attr_timeout = 0.0
        if sight is not None:
            mtime = sight.dated(node)
            if isinstance(node, AppLink):
                entry.st_size = len(os.fsencode(self._tree.target_for(node, sight.may_use)))
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = int(mtime * 1e9)
        if isinstance(node, HostFile):
            entry.st_rdev = node.facts.rdev
        return entry

    def _listed(self, node: Node, sight: Sight | None) -> pyfuse3.EntryAttributes:
        """Return a node's attributes for a list. What one entry cannot tell costs it its size and
        its permissions, and the others nothing.
        """
        try:
            return self._attributes(node, sight)
        except BaseException as exc:  # noqa: BLE001 - nothing is awaited
            tell("readdir", exc)
            entry = pyfuse3.EntryAttributes()
            entry.st_ino, entry.st_mode = node.ino, pyfuse3.ModeT(node.kind)
            entry.st_nlink, entry.st_blksize = 1, BLOCK
            return entry

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
        return self._attributes(node, sight)

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
            if inode not in self._inodes.values():
                raise
            sight = None
        if isinstance(node, (HostDirectory, HostFile, HostLink)):
            await self._tree.hosts.refresh(node)
        return self._attributes(node, sight)

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
        fh = self._next_fh
        self._next_fh += 1
        self._lists[fh] = listing
        if sight is not None:
            self._sights[fh] = sight
        return fh

    @guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory from entry `start_id` on, attributes included."""
        entries, sight = self._lists[fh], self._sights.get(fh)
        for number in range(start_id, len(entries)):
            name, node = entries[number]
            if node.passing:
                self._tree.inodes.enter(node)
            if not pyfuse3.readdir_reply(
                token, os.fsencode(name), self._listed(node, sight), number + 1
            ):
                if node.passing:
                    self._tree.inodes.leave(node)
                break
            self._tree.inodes.seen(node.ino)

    @silenced
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""
        self._lists.pop(fh, None)
        self._sights.pop(fh, None)

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
        fh = self._next_fh
        self._next_fh += 1
        if isinstance(node, Document):
            data = node.make() if isinstance(node, StatusDocument) else node.data
            self._files[fh] = _Text(data)
            self._inodes[fh] = inode
            live = isinstance(node, StatusDocument)
            return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fh), direct_io=live, keep_cache=not live)
        if isinstance(node, HostFile):
            self._files[fh] = _Shared(await self._tree.hosts.open(node))
            self._inodes[fh] = inode
            return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(fh), direct_io=True, keep_cache=False)
        if not isinstance(node, ContentFile):
            raise pyfuse3.FUSEError(errno.EISDIR)
        with trio.fail_after(self._settings.deadline):
            disk = await self.slow.watched(
                "open", self._open(node), lambda: facts_of(node.content, node.name)
            )
        self._files[fh] = disk
        self._hold(disk.node, 1)
        self._inodes[fh] = inode
        self.counters.opens += 1
        volatile = disk.node.content is not None and disk.node.content.volatile
        return pyfuse3.FileInfo(
            fh=pyfuse3.FileHandleT(fh), direct_io=volatile, keep_cache=not volatile
        )

    def _hold(self, node: ContentFile, handles: int) -> None:
        """Take note that an inode was opened, or closed again (-1)."""
        held, count = self._held.get(node.ino, (node, 0))
        if count + handles:
            self._held[node.ino] = held, count + handles
        else:
            del self._held[node.ino]

    async def _open(self, node: ContentFile) -> _Disk:
        if node.unready and node.content is not None:
            # The kernel believes none of its attributes: whoever opens it sees its length then.
            try:
                await self._library.measure(node.content)
            except Changed:
                self._tree.outdated(node)
                raise
            node = await self._tree.readied(node)
        content, revision = node.content, node.revision
        if node.trouble is not None or content is None or revision is None:
            reason = node.trouble.reason if node.trouble is not None else "it has no bytes"
            failure = NebfsError(reason, name=node.name)
            failure.errno = node.trouble.errno if node.trouble is not None else errno.EIO
            raise failure
        try:
            if content.revision is None or content.view or content.mutable:
                await self._still_there(node, content)
            return _Disk(await self._library.open(content, revision), node)
        except Changed:
            self._tree.outdated(node)
            raise

    async def _still_there(self, node: ContentFile, content: Content) -> None:
        """Ask the place whether it still has this version, if it was not asked lately.

        A place that does not answer does not make what is cached unreadable, unless VMs may have
        written to it since.
        """
        max_age = 0.0 if content.mutable else self._settings.revalidate
        try:
            probed = await self._prober.ask(content, max_age=max_age)
        except (Unreachable, TimedOut) as exc:
            if content.mutable:
                raise
            log.info("open.unconfirmed", name=node.name, error=str(exc))
            return
        except (Changed, Missing, Refused):
            raise
        except NebfsError as exc:
            if not content.view:
                raise
            # What disk is in it was known of the version that was listed: this is another one.
            raise Changed("its file has another version now", what=str(exc)) from exc
        assert node.revision is not None  # noqa: S101 - _open() has looked
        difference = node.revision.differs_from(probed.revision)
        if difference:
            raise Changed("its place has another version now", what=difference)

    def read_warm(self, fh: int, offset: int, size: int) -> memoryview | bytes | None:
        """Answer a read at once, if that is possible; else None. See direct.py."""
        file = self._files.get(fh)
        if type(file) is not _Disk:
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
        file = self._files[fh]
        if isinstance(file, _Text):
            return file.data[offset : offset + size]
        if isinstance(file, _Shared):
            with trio.fail_after(self._settings.deadline):
                return await file.file.pread(offset, size)
        size = min(size, file.reader.size - offset)
        if size <= 0:
            return b""
        self.counters.cold_reads += 1
        try:
            node, work = file.node, file.reader.pread(offset, size)
            with trio.fail_after(self._settings.deadline):
                data = await self.slow.watched(
                    "read", work, lambda: facts_of(node.content, node.name)
                )
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
        self._inodes.pop(fh, None)
        match self._files.pop(fh, None):
            case _Shared(file=file):
                file.close()
            case _Disk(node=node, reader=reader):
                try:
                    self._hold(node, -1)
                finally:
                    await reader.aclose()

    # --- attributes -------------------------------------------------------------------------

    def _extended(self, node: Node) -> dict[str, str]:
        found = dict(node.attributes())
        if isinstance(node, ContentFile):
            found |= self._of_content(node)
        listing = self._tree.listing_of(node)
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
        facts = self._library.facts(content, revision)
        if facts is not None:
            found["user.nebfs.cached"] = str(facts.cached)
            if facts.verified:
                found["user.nebfs.verified"] = facts.verified
            if facts.last_error:
                found["user.nebfs.last-error"] = facts.last_error
        return found

    @guarded
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """List the names of an inode's extended attributes; the kernel allows links none."""
        node = self._tree.inodes.node(inode)
        sight = await self._seen(node, ctx)
        if isinstance(node, Link) or (sight is not None and not sight.knows(node)):
            return []
        return [name.encode() for name in self._extended(node)]

    @guarded
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Return one extended attribute. Outside ``user.`` there are none, and never will be."""
        if not name.startswith(b"user."):
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        node = self._tree.inodes.node(inode)
        sight = await self._seen(node, ctx)
        value = None
        if sight is None or sight.knows(node):
            value = self._extended(node).get(name.decode("utf-8", "replace"))
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

    def nodes_of(self, content: Content) -> list[Node]:
        """Return the nodes of open files with this content."""
        return [
            file.node
            for file in self._files.values()
            if isinstance(file, _Disk) and file.node.content == content
        ]

    def use_of(self, content: Content) -> tuple[int, int]:
        """Return how many open files have this content, and how many of their reads were answered
        at once.
        """
        found = [
            file.hits
            for file in self._files.values()
            if isinstance(file, _Disk) and file.node.content == content
        ]
        return len(found), sum(found)

    async def confirm(self, node: ContentFile) -> None:
        """Ask the place whether it still has this version, as opening does. Raises NebfsError."""
        content = node.content
        try:
            if content is not None and (
                content.revision is None or content.view or content.mutable
            ):
                await self._still_there(node, content)
        except Changed:
            self._tree.outdated(node)
            raise

    def open_now(self) -> list[dict[str, object]]:
        """Return what is open: each file's name and place, and how its reads were answered."""
        found: list[dict[str, object]] = []
        for fh, file in self._files.items():
            match file:
                case _Disk():
                    facts = facts_of(file.node.content, file.node.name)
                    found.append({"fh": fh, **facts, "size": file.reader.size, "warm": file.hits})
                case _Shared():
                    found.append({"fh": fh, "kind": "of a shared directory"})
                case _Text():
                    found.append({"fh": fh, "kind": "document", "size": len(file.data)})
        return found + [{"fh": fh, "kind": "directory"} for fh in self._lists]

    @property
    def open_files(self) -> int:
        """How many files and directories are open."""
        return len(self._files) + len(self._lists)


def _time(seconds: float) -> str:
    if not seconds:
        return "never"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
