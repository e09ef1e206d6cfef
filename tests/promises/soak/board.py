"""A page of memory that the harness and its readers share: who does what since when.

A reader that is stuck in the kernel can tell nothing: the harness sees on the board since when.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HEAD = struct.Struct("<ddd")
_SLOT = struct.Struct("<dddqqqq")
LINE = 64


class Board:
    """`slots` lines behind one of the harness. Times are CLOCK_MONOTONIC, 0 for "does nothing"."""

    def __init__(self, path: Path, slots: int, *, make: bool = False) -> None:
        if make:
            path.write_bytes(bytes(LINE * (slots + 1)))
            # Nothing is quiet yet: errors are none of the mount's fault until it is said to be.
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), LINE * (slots + 1))
        self.slots = slots
        if make:
            self.tell(pause=0.01, stop=False, quiet_since=float("inf"))

    def tell(self, *, pause: float, stop: bool, quiet_since: float) -> None:
        """Say to all readers how long to rest after a piece of work, and whether to stop, and since
        when no error is excused.
        """
        _HEAD.pack_into(self._memory, 0, pause, float(stop), quiet_since)

    @property
    def pause(self) -> float:
        """Seconds."""
        return _HEAD.unpack_from(self._memory, 0)[0]

    @property
    def stop(self) -> bool:
        """Whether readers shall end."""
        return bool(_HEAD.unpack_from(self._memory, 0)[1])

    @property
    def quiet_since(self) -> float:
        """Since when everything that nebfs needs works."""
        return _HEAD.unpack_from(self._memory, 0)[2]

    def line(self, slot: int) -> tuple[float, float, float, int, int, int, int]:
        """Return a reader's line: began, limit, longest, operations, bytes, errors, wrong."""
        return _SLOT.unpack_from(self._memory, LINE * (slot + 1))

    def write(self, slot: int, *values: float) -> None:
        """Write a reader's line."""
        _SLOT.pack_into(self._memory, LINE * (slot + 1), *values)

    def totals(self) -> dict[str, float]:
        """Return what all readers have done, and the longest that anybody waited, in seconds."""
        lines = [self.line(n) for n in range(self.slots)]
        return {
            "longest": max((line[2] for line in lines), default=0.0),
            "operations": sum(line[3] for line in lines),
            "bytes": sum(line[4] for line in lines),
            "errors": sum(line[5] for line in lines),
            "wrong": sum(line[6] for line in lines),
        }

    def stuck(self) -> list[int]:
        """Return the readers that are in an operation for longer than it may take."""
        now = time.monotonic()
        lines = [self.line(n) for n in range(self.slots)]
        return [n for n, line in enumerate(lines) if line[0] and now - line[0] > line[1]]


class Line:
    """One reader's own line."""

    def __init__(self, board: Board, slot: int) -> None:
        self._board, self._slot = board, slot
        self.longest = 0.0
        self.operations = self.bytes = self.errors = self.wrong = 0

    def _show(self, began: float, limit: float) -> None:
        self._board.write(
            self._slot, began, limit, self.longest,
            self.operations, self.bytes, self.errors, self.wrong,
        )  # fmt: skip

    @contextmanager
    def operation(self, limit: float) -> Iterator[None]:
        """Do one thing that may take `limit` seconds."""
        began = time.monotonic()
        self._show(began, limit)
        try:
            yield
        finally:
            self.longest = max(self.longest, time.monotonic() - began)
            self.operations += 1
            self._show(0.0, 0.0)
