"""A slot that leaves while it is read, and is here again before anybody has heard of the read."""

from __future__ import annotations

import os
import random
import threading

import trio

from nebfs.blocks import SLOT_SIZE, MemoryStore, blockfile

DATA = random.Random(2).randbytes(SLOT_SIZE)


async def test_a_read_that_has_met_the_hole_is_not_answered_with_zeros(monkeypatch):
    store = MemoryStore()
    file = await store.open("1a" * 32, SLOT_SIZE)
    file.put([file.record(0, memoryview(DATA))])
    assert file.warm(0, 10) is not None  # it was proven once
    began, goes_on = threading.Event(), threading.Event()
    pread = os.pread

    def slow(fd, length, offset):
        began.set()
        assert goes_on.wait(10)
        return found.pop() if found else pread(fd, length, offset)

    found = []
    monkeypatch.setattr(blockfile.os, "pread", slow)
    answers = []

    async def read():
        answers.append(await file.read(0, SLOT_SIZE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.to_thread.run_sync(began.wait)
        await file.drop(0, 1)
        found.append(pread(file.fd, SLOT_SIZE, 0))  # what the thread reads at this moment
        assert not any(found[0])
        file.put([file.record(0, memoryview(DATA))])
        assert bytes(file.warm(0, SLOT_SIZE)) == DATA
        goes_on.set()
    assert answers in ([None], [DATA])
    assert await file.read(0, SLOT_SIZE) == DATA
    await store.release(file)
