"""Keeping slots of what was unpacked: gathered from reads, and written when the answer has left.

It is all to be had again. So it takes only room that is to spare, leaves before anything else does,
and what cannot be kept, or not at once, is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog
import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, Store
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.blocks.index import HEADER_SIZE, SLOT_RECORD
from nebfs.ending import pass_on
from nebfs.errors import CacheFault
from nebfs.model import Filled
from nebfs.units import MIB

log = structlog.get_logger()

WAITING: Final = 16 * MIB
"""Bytes that may wait to be written, of all disks together: what comes meanwhile is not kept."""

BATCH: Final = 64
"""Slots that are written in one go: 8 MiB take a disk that is well ten milliseconds. The loop has
answers to give meanwhile, and is needed between one go and the next: with 1 MiB at a time a third
of what a stream had was not kept, as too much waited."""

PAUSE: Final = 30.0
"""Seconds for which nothing is kept after the cache has refused something."""

EDGES: Final = 4
"""How many slots of which reads had a part wait for the rest of it: the kernel's read-ahead begins
and ends where it will, and several requests of it are under way at once."""

keep_threads: Final = trio.CapacityLimiter(1)
"""Threads that keep something, which nobody waits for: of all disks together."""


class _Room:
    """Bytes that may wait to be written."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, amount: int) -> bool:
        """Take so many, if there are as many left."""
        if amount > self.left:
            return False
        self.left -= amount
        return True

    def give(self, amount: int) -> None:
        """Give them back."""
        self.left += amount


room: Final = _Room(WAITING)


