"""What was asked of the worker and is not answered yet: enough to ask it again. No waiting here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import trio

from nebfs.errors import NebfsError
from nebfs.fetcher import records
from nebfs.fetcher.messages import CallAnswer, CallRequest, Early, FetchRequest, Progress
from nebfs.fetcher.wire import Parcel
from nebfs.model import Revision, without_credentials

MAX_DEATHS = 2
"""Worker deaths after which a question is given up: it may well be what kills the worker."""


class Question:
    """One open question; `done` is set when `answer` or `failure` is."""

    __slots__ = ("answer", "asked_in", "deaths", "done", "failure", "number", "over")

    def __init__(self, number: int) -> None:
        self.number = number
        self.done = trio.Event()
        self.answer: Any = None
        self.failure: BaseException | None = None
        self.deaths = 0
        self.asked_in = 0
        """The life of the worker (1, 2, ...) in which it was sent; 0 before."""
        self.over = False
        """Whether the worker has said its last word on it."""

    def parcel(self) -> Parcel:
        """Write it for the wire, as it has to be asked now."""
        raise NotImplementedError

    @property
    def shown(self) -> str:
        """What is asked for, as it may be logged."""
        raise NotImplementedError

    def settle(self, answer: object) -> None:
        """Answer it, once."""
        if not self.done.is_set():
            self.answer = answer
            self.done.set()

    def fail(self, failure: BaseException) -> None:
        """Answer it with a failure, once."""
        if not self.done.is_set():
            self.failure = failure
            self.done.set()


class CallQuestion(Question):
    """A CallRequest under way."""

    __slots__ = ("_request",)

    def __init__(self, number: int, request: CallRequest) -> None:
        super().__init__(number)
        self._request = request

    def parcel(self) -> Parcel:
        """Write it for the wire."""
        header = {"do": "call", "id": self.number, **records.call_to_json(self._request)}
        return Parcel(header, self._request.body)

    @property
    def shown(self) -> str:
        """Whom it asks."""
        return f"call {self._request.transport} {without_credentials(self._request.url)}"

    def answered(self, header: records.Json, payload: bytes) -> None:
        """Take the worker's answer."""
        answer: CallAnswer = records.answer_from_json(header, payload)
        self.settle(answer)


class WordQuestion(Question):
    """One word to the worker: ``ping``, or ``reload`` of its file of credentials."""

    __slots__ = ("_word",)

    def __init__(self, number: int, word: str) -> None:
        super().__init__(number)
        self._word = word

    def parcel(self) -> Parcel:
        """Write it for the wire."""
        return Parcel({"do": self._word, "id": self.number})

    @property
    def shown(self) -> str:
        """The word."""
        return self._word


class FetchQuestion(Question):
    """A FetchRequest under way, and the slots of it that are already in the file."""

    __slots__ = ("_early", "_fd", "_filled", "_found", "_progress", "_request")

    def __init__(
        self,
        number: int,
        request: FetchRequest,
        fd: int,
        progress: Progress,
        early: Early | None = None,
    ) -> None:
        super().__init__(number)
        self._early = early
        self._request = request
        self._fd = fd
        self._progress = progress
        self._filled: set[int] = set()
        self._found: Revision | None = None

    def parcel(self) -> Parcel:
        """Write it for the wire: only what is missing, and of the version that was found."""
        request = self._request
        if self._filled:
            # A probe that has filled slots must go on with that version and no other.
            request = replace(
                request,
                ranges=remaining(request.ranges, self._filled, request.slot_size),
                expected=request.expected or self._found,
            )
        header = {"do": "fetch", "id": self.number, **records.fetch_to_json(request)}
        return Parcel(header, fds=(self._fd,))

    @property
    def shown(self) -> str:
        """Which bytes of what."""
        locator, ranges = self._request.locator, self._request.ranges
        spans = ",".join(f"{start}-{stop}" for start, stop in ranges[:4])
        return f"fetch {locator.transport} {locator.shown} {spans}"

    def progressed(self, header: records.Json) -> int:
        """Take a report of filled slots; return their bytes. A failing listener fails the fetch."""
        if self.done.is_set() or not header["slots"]:
            return 0
        if "found" in header:
            self._found = records.revision_from_json(header["found"])
        slots = records.filled_from_json(header["slots"])
        self._filled.update(filled.slot for filled in slots)
        self._guarded(self._progress, slots)
        return sum(filled.length for filled in slots)

    def came_early(self, header: records.Json, payload: bytes) -> None:
        """Take bytes that somebody waits for, before their slot is complete."""
        if self._early is not None and not self.done.is_set():
            self._guarded(self._early, header["at"], payload)

    def answered(self, header: records.Json) -> None:
        """Take the worker's answer, after the slots that came with it."""
        self.settle(records.revision_from_json(header["revision"]))

    def _guarded(self, listener: Callable[..., None], *facts: object) -> None:
        try:
            listener(*facts)
        except Exception as exc:  # noqa: BLE001 - it is raised where the fetch is awaited
            self.fail(exc)


def failed(question: Question, header: records.Json) -> None:
    """Take the worker's failure."""
    failure: NebfsError = records.error_from_json(header)
    question.fail(failure)


def remaining(
    ranges: tuple[tuple[int, int], ...], filled: set[int], slot_size: int
) -> tuple[tuple[int, int], ...]:
    """Return the parts of `ranges` whose slots are not `filled`, neighbours joined."""
    parts: list[tuple[int, int]] = []
    for start, stop in ranges:
        joined = False
        for offset in range(start, stop, slot_size):
            if offset // slot_size in filled:
                joined = False
                continue
            end = min(offset + slot_size, stop)
            if joined:
                parts[-1] = (parts[-1][0], end)
            else:
                parts.append((offset, end))
            joined = True
    return tuple(parts)
