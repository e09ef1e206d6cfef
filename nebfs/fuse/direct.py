"""Answering READ requests without libfuse: they are taken from /dev/fuse before it sees them.

For each request pyfuse3 goes through trio's loop and runs a coroutine, some 35 us for a warm read
of 4 KiB of which the read itself takes 3. Here a burst of requests is answered in one turn of the
loop, and somebody who reads block after block is waited for, for some microseconds, as their next
request is nearly there. Measured with random reads of 4 KiB: twice as many.

libfuse's descriptor of /dev/fuse is put aside, and one end of a socket pair takes its number. All
other requests go over that to libfuse as they are, and its answers go back the same way: each a
message, as on the device. The protocol is that of linux/fuse.h (7.12 and later): fuse_in_header,
fuse_read_in, fuse_out_header.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

import pyfuse3
import structlog
import trio

from nebfs.fuse.guard import guarded, tell
from nebfs.fuse.shares import SHORT, Shares

log = structlog.get_logger()

_READ: Final = 15
_STATFS: Final = 17
_READDIR: Final = 28
_INTERRUPT: Final = 36
_BATCH_FORGET: Final = 42
_READDIRPLUS: Final = 44

_IN = struct.Struct("<IIQQI12x")
"""fuse_in_header: length, opcode, unique, inode, uid; and the rest of its 40 bytes."""
_READ_IN = struct.Struct("<QQI")
"""fuse_read_in, its beginning: file handle, offset, size."""
_KSTATFS = struct.Struct("<QQQQQIIII24x")
"""fuse_kstatfs: blocks, free, available, files, free files, block size, name length, fragment
size, padding; and what is spare."""
_SIZE = struct.Struct("<I")
_UNIQUE = struct.Struct("<Q")
_OUT = struct.Struct("<IiQ")
"""fuse_out_header: length, negative errno, unique. A unique of 0 is a notification."""

_BATCH = struct.Struct("<I4x")
"""fuse_batch_forget_in: how many fuse_forget_one follow, each an inode and a number of lookups."""

_ONE_FORGOTTEN = 16
_FORGOTTEN_AT = _IN.size + _BATCH.size

_SIZE_AT = _IN.size + 16
LARGEST = (1 << 20) + 4096
"""Bytes of the longest message: the kernel refuses a shorter buffer than for its largest write."""

LONGEST_LIST = 64 << 10
"""Bytes of a directory that are listed at once: an answer must fit into the socket's buffer, which
only root may enlarge. `ls` and `find` ask for 32 KiB."""

MOST_FORGOTTEN = 4000
"""Inodes that libfuse is told to forget with one message: the kernel packs up to 65,000 into one,
for which a socket's buffer is too small."""

TURN = 0.001
"""Seconds that requests are answered before other tasks may run."""

SPINS = 24
"""How often the next request is looked for before going to sleep: 20 to 30 us. A reader on another
processor needs 5 to 15 for it; being woken from sleep takes longer than that."""

SOON = 100e-6
"""Seconds of sleep up to which it would have been better to look for the next request."""


class Reads(Protocol):
    """Who has the bytes."""

    def read_warm(self, fh: int, offset: int, size: int) -> memoryview | bytes | None:
        """Answer at once or say None; the answer is good until the next call."""
        ...

    async def read_cold(self, fh: int, offset: int, size: int) -> tuple[int, bytes | memoryview]:
        """Return 0 and the bytes, or an errno; good until the next await."""
        ...

    unit: int
    """Bytes of a block, as `capacity` counts them."""

    async def capacity(self, inode: int, uid: int) -> tuple[int, int, int, int]:
        """Return blocks, free blocks, files and the longest name's bytes, where `inode` is and as
        `uid` sees it.
        """
        ...


