"""The daemon's side of the fetcher: two async functions, and a process that is kept alive. trio."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import structlog
import trio

from nebfs.errors import BadAnswer, FetcherDied, Unreachable
from nebfs.fetcher.messages import CallAnswer, CallRequest, Early, FetchRequest, Progress
from nebfs.fetcher.process import WorkerProcess
from nebfs.fetcher.questions import (
    MAX_DEATHS,
    CallQuestion,
    FetchQuestion,
    Question,
    WordQuestion,
    failed,
)
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.wire import Frame, Parcel
from nebfs.model import Revision

SHORT_LIFE = 5.0
"""Seconds: a worker that dies younger is restarted with a delay that doubles each time."""

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds. A start costs a good part of a second of CPU (imports), even when it fails at once."""

FAREWELL = 1.0
"""Seconds that a cancelled fetch waits for the worker's word that it no longer writes. It comes at
once; after that long the worker is stuck in a write to the disk, and waiting would not help."""

_GONE = frozenset((errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN))

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FetcherStatistics:
    """What the fetcher did since it was opened."""

    in_flight: int
    restarts: int
    fetched_bytes: int


class FetcherProcess:
    """The Fetcher of messages.py, answered by a process that is restarted whenever it dies."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Use `open_fetcher` instead: somebody has to run it."""
        self._settings = settings
        self._questions: dict[int, Question] = {}
        self._numbers = 0
        self._worker: WorkerProcess | None = None
        self._life = 0
        self._heard_in = 0
        """The last life of which the worker has said something."""
        self._fetched = 0
        self._closed = False
        self._farewells: dict[int, trio.Event] = {}

    @property
    def pid(self) -> int:
        """The worker's process id; 0 while there is none (between its death and the restart)."""
        return self._worker.pid if self._worker is not None else 0

    @property
    def restarts(self) -> int:
        """How often the worker was started again."""
        return max(0, self._life - 1)

    def statistics(self) -> FetcherStatistics:
        """Return the numbers of now."""
        return FetcherStatistics(len(self._questions), self.restarts, self._fetched)

    def outstanding(self) -> list[dict[str, object]]:
        """Return what the worker was asked and has not answered: what, and how often it died."""
        return [
            {
                "order": question.shown,
                "sent": question.asked_in == self._life,
                "deaths": question.deaths,
            }
            for question in self._questions.values()
        ]

    async def fetch(
        self, request: FetchRequest, fd: int, progress: Progress, early: Early | None = None
    ) -> Revision:
        """See messages.Fetcher.fetch. What is called is called on the trio thread.

        After a cancellation nothing is written to `fd` any more.
        """
        try:
            # It may be asked again when the worker has died: the caller's may be closed by then,
            # and its number be another file's.
            ours = os.dup(fd)
        except OSError as exc:
            raise Unreachable("the fetcher cannot be asked", reason=exc.strerror) from exc
        try:
            question = FetchQuestion(self._next_number(), request, ours, progress, early)
            return cast("Revision", await self._ask(question))
        finally:
            os.close(ours)

    async def call(self, request: CallRequest) -> CallAnswer:
        """See messages.Fetcher.call. A worker that dies is asked again: calls must only read."""
        question = CallQuestion(self._next_number(), request)
        return cast("CallAnswer", await self._ask(question))

    async def ping(self) -> None:
        """Return when the worker has answered: its loop turns. It has no end of its own."""
        await self._ask(WordQuestion(self._next_number(), "ping"))

    async def reload(self) -> None:
        """Have the worker read its file of credentials again, and use it for what is asked from now
        on; what is under way goes on with what it began with. Raises FetcherDied.
        """
        await self._ask(WordQuestion(self._next_number(), "reload"))

    def kill(self) -> None:
        """End a worker that hangs. It is started again, and what it was asked is asked again.

        One that has not said anything yet is left alone: on a busy machine a start takes its time.
        """
        if self._worker is not None and self._heard_in == self._life:
            os.kill(self._worker.pid, signal.SIGKILL)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a worker alive until cancelled. Raises OSError when the first cannot be started."""
        delay = 0.0
        try:
            while True:
                born = trio.current_time()
                try:
                    worker = WorkerProcess(self._settings)
                except OSError as exc:
                    if self._life == 0:
                        raise
                    log.error("fetcher does not start", reason=exc.strerror)
                    self._count_death()
                else:
                    self._life += 1
                    if self._life == 1:
                        task_status.started()
                    await self._live(worker)
                if trio.current_time() - born < SHORT_LIFE:
                    delay = min(max(FIRST_DELAY, 2 * delay), LAST_DELAY)
                else:
                    delay = 0.0
                await trio.sleep(delay)
        finally:
            self._closed = True
            for question in self._questions.values():
                question.fail(FetcherDied("the fetcher was closed"))

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    async def _ask(self, question: Question) -> object:
        if self._closed:
            raise FetcherDied("the fetcher was closed")
        self._questions[question.number] = question
        try:
            await self._send(question)
            await question.done.wait()
        finally:
            del self._questions[question.number]
            await self._take_leave(question)
        if question.failure is not None:
            raise question.failure
        return question.answer

    async def _live(self, worker: WorkerProcess) -> None:
        """One life of the worker, until its death."""
        self._worker = worker
        log.debug("fetcher started", pid=worker.pid, life=self._life)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_again)
                await self._listen(worker)
                nursery.cancel_scope.cancel()
        finally:
            self._worker = None
            code = await worker.end()
            for farewell in self._farewells.values():
                farewell.set()
        log.warning("fetcher died", pid=worker.pid, code=code, in_flight=len(self._questions))
        self._count_death()

    async def _ask_again(self) -> None:
        for question in list(self._questions.values()):
            if not question.done.is_set():
                await self._send(question)

    def _count_death(self) -> None:
        for question in self._questions.values():
            if question.asked_in:
                question.deaths += 1
            if question.deaths >= MAX_DEATHS:
                question.fail(FetcherDied("the fetcher died twice with this request"))

    async def _send(self, question: Question) -> None:
        """Send `question` to the worker of now, once; without one, `_ask_again` sends it later."""
        worker = self._worker
        if worker is None or question.asked_in == self._life:
            return
        question.asked_in = self._life
        try:
            parcel = question.parcel()
            try:
                await worker.send(parcel)
            finally:
                parcel.close()
        except trio.ClosedResourceError:
            return  # it died meanwhile: `_listen` knows, and the question will be asked again
        except OSError as exc:
            if self._worker is worker and exc.errno not in _GONE:
                # No descriptor, no memory or too many descriptors under way (ETOOMANYREFS).
                question.over = True
                question.fail(Unreachable("the fetcher cannot be asked", reason=exc.strerror))

    async def _take_leave(self, question: Question) -> None:
        """Make the worker drop a question that nobody waits for any more, and wait until it has."""
        worker = self._worker
        if worker is None or question.over or question.asked_in != self._life:
            return
        farewell = self._farewells[question.number] = trio.Event()
        try:
            with trio.move_on_after(FAREWELL, shield=True):
                parcel = Parcel({"do": "cancel", "id": question.number})
                await worker.send(parcel)
                await farewell.wait()
        except (OSError, trio.ClosedResourceError):
            return  # it died: it writes nothing any more
        finally:
            del self._farewells[question.number]
        if not farewell.is_set():
            log.warning("fetcher slow to cancel", pid=worker.pid)

    async def _listen(self, worker: WorkerProcess) -> None:
        """Take what the worker says until it is gone, or not to be understood."""
        try:
            while frames := await worker.receive():
                self._heard_in = self._life
                for frame in frames:
                    try:
                        self._take(frame)
                    except Exception as exc:  # a bug must cost one question, not the mount
                        log.exception("fetcher.bug")
                        self._fail(frame, exc)
                await trio.lowlevel.checkpoint()
        except BadAnswer as exc:
            log.error("fetcher not understood", pid=worker.pid, reason=str(exc))

    def _fail(self, frame: Frame, exc: Exception) -> None:
        """Answer the question that a frame is about, which could not be taken."""
        question = self._questions.get(frame.header.get("id", 0))
        if question is not None:
            question.fail(BadAnswer(f"internal error: {type(exc).__name__}"))

    def _take(self, frame: Frame) -> None:
        frame.close()  # the worker has no descriptors to give
        header = frame.header
        number: int = header["id"]
        kind: str = header["is"]
        question = self._questions.get(number)
        if kind == "filled":
            if isinstance(question, FetchQuestion):
                self._fetched += question.progressed(header)
            return
        if kind == "early":
            if isinstance(question, FetchQuestion):
                question.came_early(header, frame.payload)
            return
        if kind == "cancelled":
            farewell = self._farewells.get(number)
            if farewell is not None:
                farewell.set()
            return
        if question is None:
            return  # cancelled while its answer was under way
        question.over = True
        if kind == "failed":
            failed(question, header)
        elif isinstance(question, FetchQuestion):
            self._fetched += question.progressed(header)  # the last slots come with the answer
            question.answered(header)
        elif isinstance(question, CallQuestion):
            question.answered(header, frame.payload)
        else:
            question.settle(None)


@asynccontextmanager
async def open_fetcher(settings: FetcherSettings | None = None) -> AsyncIterator[FetcherProcess]:
    """Give a running fetcher; on leaving, end its process. Raises OSError when it cannot start.

    What the body raises comes out as it is, not wrapped in a group.
    """
    fetcher = FetcherProcess(settings or FetcherSettings())
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(fetcher.run)
            yield fetcher
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        only = group.exceptions[0]
        raise only from only.__cause__
