"""The client of the fetcher, with its real wire, and a worker that dies."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from nebfs.fetcher import client
from nebfs.fetcher.client import FetcherProcess, open_fetcher
from nebfs.fetcher.messages import CallAnswer, CallRequest, FetchRequest
from nebfs.model import Filled, Locator, Revision
from tests.promises.model.worker import ScriptedWorker, Told
from tests.promises.subjects import Made, Operation, subject

SLOT = 4096
DATA = random.Random(4).randbytes(6 * SLOT + 100)
REVISION = Revision(len(DATA), '"1"')
REQUEST = FetchRequest(Locator("http", "http://h/x"), ((0, len(DATA)),), REVISION, SLOT, 7)


class Bytes:
    """Brings them slowly. `late` is what was written after a fetch was said to be over."""

    def __init__(self) -> None:
        self.writing = 0

    async def fetch(self, request: FetchRequest, fd: int, told: Told) -> Revision:
        self.writing += 1
        try:
            await told.found(REVISION)
            for start, stop in request.ranges:
                for at in range(start, stop, SLOT):
                    await trio.lowlevel.checkpoint()
                    part = DATA[at : min(at + SLOT, stop)]
                    os.pwrite(fd, part, at)
                    await told.filled([Filled(at // SLOT, len(part), 0, False)])
            return REVISION
        finally:
            self.writing -= 1

    async def call(self, request: CallRequest) -> CallAnswer:
        await trio.lowlevel.checkpoint()
        return CallAnswer(200, (), request.body * 20_000)


@contextmanager
def without_process(web: Bytes, nursery: trio.Nursery, workers: list[ScriptedWorker]):
    def made(_: object) -> ScriptedWorker:
        workers.append(ScriptedWorker(web, nursery))
        return workers[-1]

    real, client.WorkerProcess = client.WorkerProcess, made  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        client.WorkerProcess = real  # type: ignore[misc]


async def _ask_everything(fetcher: FetcherProcess, home: Path) -> None:
    fd = os.open(home / "target", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 0)
    filled: list[Filled] = []

    def arrived(slots: Sequence[Filled]) -> None:
        filled.extend(slots)

    try:
        assert await fetcher.fetch(REQUEST, fd, arrived) == REVISION
        assert {one.slot for one in filled} == set(range(7))
        assert os.pread(fd, len(DATA), 0) == DATA
        answer = await fetcher.call(CallRequest("POST", "http://h/y", body=b"question"))
        assert answer.body == b"question" * 20_000
        await fetcher.ping()
        await fetcher.reload()
    finally:
        os.close(fd)


@asynccontextmanager
async def _client(home: Path, *, dies: bool) -> AsyncIterator[Made]:
    web, workers = Bytes(), list[ScriptedWorker]()
    async with trio.open_nursery() as nursery:
        with without_process(web, nursery, workers):
            async with open_fetcher() as fetcher:

                async def run() -> None:
                    async with trio.open_nursery() as tasks:
                        if dies:
                            tasks.start_soon(_die_after, 20, workers)
                        await _ask_everything(fetcher, home)

                async def check() -> None:
                    # At once: after a cancellation nothing is written any more.
                    assert web.writing == 0, "a fetch goes on that was cancelled"
                    assert fetcher.statistics().in_flight == 0
                    assert fetcher._farewells == {}
                    await _ask_everything(fetcher, home)
                    assert workers[-1].under_way == 0

                yield Operation(run, check)
        nursery.cancel_scope.cancel()


async def _die_after(turns: int, workers: list[ScriptedWorker]) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    workers[-1].die()


@subject
async def fetcher(home: Path) -> AsyncIterator[Made]:
    async with _client(home, dies=False) as made:
        yield made


@subject
async def fetcher_that_dies(home: Path) -> AsyncIterator[Made]:
    async with _client(home, dies=True) as made:
        yield made


@subject
async def life_of_the_fetcher(home: Path) -> AsyncIterator[Made]:
    """Starting it, and ending it with questions under way: descriptors are closed."""
    before = len(os.listdir("/proc/self/fd"))

    async def life() -> None:
        async with trio.open_nursery() as nursery:
            with without_process(Bytes(), nursery, []):
                async with open_fetcher() as made:
                    await _ask_everything(made, home)
            nursery.cancel_scope.cancel()

    async def check() -> None:
        assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left open"

    yield Operation(life, check)
