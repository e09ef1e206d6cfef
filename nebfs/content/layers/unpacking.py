"""Unpacking the clusters of qcow2 images: what does it, and the threads that do it.

A cluster is a raw deflate stream or a zstd frame of its own; what follows it in its last sector
belongs to another one (QEMU's docs/interop/qcow2.txt). It gives one cluster of bytes, or the image
is damaged: no more than that is ever unpacked, whatever it says about itself.

The threads are those of all images together, one for each processor. A thread takes job after job
as long as there are any: to start it, and to hear of it, take as long as to unpack a cluster.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import trio
import zstandard

from nebfs.errors import Damaged
from nebfs.units import MIB

try:
    from isal import isal_zlib as deflate
except ImportError:  # a kind of processor that it is not made for: half as fast
    import zlib as deflate  # type: ignore[no-redef]

WINDOW: Final = 8 * MIB
"""The longest window that a zstd frame may ask memory for: what all decoders should have (RFC 8878,
3.1.1.1.2). A cluster has 2 MiB at most, and so has the window of what QEMU compresses."""

MOST: Final = max(2, os.cpu_count() or 1)
"""Threads that unpack at a time."""

MOST_WAITING: Final = 32
"""Jobs that may wait without anybody who waits for them: of 512 KiB each, 16 MiB."""

Unpack: TypeAlias = Callable[[memoryview, int], bytes]
UnpackBlock: TypeAlias = Callable[[int, memoryview], bytes]
"""Given a block's number in the disk, and what it is packed in, returns it. It raises Damaged."""
Outcome: TypeAlias = "list[bytes] | BaseException"

_local = threading.local()
"""What zstd works with. To make it takes half as long as a cluster; threads cannot share it."""


def unpacker(compression: str) -> Unpack:
    """Return what unpacks a cluster, given its bytes and its size. It raises Damaged."""
    return _zstd if compression == "zstd" else _deflate


def _deflate(data: memoryview, size: int) -> bytes:
    try:
        # A window of 15 bits, the longest: QEMU's has 12, other writers' may have more.
        found = deflate.decompressobj(-15).decompress(data, size)
    except deflate.error as exc:  # type: ignore[misc]  # its stubs make it an instance
        raise Damaged("a compressed cluster of the qcow2 image cannot be unpacked") from exc
    return _whole(found, size)


def _zstd(data: memoryview, size: int) -> bytes:
    try:
        context: zstandard.ZstdDecompressor | None = getattr(_local, "context", None)
        if context is None:
            context = _local.context = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        found = context.stream_reader(data).read(size)
    except (zstandard.ZstdError, MemoryError) as exc:
        raise Damaged("a compressed cluster of the qcow2 image cannot be unpacked") from exc
    return _whole(found, size)


def _whole(found: bytes, size: int) -> bytes:
    if len(found) != size:
        raise Damaged("a compressed cluster of the qcow2 image is too short", length=len(found))
    return found


class Job:
    """Blocks for one thread: `parts` are their numbers, and what they are packed in.

    `done` is told the outcome by the loop of whoever made the job, unless that was given up.
    """

    __slots__ = ("_done", "_parts", "_token", "_unpack", "given_up")

    def __init__(
        self,
        unpack: UnpackBlock,
        parts: Sequence[tuple[int, memoryview]],
        done: Callable[[Outcome], None],
    ) -> None:
        self._unpack, self._parts, self._done = unpack, parts, done
        self._token = trio.lowlevel.current_trio_token()
        self.given_up = False

    def work(self) -> None:
        """Unpack, in a thread, and tell."""
        outcome: Outcome
        try:
            outcome = found = []
            for number, part in self._parts:
                if self.given_up:
                    return
                found.append(self._unpack(number, part))
        except BaseException as exc:  # noqa: BLE001 - whoever waits must hear of it, also of a bug
            outcome = exc
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._tell, outcome)

    def _tell(self, outcome: Outcome) -> None:
        if not self.given_up:
            self._done(outcome)


class Threads:
    """The threads, and the jobs that wait for them: first those that somebody waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urgent: deque[Job] = deque()
        self._others: deque[Job] = deque()
        self._working = 0

    def start(self, job: Job, *, urgent: bool) -> bool:
        """Take a job. Return False, and do not, if it can wait and too many wait already."""
        with self._lock:
            if not urgent and len(self._others) >= MOST_WAITING:
                return False
            (self._urgent if urgent else self._others).append(job)
            if self._working == MOST:
                return True
            self._working += 1
        trio.lowlevel.start_thread_soon(self._work, _ignore, name="nebfs-unpack")
        return True

    def hurry(self, job: Job) -> None:
        """Somebody waits for it now."""
        with self._lock, suppress(ValueError):
            self._others.remove(job)
            self._urgent.append(job)

    def give_up(self, job: Job) -> None:
        """Nobody wants it any more: if it waits, it lets go of its bytes now, else soon."""
        job.given_up = True
        with self._lock:
            for jobs in (self._urgent, self._others):
                with suppress(ValueError):
                    jobs.remove(job)

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._urgent:
                    job = self._urgent.popleft()
                elif self._others:
                    job = self._others.popleft()
                else:
                    self._working -= 1
                    return
            job.work()


def _ignore(_: object) -> None:
    """What a thread returns: nothing."""


threads: Final = Threads()
