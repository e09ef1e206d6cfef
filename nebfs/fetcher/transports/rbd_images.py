"""Open images: their bytes, and whether they are still what was opened. asyncio.

An image that is open for reading only is not guarded by the cluster: it may be renamed, written to
or removed meanwhile, and what was removed reads as zeros. So after bytes were read, and before
anybody is given them, ``confirm`` looks whether the image's name still leads to it and its header
is untouched (rbd_handles.py). librbd changes these before it changes data.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from nebfs.errors import Changed, NebfsError, Refused, Unreachable
from nebfs.fetcher.transports.rbd_clusters import Cluster, Clusters
from nebfs.fetcher.transports.rbd_handles import Handle, Ranges
from nebfs.fetcher.transports.rbd_places import Door, Place
from nebfs.fetcher.transports.rbd_threads import Threads, tell
from nebfs.model import Revision

KEPT = 64
"""Images that stay open while nobody reads them: opening one takes some five round trips."""


class OpenImage:
    """An image, or a snapshot of one."""

    def __init__(self, cluster: Cluster, place: Place, handle: Handle, threads: Threads) -> None:
        self.revision = handle.facts.revision
        self.users = 0
        self.outdated = False
        """Whether it is not to be used again."""
        self.cluster = cluster
        self._place = place
        self._handle = handle
        self._threads = threads
        self._running: asyncio.Task[None] | None = None
        self._queued: asyncio.Task[None] | None = None

    @property
    def _patience(self) -> float:
        # librados has the same limit, and knows better what is wrong.
        return self.cluster.stall_timeout + 1

    async def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of [start, stop), which are good once they are confirmed."""
        image = self._handle.image
        data: bytes = await self._asked(lambda done: image.aio_read(start, stop - start, done))
        if len(data) != stop - start:
            raise Unreachable("the cluster gave less than was asked", image=self._place.shown)
        return data

    async def extents(self, start: int, stop: int) -> Ranges:
        """Return where in [start, stop) there may be data, ascending; to be confirmed, too."""
        handle = self._handle
        return await self._threads.run(lambda: handle.extents(start, stop), within=self._patience)

    async def confirm(self) -> None:
        """Make sure that what was read until now is of `revision`. Raises Changed, NebfsError.

        Whoever asks while a look is under way shares the next one.
        """
        if self._queued is None:
            self._queued = asyncio.create_task(self._after(self._running))
            # Everybody who waits for it may be gone.
            self._queued.add_done_callback(lambda t: t.cancelled() or t.exception())
        await asyncio.shield(self._queued)

    async def _after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait([running])
        self._running, self._queued = self._queued, None
        try:
            if not await self._untouched():
                await self._look_again()
        except NebfsError:
            self.outdated = True
            raise

    async def _untouched(self) -> bool:
        return await self._threads.run(self._handle.is_untouched, within=2 * self._patience)

    async def _look_again(self) -> None:
        """The header was changed: by a new snapshot or clone, or because the image was written."""
        handle = await self._threads.run(
            lambda: Handle.open(self.cluster, self._place),
            within=self._patience,
            discard=Handle.close,
        )
        difference = self.revision.differs_from(handle.facts.revision)
        # What is not used any more is closed when the reads that it still has are over.
        unused, self._handle = (handle, self._handle) if difference else (self._handle, handle)
        await self._threads.run(unused.close, within=self._patience)
        if difference:
            raise Changed("the image has been changed", what=difference, image=self._place.shown)

    async def _asked(self, ask: Callable[[Any], object]) -> Any:
        """Return what one of the binding's aio functions gives to its callback."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(number: int, value: Any) -> None:
            if not future.done():
                if number >= 0:
                    future.set_result(value)
                else:
                    exc = OSError(-number, "")
                    future.set_exception(self.cluster.failure(exc, self._place))

        def done(completion: Any, value: Any) -> None:  # in a thread of librbd
            tell(loop, settle, completion.get_return_value(), value)

        errors = (self.cluster.binding.rbd.Error, self.cluster.binding.rados.Error)
        try:
            async with asyncio.timeout(self._patience):
                ask(done)
                return await future
        except TimeoutError as exc:
            raise Unreachable(
                "the cluster fell silent", after=self._patience, image=self._place.shown
            ) from exc
        except errors as exc:
            raise self.cluster.failure(exc, self._place) from exc

    async def aclose(self) -> None:
        """Close it; nobody may use it."""
        looks = [task for task in (self._running, self._queued) if task is not None]
        if looks:
            await asyncio.wait(looks)
        await self._threads.run(self._handle.close, within=self._patience)


class Images:
    """The open images of one transport, shared by those who read them."""

    def __init__(self, clusters: Clusters, threads: Threads) -> None:
        self._clusters = clusters
        self._threads = threads
        self._open: OrderedDict[tuple[Door, Place], OpenImage] = OrderedDict()
        self._opening: dict[tuple[Door, Place], asyncio.Task[OpenImage]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def use(
        self, door: Door, place: Place, expected: Revision | None
    ) -> AsyncIterator[OpenImage]:
        """Give an image, as it is now if it is not as `expected`. Raises NebfsError."""
        image = await self._get(door, place, expected)
        image.users += 1
        try:
            yield image
        except (Refused, Unreachable):
            # Whatever is wrong may be wrong with what is open.
            image.outdated = True
            self._clusters.retire(image.cluster)
            raise
        finally:
            image.users -= 1
            self._tidy((door, place), image)

    async def _get(self, door: Door, place: Place, expected: Revision | None) -> OpenImage:
        key = (door, place)
        fresh = False
        while True:
            image = self._open.get(key)
            if image is not None:
                if not fresh and (expected is None or expected.differs_from(image.revision)):
                    image.outdated = True
                self._tidy(key, image)
            if image is None or image.outdated:
                image, fresh = await self._opened(key), True
            if not image.outdated:
                self._open.move_to_end(key)
                return image

    async def _opened(self, key: tuple[Door, Place]) -> OpenImage:
        """Open an image; all who want it share the outcome, so that none waits for two."""
        task = self._opening.get(key)
        if task is None:
            task = self._opening[key] = asyncio.create_task(self._open_anew(*key))

            def over(task: asyncio.Task[OpenImage]) -> None:
                del self._opening[key]
                if not task.cancelled():
                    task.exception()  # everybody who waits for it may be gone

            task.add_done_callback(over)
        return await asyncio.shield(task)

    async def _open_anew(self, door: Door, place: Place) -> OpenImage:
        async with self._clusters.use(door) as cluster:
            handle = await self._threads.run(
                lambda: Handle.open(cluster, place),
                within=cluster.stall_timeout + 1,
                discard=Handle.close,
            )
        image = self._open[door, place] = OpenImage(cluster, place, handle, self._threads)
        return image

    def _tidy(self, key: tuple[Door, Place], image: OpenImage) -> None:
        """Close what is outdated, and the longest unused ones beyond KEPT."""
        if image.outdated:
            if self._open.get(key) is image:
                del self._open[key]
            if image.users == 0:
                self._close(image)
        idle = [k for k, one in self._open.items() if one.users == 0]
        for unused in idle[: max(0, len(self._open) - KEPT)]:
            self._close(self._open.pop(unused))

    def _close(self, image: OpenImage) -> None:
        image.outdated = True

        async def close() -> None:
            with contextlib.suppress(NebfsError):
                await image.aclose()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close every image."""
        if self._opening:
            await asyncio.wait(self._opening.values())
        while self._open:
            self._close(self._open.popitem()[1])
        if self._closing:
            await asyncio.wait(self._closing)
