"""What a fetch over HTTP is made of: the job, each range it asks for, and a glimpse ahead of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nebfs.fetcher.messages import FetchRequest
from nebfs.fetcher.pouring import Pour, Sink, Vessel, clipped
from nebfs.fetcher.slots import Buffers
from nebfs.fetcher.transports.http_answers import judge_range
from nebfs.fetcher.transports.http_ranges import Head, Unusual
from nebfs.model import Revision

if TYPE_CHECKING:
    from nebfs.fetcher.transports import Listener


@dataclass(frozen=True, slots=True)
class Job:
    """One fetch."""

    request: FetchRequest
    fd: int
    listener: Listener
    buffers: Buffers

    def vessel(self, size: int) -> Vessel:
        """Return where its bytes go, once the content's size is known."""
        listener = self.listener
        return Vessel(self.fd, self.request, size, listener.filled, listener.early, self.buffers)


class Wanted:
    """One range of a job that is asked for on a connection of our own."""

    def __init__(self, job: Job, asked: tuple[int, int], expected: Revision | None) -> None:
        self._job = job
        self._asked = asked
        self._expected = expected
        self._pour: Pour | None = None
        self.revision: Revision | None = None

    def accept(self, head: Head, shown: str) -> Sink | None:
        """Judge an answer; say where its body goes."""
        if head.status == 200:
            raise Unusual
        verdict = judge_range(head.status, head.headers, self._asked, self._expected, shown)
        self.revision = verdict.revision
        if self._expected is None:
            self._job.listener.found(verdict.revision)
        for start, stop in clipped([self._asked], verdict.stop):
            self._pour = Pour(self._job.vessel(verdict.revision.size), start, stop)
        return self._pour  # None for an empty content, whose 416 has a body of its own

    def end(self, *, keep: bool) -> None:
        """Write what has come, or leave it if not `keep`."""
        if self._pour is not None:
            self._pour.end(keep=keep)


class Glimpse:
    """A Sink for a few bytes that somebody waits for; `came` is called with the last of them."""

    def __init__(self, room: memoryview, came: Callable[[], None]) -> None:
        self._room = room
        self._came = came
        self.missing = len(room)

    def space(self) -> memoryview:
        """See Sink."""
        return self._room[-self.missing :]

    def advance(self, count: int) -> None:
        """See Sink."""
        self.missing -= count
        if not self.missing:
            self._came()
