"""Where the readers and the sources meet: answer from the cache file, order what is missing."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Container

import structlog
import trio

from nebfs.blocks import SLOT_SIZE, DiskStore
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.content.layers.kept import Kept
from nebfs.content.layers.surroundings import NEAR, surroundings
from nebfs.content.pace import LARGEST, Pace
from nebfs.content.stack import Order, Priority, ReaderFacts, Source
from nebfs.ending import pass_on
from nebfs.errors import Bug, CacheFault, NebfsError
from nebfs.model import Revision
from nebfs.units import KIB

log = structlog.get_logger()

ORDER_SLOTS = LARGEST // SLOT_SIZE
"""The most that one request asks for."""

NARROW_SLOTS = 256 * KIB // SLOT_SIZE
"""The same while the connections to a place far away are narrow: several of them together give it
in fewer round trips than one."""

TURNS = 2
"""Of the event loop, that what nobody waits for is held back: a reader whose task is started with
it orders what he waits for in the first of them, and that leaves in the second."""

EARLY = 32 * KIB - 256
"""The most that is handed over before its slot is complete: what goes into one message."""


class Cached:
    """A reader over a cache file, filled by `source` on demand.

    Orders run in `nursery`, and are cut to the `pace` of the place.
    """

    def __init__(self, kept: Kept, source: Source, nursery: trio.Nursery, pace: Pace) -> None:
        self.file = kept.file
        self.size = kept.file.size
        self.warm = kept.file.warm
        self._kept = kept
        kept.on_move = self._moved
        self._source = source
        self._nursery = nursery
        self._pace = pace
        self._orders: dict[int, Order] = {}
        self._started: dict[Priority, deque[Order]] = {p: deque() for p in Priority}
        """Orders whose tasks have not run yet."""
        self._promised: set[int] = set()
        """Slots of which something was answered early, and which are not here yet."""
        self._glimpsed: deque[int] = deque(maxlen=256)
        """The latest slots of which something was to be answered early: nobody may have read them
        since."""
        self._last_error = ""
        self.waits = 0
        """How many reads had to wait for their place."""
        self.orders = dict.fromkeys(Priority, 0)
        """How many were given."""
        self.failures = 0
        """How many of them have failed."""
        self.guided: Container[int] = ()
        """Slots of which it is known what is wanted after them, and on its way: nothing is guessed
        there."""

    @property
    def revision(self) -> Revision:
        """The revision that the source brings."""
        return self._source.revision

    @property
    def pace(self) -> Pace:
        """How fast its place is."""
        return self._pace

    async def pread(self, offset: int, length: int) -> bytes | memoryview:
        """Return the bytes, bringing what is missing. Raises what the source raises."""

        async def bring(first: int, stop: int) -> bytes | None:
            self.waits += 1
            return await self._bring(first, stop, (offset, length))

        return await self._kept.pread(offset, length, bring)

    async def _bring(self, first: int, stop: int, wanted: tuple[int, int] | None) -> bytes | None:
        """Return when the slots are here, or at least were for a moment; or return what is wanted
        of them, if that came by itself.
        """
        file = self.file
        watched: dict[int, Order] = {}
        while file is self.file:
            missing = file.missing(first, stop)
            if not missing:
                return None
            for slot in missing:
                order = watched.get(slot)
                if order is not None and order.error is not None:
                    # A copy: each reader raises its own, with its own traceback.
                    raise copy.copy(order.error) from order.error
                if order is not None and order.early is not None and order.wanted == wanted:
                    # `wanted` is not None: without it nothing comes early.
                    self._promised.add(slot)
                    return order.early
            for slot in missing:
                order = self._orders.get(slot)
                if file.claimable(slot) and (order is None or not order.urgent):
                    order = self._demand(slot, stop, wanted, early=slot == first)
                if order is not None and order.urgent:
                    watched[slot] = order
            await file.arrival(first, stop)
        return None

    @property
    def owing(self) -> bool:
        """Whether all bytes were answered or could be, though not all of them are here yet."""
        return 0 < self.file.slots - self.file.here <= len(self._promised)

    async def redeem(self) -> None:
        """When nothing is missing but what was answered early, wait until that is here, too.

        Raises what the source raises.
        """
        while self.owing:
            slot = min(self._promised)
            await self._bring(slot, slot + 1, None)
            if self.file.has(slot, slot + 1):
                self._promised.discard(slot)

    def _demand(
        self, slot: int, stop: int, wanted: tuple[int, int] | None, *, early: bool
    ) -> Order:
        """Order what a reader waits for, starting with `slot`, and what is around it.

        `early`: whether what is `wanted` may be answered before it is all here.
        """
        file = self.file
        if not self.revision.ranges:
            # This place gives everything from the start or nothing: one pass brings it all.
            return self._start(Order(file, 0, file.slots, priority=Priority.DEMAND))
        stop = min(stop, slot + self._most)
        asked = wanted[1] if wanted is not None else SLOT_SIZE
        if not early or asked > EARLY or stop > slot + 1:
            wanted = None
        begin, end = slot, stop
        around = 0 if slot in self.guided else self._pace.around >> SLOT_SHIFT
        if around:
            again = self._was_read(slot - NEAR, stop + NEAR)
            begin, end = surroundings(slot, stop, asked, around, file.slots, again=again)
        if wanted is not None:
            self._glimpsed.append(slot)
        order = self._start(Order(file, slot, stop, priority=Priority.DEMAND, wanted=wanted))
        if begin < slot or stop < end:
            self._nursery.start_soon(self._around, order, begin, end)
        return order

    @property
    def _most(self) -> int:
        """The most slots that one request asks for now, unless it is a stream's."""
        return NARROW_SLOTS if self._pace.narrow(trio.current_time()) else ORDER_SLOTS

    def _was_read(self, first: int, stop: int) -> bool:
        """Whether anybody has read of these slots, which may be beyond the ends of the object."""
        slots = range(first, stop)
        return self.file.proven(max(first, 0), stop) or any(s in slots for s in self._glimpsed)

    async def _around(self, order: Order, begin: int, end: int) -> None:
        """Order what is after a reader's own order, then what is before it. Each so much later as
        the bytes take that are wanted sooner: side by side they would keep each other from coming.
        """
        if order.wanted is None:
            await trio.sleep(self._takes(order.stop - order.first))
        self.ahead(order.stop, end)
        if begin < order.first:
            await trio.sleep(self._takes(end - order.stop))
            self.ahead(begin, order.first)

    def _takes(self, slots: int) -> float:
        return (slots << SLOT_SHIFT) / self._pace.rate

    def ahead(self, first: int, stop: int, *, stream: bool = False) -> None:
        """Order slots that nobody waits for yet. What is here or on its way is left out.

        `stream`: somebody is on the way to them.
        """
        file = self.file
        if not self.revision.ranges or (not stream and max(first - 1, 0) in self.guided):
            return
        step = self._pace.order >> SLOT_SHIFT if stream else self._most
        slot = max(first, 0)
        while slot < min(stop, file.slots):
            end = min(slot + step - slot % step, stop, file.slots)
            while slot < end and (not file.claimable(slot) or slot in self._orders):
                slot += 1
            if slot < end:
                order = Order(file, slot, end, priority=Priority.READ_AHEAD)
                order.stream = stream
                self._start(order)
            slot = end

    def has_spare(self, amount: int) -> bool:
        """Whether the cache has room for bytes that nobody has asked for."""
        return self._kept.store.has_spare(amount)

    async def fill(
        self,
        first: int,
        stop: int,
        *,
        priority: Priority = Priority.FILL,
        stream: bool = False,
    ) -> None:
        """Bring slots that nobody waits for; `stream`: they are one of a row. Raises NebfsError.

        The order is not among those that readers look at: they find its slots claimed, and wait for
        them, or order them themselves should it fail.
        """
        order = Order(self.file, first, stop, priority=priority)
        order.stream = stream
        await self._run(order)
        if order.error is not None:
            raise order.error

    def _start(self, order: Order) -> Order:
        for slot in range(order.first, order.stop):
            if order.file.claimable(slot):
                self._orders[slot] = order
        if order.urgent:
            order.claim()  # at once: what comes later must not ask for the same
        self._started[order.priority].append(order)
        self._nursery.start_soon(self._run_next, order.priority)
        return order

    async def _run_next(self, priority: Priority) -> None:
        """Carry out the order that was started first: trio runs new tasks in any order."""
        if priority is not Priority.DEMAND:
            for _ in range(TURNS):  # demands of the same moment leave first
                await trio.lowlevel.checkpoint()
        await self._run(self._started[priority].popleft())

    async def _run(self, order: Order) -> None:
        """Carry an order out. Nothing but cancellation leaves: readers see its `error`."""
        error: NebfsError | None = None
        self.orders[order.priority] += 1
        try:
            if order.file is self.file:
                await self._fill(order)
        except NebfsError as exc:
            error = exc
            self._last_error = str(exc)
            self.failures += 1
            if order.urgent:
                log.log(_LEVELS[exc.level], "read.failed", error=str(exc), kind=type(exc).__name__)
        except BaseException as exc:  # a bug in a layer must cost this read, not the mount
            error = NebfsError("nebfs is stopping")
            pass_on(exc)
            log.exception("read.bug")
            error = Bug(exc)
        finally:
            for slot in range(order.first, order.stop):
                if self._orders.get(slot) is order:
                    del self._orders[slot]
            order.finish(error)
            if error is None and self._promised:
                self._promised.difference_update(range(order.first, order.stop))

    async def _fill(self, order: Order) -> None:
        store = self._kept.store
        amount = len(order.file.missing(order.first, order.stop)) << SLOT_SHIFT
        try:
            await store.reserve(amount, urgent=order.urgent)
            try:
                await self._source.fill(order)
            finally:
                store.settle(amount)
        except CacheFault as exc:
            if not order.urgent or not isinstance(store, DiskStore):
                raise  # nobody waits for it; a demand will find out for itself
            await self._kept.leave(order.file, str(exc))
        else:
            store.accepted()

    async def _moved(self) -> None:
        """Go on with another file: nothing was ordered for that."""
        self.file, self.warm = self._kept.file, self._kept.file.warm
        self._orders.clear()
        self._promised.clear()

    def facts(self) -> ReaderFacts:
        """Say how much is here."""
        return ReaderFacts(
            size=self.size,
            cached=self.file.cached_bytes,
            verified="",
            last_error=self._last_error,
            corrupt_blocks=self.file.corrupt,
            where=self._kept.store.kind,
        )

    async def aclose(self) -> None:
        """Give the cache file back."""
        await self._kept.aclose()


_LEVELS = {"info": 20, "warning": 30, "error": 40}