def devices() -> set[int]:
    """Return this process's descriptors of /dev/fuse."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                found.add(int(name))
        except OSError:  # the directory's own, gone again
            continue
    return found


class DirectReads:
    """Stands between the kernel and libfuse, whose descriptor of /dev/fuse is `device`."""

    def __init__(self, device: int, reads: Reads) -> None:
        """Raises OSError when the system does not let us."""
        self._device = device
        self._reads = reads
        self._cold: set[int] = set()
        self._put_off: deque[tuple[int, int, int, int]] = deque()
        """Longer READs, which short ones may go before: unique, file handle, offset, size."""
        self._kernel = os.dup(device)
        os.set_blocking(self._kernel, False)
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._notify, self._notifications = trio.open_memory_channel[bytes](math.inf)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until the filesystem is unmounted or this is cancelled."""
        os.dup2(self._theirs.fileno(), self._device, inheritable=False)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hand_back)
                nursery.start_soon(self._pass_notifications)
                task_status.started()
                await self._take(nursery)
                nursery.cancel_scope.cancel()
        finally:
            # libfuse reads from the device itself again, and finds out by itself that it is over.
            os.dup2(self._kernel, self._device, inheritable=False)
            trio.lowlevel.notify_closing(self._kernel)
            os.close(self._kernel)
            trio.lowlevel.notify_closing(self._ours)
            self._ours.close()  # which wakes libfuse's reader; `theirs` must outlive its waiting

    # --- requests ---------------------------------------------------------------------------

    async def _take(self, nursery: trio.Nursery) -> None:
        """Take requests until the filesystem is unmounted."""
        buffer = memoryview(bytearray(LARGEST))
        into, kernel, clock = (buffer,), self._kernel, time.perf_counter
        shares, put_off = Shares(), self._put_off
        spins = 0
        while True:
            slept, used = clock(), time.thread_time()
            await trio.lowlevel.wait_readable(kernel)
            now = clock()
            shares.other(time.thread_time() - used, now)
            until = now + TURN
            if not spins and now - slept < SOON:
                spins = SPINS
            misses = taken = 0
            while True:
                try:
                    count = os.readv(kernel, into)
                except BlockingIOError:
                    misses += 1
                    if misses <= spins:
                        continue
                    if not put_off:
                        spins = spins if taken > 1 else 0
                        break
                    shares.owed = 0.0  # whoever it is owed to asks for nothing
                except OSError as exc:
                    if exc.errno == errno.ENODEV:
                        return
                    if exc.errno in {errno.EINTR, errno.ENOENT}:  # the request was taken back
                        continue
                    raise
                else:
                    taken += 1
                    _, opcode, unique, inode, uid = _IN.unpack_from(buffer)
                    if opcode == _READ:
                        fh, offset, size = _READ_IN.unpack_from(buffer, _IN.size)
                        if size <= SHORT:
                            self._read(nursery, unique, fh, offset, size)
                            began, now = now, clock()
                            shares.short(began, now)
                        else:
                            put_off.append((unique, fh, offset, size))
                    elif opcode == _STATFS:
                        nursery.start_soon(self._statfs, unique, inode, uid)
                    else:
                        await self._pass_on(opcode, buffer[:count])
                        now = clock()
                misses = 0
                if put_off and not shares.owed:
                    self._read(nursery, *put_off.popleft())
                    began, now = now, clock()
                    shares.other(now - began, now)
                if now > until and not shares.owed:
                    await trio.lowlevel.checkpoint()
                    began, now = now, clock()
                    shares.other(now - began, now)
                    until = now + TURN

    # What is asked here is asked under a guard, as pyfuse3's handlers are: a bug costs its own
    # request, and whoever asked has an answer.

    def _read(self, nursery: trio.Nursery, unique: int, fh: int, offset: int, size: int) -> None:
        try:
            view = self._reads.read_warm(fh, offset, size)
        except BaseException as exc:  # noqa: BLE001 - nothing is awaited
            tell("read_warm", exc)
            view = None
        if view is None:
            self._cold.add(unique)
            nursery.start_soon(self._read_cold, unique, fh, offset, size)
        else:
            self._answer(unique, 0, view)

    async def _statfs(self, unique: int, inode: int, uid: int) -> None:
        """Answer here, as pyfuse3 does not pass on which inode it is about."""
        try:
            self._answer(unique, 0, await self._facts_guarded(inode, uid))
        except pyfuse3.FUSEError as exc:
            self._answer(unique, exc.errno, b"")

    @guarded
    async def _facts_guarded(self, inode: int, uid: int) -> bytes:
        blocks, free, files, longest = await self._reads.capacity(inode, uid)
        unit = self._reads.unit
        return _KSTATFS.pack(blocks, free, free, files, 0, unit, longest, unit, 0)

    async def _read_cold(self, unique: int, fh: int, offset: int, size: int) -> None:
        data: memoryview | bytes = b""
        try:
            number, data = await self._read_guarded(fh, offset, size)
        except pyfuse3.FUSEError as exc:
            number = exc.errno
        self._cold.discard(unique)
        self._answer(unique, number, data)

    @guarded
    async def _read_guarded(
        self, fh: int, offset: int, size: int
    ) -> tuple[int, memoryview | bytes]:
        number, data = await self._reads.read_cold(fh, offset, size)
        return number, data

    def _answer(self, unique: int, number: int, data: memoryview | bytes) -> None:
        if number and number not in errno.errorcode:
            number, data = errno.EIO, b""  # the kernel would refuse it, and somebody would hang
        try:
            os.writev(self._kernel, (_OUT.pack(_OUT.size + len(data), -number, unique), data))
        except OSError as exc:  # whoever asked is gone: killed, or the filesystem is unmounted
            log.debug("kernel.refused", error=str(exc))
        except Exception as exc:  # noqa: BLE001 - these are no bytes, or that is no number
            tell("answer", exc)
            self._answer(unique, errno.EIO, b"")

    async def _pass_on(self, opcode: int, message: memoryview) -> None:
        """Give libfuse a request that is not for us."""
        if opcode in {_READDIR, _READDIRPLUS}:
            (size,) = _SIZE.unpack_from(message, _SIZE_AT)
            _SIZE.pack_into(message, _SIZE_AT, min(size, LONGEST_LIST))
        elif opcode == _INTERRUPT and self._is_ours(*_UNIQUE.unpack_from(message, _IN.size)):
            return  # libfuse would keep it for a request that it never gets; ours end in any case
        elif opcode == _BATCH_FORGET:
            for part in forgotten(message):
                await self._send(part)
            return
        await self._send(message)

    async def _send(self, message: memoryview | bytes) -> None:
        while True:
            try:
                self._ours.send(message)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._ours)
            else:
                return

    def _is_ours(self, unique: int) -> bool:
        return unique in self._cold or any(unique == waiting[0] for waiting in self._put_off)

    # --- answers ----------------------------------------------------------------------------

    async def _hand_back(self) -> None:
        """Give the kernel what libfuse answers."""
        while True:
            try:
                message = self._ours.recv(LARGEST)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._ours)
                continue
            if len(message) < _OUT.size:
                return
            if _OUT.unpack_from(message)[2]:
                self._write(message)
            else:
                self._notify.send_nowait(message)

    async def _pass_notifications(self) -> None:
        """In threads: the kernel takes locks for them which a request may hold that waits
        for us. One after the other, as they came.
        """
        async for message in self._notifications:
            await trio.to_thread.run_sync(self._write, message, abandon_on_cancel=True)

    def _write(self, message: bytes) -> None:
        try:
            os.write(self._kernel, message)
        except OSError as exc:  # as above; or a notification about what the kernel does not know
            log.debug("kernel.refused", error=str(exc))


def forgotten(message: memoryview) -> Iterator[memoryview | bytes]:
    """Yield a batch of inodes to forget as messages that fit into a socket's buffer."""
    if len(message) <= _FORGOTTEN_AT + MOST_FORGOTTEN * _ONE_FORGOTTEN:
        yield message
        return
    head = bytearray(message[:_FORGOTTEN_AT])
    step = MOST_FORGOTTEN * _ONE_FORGOTTEN
    for start in range(_FORGOTTEN_AT, len(message), step):
        part = message[start : start + step]
        _SIZE.pack_into(head, 0, len(head) + len(part))
        _BATCH.pack_into(head, _IN.size, len(part) // _ONE_FORGOTTEN)
        yield bytes(head) + part
