"""What runs in the background of one open object, and ends with it."""

from __future__ import annotations

import structlog
import trio

from nebfs.ending import pass_on

log = structlog.get_logger()


class Tasks:
    """The background tasks of one object: its orders and its hashing end when it is closed."""

    def __init__(self) -> None:
        self._ended = trio.Event()
        self.broken = False
        """Whether a bug has ended them all: nothing more can be ordered."""

    async def run(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Offer a nursery until ``end``."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started(self._nursery)
                await trio.sleep_forever()
        except BaseException as exc:  # it costs those who have it open; the next have a new one
            pass_on(exc)
            log.exception("object.bug")
        finally:
            self.broken = True
            self._ended.set()

    async def end(self) -> None:
        """Cancel what runs, and wait until it has let go."""
        self._nursery.cancel_scope.cancel()
        await self._ended.wait()
