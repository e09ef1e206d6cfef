"""How much of an object of the cache is here, whether somebody has it open or not."""

from __future__ import annotations

import trio

from nebfs.blocks import SLOT_SIZE, BlockFile, DiskStore
from nebfs.blocks.holes import runs
from nebfs.blocks.index import Verdict
from nebfs.blocks.resting import Resting, look
from nebfs.content.decodings import Decompressed
from nebfs.daemon.finding import File
from nebfs.daemon.wiring import House

VERDICTS = {Verdict.UNKNOWN: "no", Verdict.VERIFIED: "yes", Verdict.MISMATCH: "mismatch"}


async def resting_of(house: House, key: str) -> Resting | None:
    """Return what rests on the disk of an object that nobody has open; None: nothing."""
    if not isinstance(house.store, DiskStore):
        return None
    return await trio.to_thread.run_sync(look, house.store.directory, key)


async def cached_of(house: House, file: File) -> int:
    """Return how many bytes of a file are in the cache."""
    facts = house.library.facts(file.content, file.revision)
    return await bytes_of(house, file.key) if facts is None else facts.cached


async def bytes_of(house: House, key: str) -> int:
    """Return how many bytes of an object are in the cache."""
    found = await _found(house, key)
    return 0 if found is None else _bytes(found)


async def verdict_of(house: House, file: File) -> str:
    """Return whether a file is what was published: ``yes``, ``no`` (not known yet), ``mismatch``,
    or nothing where nothing was published about it.
    """
    if not file.content.checksums or file.is_here:
        return ""
    facts = house.library.facts(file.content, file.revision)
    if facts is not None:
        return facts.verified
    resting = await resting_of(house, file.key)
    return "no" if resting is None else VERDICTS[resting.verdict]


async def ranges_of(house: House, key: str) -> list[tuple[int, int]]:
    """Return which bytes of an object are in the cache: (start, stop), in order."""
    found = await _found(house, key)
    if found is None:
        return []
    states = found.present() if isinstance(found, BlockFile) else found.states
    here = runs([slot for slot, state in enumerate(states) if state == 1])
    return [(first * SLOT_SIZE, min(stop * SLOT_SIZE, found.size)) for first, stop in here]


async def size_of(house: House, one: Decompressed) -> int | None:
    """Return how long a decompressed object is; None while nobody knows."""
    if one.size is not None:
        return one.size
    resting = await resting_of(house, one.key)
    # Before a pass was through, its file has the length of a guess.
    return resting.size if resting is not None and resting.verdict is Verdict.VERIFIED else None


async def _found(house: House, key: str) -> BlockFile | Resting | None:
    opened = house.store.file_of(key)
    return opened if opened is not None else await resting_of(house, key)


def _bytes(found: BlockFile | Resting) -> int:
    return found.cached_bytes if isinstance(found, BlockFile) else found.cached
