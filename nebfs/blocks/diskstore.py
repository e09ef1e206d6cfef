"""The cache on disk: a directory that one daemon owns, and the objects that rest in it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Container, Iterator
from pathlib import Path

import structlog
import trio

from nebfs.blocks.blockfile import SLOT_SIZE, BlockFile, disk_threads
from nebfs.blocks.index import HEADER_SIZE, Header, Index
from nebfs.blocks.resting import paths
from nebfs.blocks.store import Store, seed_of
from nebfs.errors import CacheFault, UserError
from nebfs.private import Taken, lock_file, make_directory, open_directory, write_file

log = structlog.get_logger()

TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This directory holds blocks that nebfs can fetch again. See https://bford.info/cachedir/\n"
)
"""The Cache Directory Tagging Specification's header line: backup tools skip such a directory."""

FULL_FOR, LONGEST = 10.0, 600.0
"""Seconds for which a disk that failed is not asked again: the first time, and at most. Each time
that it fails as soon as it is asked it is twice as long."""


class DiskStore(Store):
    """Objects in a directory that this daemon alone uses. Make one with ``prepare``."""

    kind = "disk"

    def __init__(self, directory: Path, limit: int, min_free: int, lock_fd: int) -> None:
        super().__init__(limit)
        self.directory = directory
        self.min_free = min_free
        self._lock_fd = lock_fd
        self._waits = not in_memory(directory)
        self._resting: dict[str, tuple[float, int]] = {}
        self._measured = trio.Event()
        self._full_until = 0.0
        self._pause = 0.0

    @classmethod
    def prepare(cls, directory: Path, limit: int, min_free: int) -> DiskStore:
        """Make the directory ours: create, mark and lock it. Blocking, and does not look inside.

        Raises UserError when another daemon has it, it holds something else or another user can
        have put something into it, and OSError when it cannot be used at all.
        """
        if directory.is_dir() and not (directory / "VERSION").exists() and any(directory.iterdir()):
            # It is about to be made private, and things in it will be deleted.
            raise UserError(
                f"{directory} is neither empty nor a cache of nebfs; name another --cache-dir"
            )
        make_directory(directory)
        ours = open_directory(directory, "the cache directory")
        os.fchmod(ours, 0o700)
        os.close(ours)
        write_file(directory / "VERSION", "1\n")  # first: it says whose directory this is
        for made in (directory / "objects", directory / "documents"):
            made.mkdir(mode=0o700, exist_ok=True)
            made.chmod(0o700)
        try:
            fd = lock_file(directory / "lock")
        except Taken as exc:
            raise UserError(
                f"the cache directory {directory} is in use by another nebfs "
                f"(process {exc.owner}); give this mount its own with --cache-dir"
            ) from exc
        write_file(directory / "CACHEDIR.TAG", TAG)
        return cls(directory, limit, min_free, fd)

    @property
    def used(self) -> int:
        """Bytes that open objects and resting ones take."""
        return super().used + sum(size for _, size in self._resting.values())

    async def measure(self) -> None:
        """Find out what rests in the directory, and since when. Orders wait for it, mounting not.

        A stat per object, in a thread: 10,000 objects take well under a second.
        """
        try:
            found = await trio.to_thread.run_sync(self._scan, limiter=disk_threads)
            for key, facts in found.items():
                if key not in self._files:
                    self._resting.setdefault(key, facts)
        except OSError as exc:
            log.warning("cache.unreadable", directory=str(self.directory), error=str(exc))
        finally:
            self._measured.set()

    def _scan(self) -> dict[str, tuple[float, int]]:
        found: dict[str, tuple[float, int]] = {}
        for shelf in os.scandir(self.directory / "objects"):
            for entry in os.scandir(shelf.path):
                key, _, kind = entry.name.partition(".")
                stat = entry.stat(follow_symlinks=False)
                used, size = found.get(key, (0.0, 0))
                found[key] = (
                    max(used, stat.st_mtime if kind == "idx" else 0.0),
                    size + stat.st_blocks * 512,
                )
        return found

    async def reserve(self, amount: int, *, urgent: bool = True) -> None:
        """Set `amount` bytes aside. Raises CacheFault, at once while the disk refuses writes."""
        if not self._measured.is_set():
            await self._measured.wait()
        if not self.may_be_asked:
            raise CacheFault("the cache disk refused a write a moment ago")
        await super().reserve(amount, urgent=urgent)

    def holds(self, key: str) -> bool:
        """Whether something is here of an object, as far as that is known without a look."""
        return super().holds(key) or key in self._resting

    def has_spare(self, amount: int) -> bool:
        """A tenth of the limit is left: more than ``_make_room`` makes, so that what is brought
        into that room is not followed by more making of room.
        """
        amount += self.limit // 10
        return (
            self._measured.is_set()
            and self.may_be_asked
            and self.used + self.reserved + amount <= self.limit
            and self._disk_has(amount)
        )

    def room(self, keys: Container[str]) -> int:
        """Return how many bytes the objects with these keys can take together, all others leaving
        but those that are pinned: a twentieth less than the limit, as that much is made free at a
        time.
        """
        try:
            facts = os.statvfs(self.directory)
        except OSError:
            return 0
        disk = facts.f_bavail * facts.f_frsize - self.min_free + self.used
        kept = sum(self._taken(key) for key in self.pinned if key not in keys)
        return max(0, min(self.limit, disk) - kept - self.limit // 20)

    def _taken(self, key: str) -> int:
        file = self._files.get(key)
        return file.disk_bytes if file is not None else self._resting.get(key, (0.0, 0))[1]

    def refused(self, reason: str) -> None:
        """Take note that the disk failed, so that the next orders do not try it.

        What fails within that time does not make it longer: else a mount with much to open would
        never find out that the disk works again.
        """
        self.faults += 1
        if self.may_be_asked:
            self._pause = min(2 * self._pause, LONGEST) if self.trouble else FULL_FOR
            self.trouble = reason
            self._full_until = time.monotonic() + self._pause

    @property
    def may_be_asked(self) -> bool:
        """Whether the disk has not failed a moment ago."""
        return time.monotonic() >= self._full_until

    def accepted(self) -> None:
        """Take note that the disk did what it is for. One that has failed a moment ago may fail in
        another way still: it is not believed at once.
        """
        if self.may_be_asked:
            self.trouble = ""

    def paths(self, key: str) -> tuple[Path, Path]:
        """Return where the data and the index of an object are."""
        return paths(self.directory, key)

    async def _open(self, key: str, size: int, source: str) -> BlockFile:
        try:
            file = await trio.to_thread.run_sync(
                self._open_now, key, size, source, limiter=disk_threads
            )
        except OSError as exc:
            fault = CacheFault(f"the cache disk refused an object: {exc.strerror}")
            self.refused(str(fault))
            self.trouble = str(fault)  # in the disk's own words, which "no room" may have hidden
            raise fault from exc
        self._resting.pop(key, None)
        return file

    async def _size(self, key: str) -> int:
        return await trio.to_thread.run_sync(self._size_now, key, limiter=disk_threads)

    def _size_now(self, key: str) -> int:
        data, index_path = self.paths(key)
        try:
            with index_path.open("rb") as file:
                header = Header.decode(file.read(HEADER_SIZE))
            size = data.stat().st_size
        except OSError:
            return 0
        return size if header is not None and header.size == size else 0

    def _open_now(self, key: str, size: int, source: str) -> BlockFile:
        data, index_path = self.paths(key)
        data.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size != size:  # new, or not what the index speaks of
                index_path.unlink(missing_ok=True)
                os.ftruncate(fd, 0)
                os.ftruncate(fd, size)
            index, present, sums = Index.open(
                str(index_path), Header(size, SLOT_SIZE, seed_of(key), source)
            )
        except BaseException:
            os.close(fd)
            raise
        return BlockFile(
            *(key, size, seed_of(key), fd),
            present=present,
            sums=sums,
            index=index,
            waits=self._waits,
        )

    def _disk_has(self, amount: int) -> bool:
        try:
            facts = os.statvfs(self.directory)
        except OSError:
            return False
        return facts.f_bavail * facts.f_frsize - self.reserved - amount >= self.min_free

    def _candidates(self) -> Iterator[tuple[float, BlockFile | None, int, str]]:
        yield from super()._candidates()
        for key, (used, _) in self._resting.items():
            if key not in self.pinned:
                yield used, None, -1, key

    async def _discard_closed(self, key: str) -> int:
        _, size = self._resting.get(key, (0.0, 0))
        await self._remove(key)
        return size

    async def _remove(self, key: str) -> None:
        async with self._opening:
            if key in self._files:
                return
            await trio.to_thread.run_sync(self._unlink, key, limiter=disk_threads)
            self._resting.pop(key, None)

    def _unlink(self, key: str) -> None:
        data, index = self.paths(key)
        for path in (index, data):
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                if exc.errno != errno.ENOENT:
                    log.warning("cache.unremovable", path=str(path), error=str(exc))

    def _closed(self, file: BlockFile) -> None:
        self._resting[file.key] = (0.0 if file.spare else time.time(), file.disk_bytes)

    def unlock(self) -> None:
        """Let another daemon have the directory."""
        os.close(self._lock_fd)


def in_memory(directory: Path) -> bool:
    """Whether `directory` is on a filesystem that never waits for a disk, such as a tmpfs /tmp.

    Such a filesystem does not know RWF_NOWAIT, and does not need it. From /proc/self/mountinfo, see
    proc_pid_mountinfo(5): field 3 is the device, the type is the first after the separator.
    """
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split(" ")[2] == wanted:
            return after.split(" ")[0] in {"tmpfs", "ramfs"}
    return False
