"""Decoding single blocks of a compressed file, where its format has some: multi-block xz, zstd with
a seek table.

Each block is fetched and decoded for all who wait for it, once, and its slots are put into the
decoded object. A block has at most 64 MiB, packed and unpacked, or there are none: see decoders.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio
from cachetools import LRUCache

from nebfs.blocks import SLOT_SIZE, BlockFile, Store
from nebfs.blocks.blockfile import SLOT_SHIFT
from nebfs.content.decoders import Block, decode_block
from nebfs.content.layers.decoded_pass import Writer, decode_threads
from nebfs.content.layers.kept import Kept
from nebfs.content.stack import Reader, read
from nebfs.errors import Damaged
from nebfs.model import Filled
from nebfs.units import MIB

_FETCHED: int = 4 * MIB
"""Bytes of a block that are asked for at once."""

_TAILS: int = 64
"""Of how many blocks the last bytes are kept, up to a slot each, which begin a slot that goes on in
the next block: a sequential reader needs each block once."""


class Blocks:
    """Brings slots of an object that is `kept` out of `blocks` of the compressed `source`."""

    def __init__(
        self,
        compression: str,
        blocks: Sequence[Block],
        source: Callable[[], Awaitable[Reader]],
        kept: Kept,
        on_taint: Callable[[], Awaitable[None]],
    ) -> None:
        """`source` opens the compressed file: once, when it is needed. `on_taint` is called when
        that turns out not to be what was published.
        """
        self.decoded = 0
        """How many blocks were decoded."""
        self._on_taint = on_taint
        self._compression = compression
        self._blocks = blocks
        self._starts = [block.start for block in blocks]
        self._open = source
        self._reader: Reader | None = None
        self._opening = trio.Lock()
        self._tails: LRUCache[int, bytes] = LRUCache(_TAILS)
        self._kept = kept

    async def bring(self, first: int, stop: int) -> None:
        """Decode what slots `first` to `stop` are made of, as far as they are missing.

        Raises Damaged, CacheFault, and what reading the compressed file raises.
        """
        async with self._kept.held() as (file, store):
            slot = first
            while slot < stop:
                if not file.claimable(slot):
                    slot += 1
                    continue
                end = slot + 1
                while end < stop and file.claimable(end):
                    end += 1
                await self._bring(file, store, slot, end)
                slot = end

    async def _bring(self, file: BlockFile, store: Store, first: int, stop: int) -> None:
        """Decode the blocks of these slots, and put all slots that are whole in them."""
        low = self.at(first << SLOT_SHIFT)
        high = self.at(min(stop << SLOT_SHIFT, file.size) - 1)
        if low < high and low in self._tails and self._tail_start(low) <= first << SLOT_SHIFT:
            low += 1
        await self._decode(file, store, low, high)

    async def _decode(self, file: BlockFile, store: Store, low: int, high: int) -> None:
        blocks = self._blocks[low : high + 1]
        made = bytearray(self._tails.get(low - 1, b""))
        start, end = blocks[0].start - len(made), _end(blocks[-1])
        first = -(-start >> SLOT_SHIFT)
        stop = file.slots if end == file.size else end >> SLOT_SHIFT
        claimed = [slot for slot in range(first, stop) if file.claimable(slot)]
        if not claimed:
            return
        for slot in claimed:
            file.claimed[slot] = 1
        filled: list[Filled] = []
        amount = len(claimed) << SLOT_SHIFT
        try:
            reader = await self._source()
            packed = [await self._fetch(reader, block) for block in blocks]
            # Not before: what is fetched wants room of the same cache, and would wait for this.
            await store.reserve(amount)
            try:
                self.decoded += len(blocks)
                # Together: of a few bytes each, a thread for each would be what takes the time.
                unpack = partial(self._unpack, file, packed, blocks, made, start, claimed)
                filled = await trio.to_thread.run_sync(unpack, limiter=decode_threads)
            finally:
                store.settle(amount)
        finally:
            for slot in claimed:
                file.claimed[slot] = 0
            if filled:
                file.put(filled)
                store.accepted()
            file.tell()
        tail = end % SLOT_SIZE
        if tail <= len(made):
            self._tails[high] = bytes(made[len(made) - tail :])

    def _tail_start(self, block: int) -> int:
        return _end(self._blocks[block]) - len(self._tails[block])

    def at(self, offset: int) -> int:
        """Return the number of the block in which `offset` is."""
        return bisect_right(self._starts, offset) - 1

    def first_of(self, slot: int) -> int:
        """Return the first slot of the block in which `slot` ends."""
        end = min((slot + 1) << SLOT_SHIFT, self._kept.file.size)
        return self._blocks[self.at(end - 1)].start >> SLOT_SHIFT

    def after(self, slot: int) -> tuple[int, int]:
        """Return the slots, first and one past the last, of the block that follows that of `slot`;
        none at the end.
        """
        number = self.at(min((slot + 1) << SLOT_SHIFT, self._kept.file.size) - 1) + 1
        if number >= len(self._blocks):
            return 0, 0
        block = self._blocks[number]
        last = number + 1 == len(self._blocks)
        stop = self._kept.file.slots if last else _end(block) >> SLOT_SHIFT
        return block.start >> SLOT_SHIFT, stop

    async def _fetch(self, reader: Reader, block: Block) -> memoryview:
        packed = bytearray()
        try:
            while len(packed) < block.length:
                length = min(_FETCHED, block.length - len(packed))
                packed += await read(reader, block.host + len(packed), length)
        except Damaged:
            await self._on_taint()
            raise
        return memoryview(packed)

    def _unpack(
        self,
        file: BlockFile,
        packed: Sequence[memoryview],
        blocks: Sequence[Block],
        made: bytearray,
        start: int,
        slots: Sequence[int],
    ) -> list[Filled]:
        """Decode `blocks` behind what is `made` already, which begins at `start`; write `slots`."""
        for data, block in zip(packed, blocks, strict=True):
            made += decode_block(self._compression, data, block)
        found, writer = [], Writer(file)
        with memoryview(made) as view:
            for slot in slots:
                at = (slot << SLOT_SHIFT) - start
                found.append(writer.write(slot, view[at : at + file.length(slot)]))
        return found

    async def _source(self) -> Reader:
        async with self._opening:
            if self._reader is None:
                self._reader = await self._open()
            return self._reader

    async def aclose(self) -> None:
        """Close the compressed file."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()


def _end(block: Block) -> int:
    return block.start + block.size
