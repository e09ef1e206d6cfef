"""Decoding several parts of one image at the same time, with the results in their order.

The libraries of xz and bzip2 let go of the interpreter while they decode, so two threads decode
twice as fast. A part (a Unit) is a job that reads its compressed bytes from an iterator and
yields decoded pieces; it may begin before its last bytes are there. Workers take units in order.

All that is waited for is bounded, and nothing can wait for itself: the first unit (the head) may
always run until its own output is too much, and its output is what the caller takes; every other
one stops when all together have put too much in front of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from nebfs.errors import Busy, Damaged, NebfsError
from nebfs.units import MIB

WORKERS = 2
"""Threads of one decoder. Few: several images may be decoded at once, and each costs memory."""

_BACKLOG = 32 * MIB
"""Compressed bytes that may wait for a worker: a block of xz at its default and the next one."""

_AHEAD = 64 * MIB
"""Decoded bytes that may wait for their turn: two blocks of xz at its default (24 MiB)."""

_MOST_UNITS = 16
"""Units that may wait. Those of bzip2 are 0.9 MB; a hostile one has thousands in one MiB."""

Job = Callable[[Iterator[bytes]], Iterator[bytes]]


class _Closed(Exception):
    """The pool ends, or the unit is not wanted any more."""


class Unit:
    """One part. Others than Ahead look only at ``over``, and when it is set, at ``failure``."""

    __slots__ = (
        "dropped",
        "ended",
        "failure",
        "held",
        "inputs",
        "job",
        "outputs",
        "over",
        "waiting",
        "whole",
    )

    def __init__(self, job: Job) -> None:
        self.job = job
        self.inputs: deque[bytes] = deque()
        self.outputs: deque[bytes] = deque()
        self.waiting = 0  # bytes in inputs
        self.held = 0  # bytes in outputs
        self.whole = False  # no more input comes
        self.ended = False  # set by the worker: there may be output that nobody has taken
        self.over = False  # set when the caller was told: there is none
        self.dropped = False
        self.failure: NebfsError | None = None


class Ahead:
    """A few threads, and the units that they work at. All methods are for one caller."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._workers = workers
        self._changed = threading.Condition()
        self._order: deque[Unit] = deque()  # all that the caller has not seen the end of
        self._queue: deque[Unit] = deque()  # those that no worker has taken
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._waiting = self._held = 0  # sums over the units
        self._closing = False

    def start(self, job: Job) -> Unit:
        """Put a unit behind all others."""
        unit = Unit(job)
        with self._changed:
            self._order.append(unit)
            self._queue.append(unit)
            if self._idle < len(self._queue) and len(self._threads) < self._workers:
                self._add_thread()
            self._changed.notify_all()
        return unit

    def give(self, unit: Unit, data: bytes, *, last: bool = False) -> None:
        """Hand more compressed bytes to a unit. Never waits: see ``full``."""
        with self._changed:
            # None without bytes: the libraries take it ill, once they are at their end.
            if data and not unit.ended and not unit.dropped:
                unit.inputs.append(data)
                unit.waiting += len(data)
                self._waiting += len(data)
            unit.whole = unit.whole or last
            self._changed.notify_all()

    @property
    def full(self) -> bool:
        """Whether the caller should wait for output before it hands in more."""
        return self._waiting > _BACKLOG or len(self._order) > _MOST_UNITS

    def take(self, unit: Unit, *, wait: bool) -> bytes | None:
        """Return the next piece of the head, which `unit` is; None when there is none.

        None means that the unit is ``over``, with or without a ``failure``, and no longer the head;
        or, without `wait`, that it is not and has none ready.
        """
        with self._changed:
            while wait and not (unit.outputs or unit.ended or self._closing):
                self._changed.wait()
            if self._closing:
                raise Busy("the decoder was closed")
            if unit.outputs:
                piece = unit.outputs.popleft()
                unit.held -= len(piece)
                self._held -= len(piece)
                self._changed.notify_all()
                return piece
            if unit.ended:
                unit.over = True
                self._forget(unit)
            return None

    def drop(self, unit: Unit) -> None:
        """Let go of a unit that nobody wants the output of."""
        with self._changed:
            unit.dropped = True
            self._forget(unit)

    def close(self) -> None:
        """End the threads: each within the time that one piece takes."""
        with self._changed:
            self._closing = True
            self._queue.clear()
            self._order.clear()
            self._changed.notify_all()
        while self._threads:
            self._threads.pop().join()

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="nebfs-decode", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:  # a limit on processes
            if not self._threads:
                raise Busy("no thread can be started to decode with", error=str(exc)) from exc
        else:
            self._threads.append(thread)

    def _forget(self, unit: Unit) -> None:
        for line in (self._order, self._queue):
            if unit in line:
                line.remove(unit)
        self._waiting -= unit.waiting
        self._held -= unit.held
        unit.waiting = unit.held = 0
        unit.inputs.clear()
        unit.outputs.clear()
        self._changed.notify_all()

    # --- in the workers ---

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._queue and not self._closing:
                    self._changed.wait()
                self._idle -= 1
                if self._closing:
                    return
                unit = self._queue.popleft()
            failure: NebfsError | None = None
            try:
                for piece in unit.job(self._inputs(unit)):
                    self._put(unit, piece)
            except _Closed:
                pass
            except NebfsError as exc:
                failure = exc
            except Exception as exc:  # noqa: BLE001 - it is raised where the output is taken
                failure = Damaged("a part of the image cannot be decoded", error=repr(exc))
                failure.__cause__ = exc
            with self._changed:
                unit.failure, unit.ended = failure, True
                self._waiting -= unit.waiting
                unit.waiting = 0
                unit.inputs.clear()
                self._changed.notify_all()

    def _inputs(self, unit: Unit) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not (unit.inputs or unit.whole or unit.dropped or self._closing):
                    self._changed.wait()
                if unit.dropped or self._closing:
                    raise _Closed
                if not unit.inputs:
                    return
                data = unit.inputs.popleft()
                unit.waiting -= len(data)
                self._waiting -= len(data)
                self._changed.notify_all()
            yield data

    def _put(self, unit: Unit, piece: bytes) -> None:
        with self._changed:
            while not (unit.dropped or self._closing or self._may_put(unit)):
                self._changed.wait()
            if unit.dropped or self._closing:
                raise _Closed
            unit.outputs.append(piece)
            unit.held += len(piece)
            self._held += len(piece)
            self._changed.notify_all()

    def _may_put(self, unit: Unit) -> bool:
        if self._order and unit is self._order[0]:
            return unit.held < _AHEAD
        return self._held < _AHEAD
