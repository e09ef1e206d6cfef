"""Images at a place far away: the stack from the read-ahead down to the fetcher, and around it."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from nebfs.content.layers.limited import Gate
from nebfs.content.layers.uncached import Uncached
from nebfs.content.layers.watched import Watched
from nebfs.content.stack import Priority
from nebfs.content.warming import Warming
from nebfs.errors import Unreachable
from nebfs.model import Checksum, Locator
from tests.promises.cancelling import Readers
from tests.promises.subjects import Made, Operation, subject
from tests.promises.subjects.places import Files, shop
from tests.promises.threads import turns

ADDRESS = "http://host/image"
DATA = random.Random(5).randbytes(700_000) + bytes(200_000) + random.Random(6).randbytes(123_456)
SHA = Checksum("sha256", hashlib.sha256(DATA).hexdigest())


@subject
async def far(home: Path) -> AsyncIterator[Made]:
    """With a published checksum, completed while its place is idle."""
    async with shop(home, Files({ADDRESS: DATA}), fill=1e9) as made:
        content = made.content(ADDRESS, SHA)
        yield Readers(lambda: made.open(content), DATA, made.idle, made.cold)


@subject
async def far_in_memory(home: Path) -> AsyncIterator[Made]:
    async with shop(home, Files({ADDRESS: DATA}), in_memory=True) as made:
        content = made.content(ADDRESS)
        yield Readers(lambda: made.open(content), DATA, made.idle)


@subject
async def far_and_the_disk_is_full(home: Path) -> AsyncIterator[Made]:
    """What was begun on the disk goes on in memory."""
    files = Files({ADDRESS: DATA})
    async with shop(home, files) as made:
        content = made.content(ADDRESS, SHA)

        async def cold() -> None:
            files.disk_full = True
            made.store._full_until = 0.0
            await made.cold()

        yield Readers(lambda: made.open(content), DATA, made.idle, cold)


@subject
async def far_and_it_breaks_off(home: Path) -> AsyncIterator[Made]:
    files = Files({ADDRESS: DATA})
    async with shop(home, files) as made:
        content = made.content(ADDRESS)

        async def cold() -> None:
            files.script = [Unreachable("not now"), 1, Unreachable("nor now")]
            await made.cold()

        yield Readers(lambda: made.open(content), DATA, made.idle, cold)


@subject
async def far_and_only_as_a_whole(home: Path) -> AsyncIterator[Made]:
    async with shop(home, Files({ADDRESS: DATA}, ranges=False)) as made:
        content = made.content(ADDRESS, SHA)
        yield Readers(lambda: made.open(content), DATA, made.idle, made.cold)


@subject
async def far_in_a_small_cache(home: Path) -> AsyncIterator[Made]:
    """Something leaves the cache all the time."""
    files = Files({ADDRESS: DATA, f"{ADDRESS}2": DATA[::-1]})
    async with shop(home, files, limit=len(DATA) + 200_000) as made:
        first, second = (made.content(address, SHA) for address in files.files)

        async def cold() -> None:
            await made.cold()
            reader = await made.library.open(second, files.revision(second.locator.address))
            await reader.pread(0, 4096)
            await reader.aclose()

        yield Readers(lambda: made.open(first), DATA, made.idle, cold)


@subject
async def turns_at_a_place(home: Path) -> AsyncIterator[Made]:
    """Whoever waits for a turn, and gives up just when it is his."""
    gate = Gate(1)

    async def hold(number: int) -> None:
        async with gate.turn(Priority.DEMAND):
            await turns(number)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(hold, number + 1)
            async with gate.turn(Priority.READ_AHEAD) as end:
                end()

    async def check() -> None:
        assert gate.holding == 0
        assert not any(gate._queues.values())
        await run()
        assert gate.holding == 0

    yield Operation(run, check)


@subject
async def warming(home: Path) -> AsyncIterator[Made]:
    async with shop(home, Files({ADDRESS: DATA})) as made:
        content = made.content(ADDRESS, SHA)
        revision = made.files.revision(ADDRESS)

        async def run() -> None:
            async with made.library.held(content, revision) as held:
                work = Warming(
                    *(held.cached, held.verified), turns=held.turns, patience=held.patience
                )
                await work.run()

        readers = Readers(lambda: made.open(content), DATA, made.idle)
        yield Operation(run, readers.check, made.cold)


@subject
async def a_whole_life(home: Path) -> AsyncIterator[Made]:
    """The daemon is stopped: everything that runs in the background is cancelled with it."""
    files = Files({ADDRESS: DATA})

    async def life() -> None:
        async with shop(home, files, fill=1e9) as made:
            reader = await made.open(made.content(ADDRESS, SHA))
            # In the daemon nobody reads any more when this ends; here it may end under a read.
            with contextlib.suppress(RuntimeError):
                await reader.pread(1000, 300_000)
            await trio.sleep(30)  # it is completed meanwhile
            await reader.aclose()

    async def check() -> None:
        assert files.running == 0
        async with shop(home, files) as made:
            content = made.content(ADDRESS, SHA)
            await Readers(lambda: made.open(content), DATA, made.idle).check()
            await made.cold()

    yield Operation(life, check)


@subject
async def uncached(home: Path) -> AsyncIterator[Made]:
    """What others write to meanwhile: each answer is asked for, and that it is one version is."""
    data = DATA[:100_001]  # it comes in pieces of 4 KiB
    files = Files({ADDRESS: data})

    async def opened() -> Watched:
        reader = Uncached(files, Locator("http", ADDRESS), files.revision(ADDRESS), 60.0)
        return Watched(reader, [reader])

    async def cold() -> None:
        files.script = [Unreachable("not now")]

    def idle() -> None:
        assert files.running == 0

    yield Readers(opened, data, idle, cold)
