"""What all who use the mount have: a plan, a line on the board, an oracle, and where to tell what
is wrong: a JSON object a line in the file with their number in the directory of findings.

What errors are excused is here; how the mount is used is in ``uses``.
"""

from __future__ import annotations

import errno
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.promises.soak.board import Board, Line
from tests.promises.soak.oracle import Handle, Oracle

EXCUSED = {errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN}
"""What a read may say while a place is away, or when there is another version."""

OPENS = 4
"""Deadlines that an open may take: it looks up, opens, and both again for another version."""

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Image:
    """One image in the mount."""

    number: int
    paths: dict[str, str]
    """By face: ``published`` and ``raw``."""


class Reader:
    """What all uses have: which images, a line on the board, where to tell what is wrong."""

    def __init__(self, plan: dict, slot: int) -> None:
        self.plan, self.slot = plan, slot
        self.mount = Path(plan["mount"])
        self.board = Board(Path(plan["board"]), plan["slots"])
        self.line = Line(self.board, slot)
        self.random = random.Random(f"{plan['seed']}/{slot}")
        self.images = [Image(n, paths) for n, paths in enumerate(plan["images"])]
        self.deadline, self.grace = plan["deadline"], plan["grace"]
        self.failures: Counter[str] = Counter()
        self._findings = (Path(plan["findings"]) / str(slot)).open("a", buffering=1)
        self._oracles: dict[tuple[int, str], Oracle] = {}

    def oracle(self, image: Image, face: str) -> Oracle:
        """Return what an image is compared with."""
        key = image.number, face
        if key not in self._oracles:
            self._oracles[key] = Oracle(Path(self.plan["versions"]) / str(image.number), face)
        return self._oracles[key]

    def found(self, kind: str, what: str) -> None:
        """Tell what should not be."""
        said = {"kind": kind, "what": what, "when": time.time(), "reader": self.slot}
        self._findings.write(json.dumps(said) + "\n")

    def rest(self, share: float = 1.0) -> None:
        """Leave the machine to others for a while."""
        time.sleep(self.board.pause * share * self.random.uniform(0.2, 1.8))

    @contextmanager
    def within(self, deadlines: float, what: str) -> Iterator[None]:
        """Do something that may take so many deadlines of the mount, and the machine's own time."""
        limit = deadlines * self.deadline + self.grace
        began = time.monotonic()
        try:
            with self.line.operation(limit):
                yield
        finally:
            took = time.monotonic() - began
            if took > limit:
                self.found("late", f"{what} took {took:.1f} s")

    def failed(self, error: OSError, began: float, what: str, also: tuple[int, ...] = ()) -> None:
        """Judge an error: is it one that may be, and is something switched off just now?"""
        number = error.errno or 0
        name = errno.errorcode.get(number, str(number))
        self.line.errors += 1
        self.failures[name] += 1
        if number not in EXCUSED and number not in also:
            self.found("strange", f"{what}: {name}")
        elif began >= self.board.quiet_since and number != errno.ESTALE:
            self.found("failed", f"{what}: {name} though everything works")

    @contextmanager
    def opened(self, image: Image, face: str) -> Iterator[Handle | None]:
        """Open an image. None: it failed, as it may."""
        path, began = image.paths[face], time.monotonic()
        # A raw face is only listed while its exact length is known.
        also = (errno.ENOENT,) if face == "raw" else ()
        fd = -1
        try:
            try:
                with self.within(OPENS, f"open of {path}"):
                    fd = os.open(path, os.O_RDONLY)
                handle = Handle(self.oracle(image, face), fd)
            except OSError as error:
                self.failed(error, began, f"open of {path}", also)
                yield None
            else:
                if not handle.known:
                    self.line.wrong += 1
                    self.found("wrong", f"{path} has {handle.size} bytes as no version has")
                yield handle
        finally:
            if fd >= 0:
                os.close(fd)

    def read(self, handle: Handle, offset: int, length: int, path: str) -> bool:
        """Read it all and compare it; False when there is an error, which is then judged."""
        end = min(offset + length, handle.size)
        while offset < end:
            began = time.monotonic()
            # The kernel asks for all of it, and when that fails for each page by itself.
            requests = 1 + (end - 1) // PAGE - offset // PAGE + 1
            try:
                with self.within(requests, f"read of {end - offset} bytes of {path}"):
                    got = os.pread(handle.fd, end - offset, offset)
            except OSError as error:
                self.failed(error, began, f"read of {path} at {offset}")
                return False
            if not self.compare(handle, offset, got, path):
                return False
            offset += len(got)
        return True

    def compare(self, handle: Handle, offset: int, got: bytes, path: str) -> bool:
        """Say whether bytes are those of the version that is open, and tell it when not."""
        self.line.bytes += len(got)
        if got and handle.right(offset, got):
            return True
        self.line.wrong += 1
        zero = " of zeros" if got and not any(got) else ""
        self.found("wrong", f"{len(got)} bytes{zero} at {offset} of {path}, {handle.seen}")
        return False
