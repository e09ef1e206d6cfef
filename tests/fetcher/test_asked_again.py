"""A fetch that is asked again after the worker's death, when its file was closed meanwhile."""

from __future__ import annotations

import os

import trio

from nebfs.fetcher.client import open_fetcher
from tests.promises.model.worker import ScriptedWorker
from tests.promises.subjects.worker import REQUEST, Bytes, without_process


async def test_the_bytes_do_not_go_into_a_file_that_has_the_same_number_now(tmp_path, nursery):
    web, workers = Bytes(), list[ScriptedWorker]()
    fd = os.open(tmp_path / "object", os.O_RDWR | os.O_CREAT)
    with without_process(web, nursery, workers):
        async with open_fetcher() as fetcher, trio.open_nursery() as tasks:
            tasks.start_soon(fetcher.fetch, REQUEST, fd, lambda _: None)
            while not web.writing:
                await trio.lowlevel.checkpoint()
            # The cache disk was full: the object goes on in memory, and its file is closed.
            os.close(fd)
            other = os.open(tmp_path / "another", os.O_RDWR | os.O_CREAT)
            assert other == fd
            workers[-1].die()
    assert len(workers) == 2
    assert os.path.getsize(tmp_path / "another") == 0
    os.close(other)
    nursery.cancel_scope.cancel()
