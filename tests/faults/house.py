"""The real stack over the real fetcher process, in a loop of its own that many tests share.

What is between a read and the wire is all nebfs's own; the kernel is left out, and with it what a
mount costs. Starting the fetcher takes longer than most of what is asked of it: one serves them
all.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import trio

from nebfs.blocks import DiskStore, Documents, MemoryStore
from nebfs.content import Library, LibrarySettings, Prober, views
from nebfs.content.prober import Probed
from nebfs.content.stack import Reader, read
from nebfs.errors import Unreachable
from nebfs.fetcher.client import FetcherProcess, open_fetcher
from nebfs.fetcher.settings import FetcherSettings
from nebfs.model import Content
from nebfs.units import MIB


class House:
    """A fetcher, a cache below `home`, and a library over both. Times are seconds.

    It gives up after `patience` of trying; `brief` is a second library that does so after half a
    second: for what does not get better.
    """

    def __init__(
        self, home: Path, *, stall: float = 1.0, patience: float = 30.0, brief: float = 0.5
    ) -> None:
        self._home = home
        self._settings = FetcherSettings(
            connect_timeout=stall, stall_timeout=stall, trust_env=False
        )
        self._patience = patience, brief
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._live,), daemon=True)
        self.store: DiskStore
        self.fetcher: FetcherProcess
        self.prober: Prober
        self.library: Library
        self.brief: Library

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30), "the fetcher does not start"
        return self

    def __exit__(self, *_: object) -> None:
        trio.from_thread.run_sync(self._end.set, trio_token=self._token)
        self._thread.join(30)

    def run(self, work: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run something in the loop; return what it returns."""
        return trio.from_thread.run(work, *args, trio_token=self._token)

    async def _live(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        store = self.store = DiskStore.prepare(self._home / "cache", 512 * MIB, 0)
        await store.measure()
        async with open_fetcher(self._settings) as self.fetcher, trio.open_nursery() as nursery:
            self.prober = Prober(self.fetcher, Documents(None))
            libraries = [
                Library(
                    *(self.fetcher, store, MemoryStore(16 * MIB), nursery),
                    LibrarySettings(patience=patience),
                    on_changed=self.prober.forget,
                    on_damaged=lambda _: None,
                    known=self.prober.known,
                    on_seen=self.prober.learn,
                )
                for patience in self._patience
            ]
            self.library, self.brief = libraries
            self._ready.set()
            await self._end.wait()
            nursery.cancel_scope.cancel()
        store.unlock()

    async def ask(self, content: Content) -> Probed:
        """Ask the place of a file what it has. Nobody tries that again but us: on a machine that
        has much to do an answer may come later than what counts as a stall here.
        """
        for _ in range(3):
            try:
                return await self.prober.ask(content)
            except Unreachable as exc:
                failure = exc
                self.prober.forget(content)
        raise failure

    async def open(self, content: Content, library: Library | None = None) -> Reader:
        """Open the version that is there, as whoever lists it and opens it does."""
        library = library or self.library
        if not content.view:
            return await library.open(content, (await self.ask(content)).revision)
        for file in views.files(content):
            if (await self.ask(file)).is_unseen:
                await library.look(file)
            if (await self.ask(file)).format.compression:
                await library.measure(content)
        return await library.open(content, self.prober.view(content).revision)


async def whole(reader: Reader) -> bytes:
    """Read everything, in pieces as the kernel's."""
    step = 128 << 10
    pieces = [
        bytes(await read(reader, at, min(step, reader.size - at)))
        for at in range(0, reader.size, step)
    ]
    return b"".join(pieces)