class Keeping:
    """The object with what is kept of one disk, open while `running`; it writes in `nursery`."""

    def __init__(
        self,
        store: Store,
        nursery: trio.Nursery,
        key: str,
        size: int,
        shown: str,
        packed_in: Callable[[int, int], list[tuple[int, int]]],
        on_end: Callable[[], None],
    ) -> None:
        """`key` names the object in `store`, `shown` describes it there. `packed_in` tells which of
        some bytes of the disk, which has `size`, come out of compressed clusters. `on_end` is
        called when nothing is kept any more.
        """
        self.file: BlockFile | None = None
        """What is kept already, once it is open."""
        self.running = False
        self.opened = trio.Event()
        """Set once it was tried to open it."""
        self._store = store
        self._nursery = nursery
        self._key = key
        self._size = size
        self._shown = shown
        self._packed_in = packed_in
        self._on_end = on_end
        self._queue: dict[int, bytes] = {}
        """What is to be written, by slots."""
        self._edges: dict[int, tuple[int, bytes]] = {}
        """What reads had of slots that were not whole in them, and where in the disk it begins."""
        self._wake = trio.Event()
        self._paused = 0.0
        self._scope = trio.CancelScope()
        self._started = False
        self._ended = trio.Event()

    @property
    def exists(self) -> bool:
        """Whether something was kept before."""
        return self._store.holds(self._key)

    @property
    def waiting(self) -> int:
        """How many slots wait to be written."""
        return len(self._queue)

    # --- gathering --------------------------------------------------------------------------------

    def take(self, offset: int, view: memoryview) -> None:
        """Have kept what was unpacked of what was read, as far as it is new, by whole slots."""
        if not self.running or trio.current_time() < self._paused:
            return
        end = offset + len(view)
        first, stop = offset >> SLOT_SHIFT, -(-end >> SLOT_SHIFT)
        wanted = [slot for slot in range(first, stop) if self._wants(slot)]
        if not wanted:
            return
        start = wanted[0] << SLOT_SHIFT
        unpacked = self._unpacked_in(start, min((wanted[-1] + 1) << SLOT_SHIFT, self._size))
        for slot in wanted:
            length = min(SLOT_SIZE, self._size - (slot << SLOT_SHIFT))
            if 2 * unpacked.get(slot, 0) < length:
                continue
            at = slot << SLOT_SHIFT
            part = view[max(at - offset, 0) : at + length - offset]
            data = self._whole(slot, max(at, offset), part, length)
            if data is None:
                continue
            if not room.take(length):
                return  # the disk is behind: whoever reads it again has it kept
            self._queue[slot] = data
            self._wake.set()

    def _wants(self, slot: int) -> bool:
        return slot not in self._queue and (self.file is None or self.file.claimable(slot))

    def _whole(self, slot: int, offset: int, part: memoryview, length: int) -> bytes | None:
        """Return the bytes of a slot if they are all there, with what was put aside; else put aside
        what there is.
        """
        if len(part) == length:
            return bytes(part)
        start, data = self._edges.pop(slot, (offset, b""))
        if start + len(data) == offset:
            data = b"".join((data, part))
        elif offset + len(part) == start:
            start, data = offset, b"".join((part, data))
        else:
            start, data = offset, bytes(part)
        if len(data) == length:
            return data
        self._edges[slot] = start, data
        if len(self._edges) > EDGES:
            del self._edges[next(iter(self._edges))]
        return None

    def _unpacked_in(self, start: int, end: int) -> dict[int, int]:
        """Return how many bytes of each slot of these come out of compressed clusters."""
        found: dict[int, int] = {}
        for offset, length in self._packed_in(start, end - start):
            at, last = offset, offset + length
            while at < last:
                slot = at >> SLOT_SHIFT
                until = min((slot + 1) << SLOT_SHIFT, last)
                found[slot] = found.get(slot, 0) + until - at
                at = until
        return found

    # --- writing ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Have the object opened, and what is taken written, until this is closed."""
        try:
            self._nursery.start_soon(self._run)
        except RuntimeError:  # nebfs has ended but for this read, which is answered from below
            return
        self._started = self.running = True

    def stop(self) -> None:
        """Keep nothing more, and answer nothing."""
        self._scope.cancel()

    async def _run(self) -> None:
        file: BlockFile | None = None
        try:
            with self._scope:
                file = self.file = await self._open()
                self.opened.set()
                if file is not None:
                    await self._write_on(file)
        except BaseException as exc:  # a bug costs what would be kept, not the mount
            pass_on(exc)
            log.exception("unpacked.bug")
        finally:
            self.running, self.file = False, None
            self._on_end()
            room.give(sum(map(len, self._queue.values())))
            self._queue.clear()
            self._edges.clear()
            if file is not None:
                with trio.CancelScope(shield=True):
                    await self._store.release(file)
            self.opened.set()
            self._ended.set()

    async def _open(self) -> BlockFile | None:
        slots = -(-self._size // SLOT_SIZE)
        index = HEADER_SIZE + slots * SLOT_RECORD
        if not self.exists and not self._store.has_spare(index + SLOT_SIZE):
            return None
        try:
            file = await self._store.open(self._key, self._size, self._shown)
        except CacheFault as exc:
            log.debug("unpacked.not_kept", reason=str(exc))
            return None
        file.spare = True
        return file

    async def _write_on(self, file: BlockFile) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._queue:
                batch = [(slot, self._queue[slot]) for slot in list(self._queue)[:BATCH]]
                try:
                    await self._write(file, [one for one in batch if file.claimable(one[0])])
                except (CacheFault, OSError) as exc:
                    log.debug("unpacked.not_kept", reason=str(exc))
                    self._paused = trio.current_time() + PAUSE
                for slot, data in batch:
                    del self._queue[slot]
                    room.give(len(data))

    async def _write(self, file: BlockFile, batch: Sequence[tuple[int, bytes]]) -> None:
        """Put slots into the cache, if there is room to spare. Raises CacheFault, OSError."""
        amount = sum(len(data) for _, data in batch)
        if not batch:
            return
        if not self._store.has_spare(amount):
            raise CacheFault("nothing is to spare in the cache")
        await self._store.reserve(amount, urgent=False)
        for slot, _ in batch:
            file.claimed[slot] = 1
        try:
            filled = await trio.to_thread.run_sync(_record, file, batch, limiter=keep_threads)
            file.put(filled, used=False)
        finally:
            for slot, _ in batch:
                file.claimed[slot] = 0
            self._store.settle(amount)

    async def aclose(self) -> None:
        """Let go of the object. What waits to be written is not."""
        self._scope.cancel()
        if self._started:
            await self._ended.wait()


def _record(file: BlockFile, batch: Iterable[tuple[int, bytes]]) -> list[Filled]:
    return [file.record(slot, memoryview(data)) for slot, data in batch]
