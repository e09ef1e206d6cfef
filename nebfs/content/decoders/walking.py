"""Reading a container format front to back, when its bytes come in pieces of any length.

A Walk is a generator that asks for the next bytes by their number and is sent exactly these. So
the code of a format reads like its specification, and knows nothing of how the bytes arrive.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

Result = TypeVar("Result")

Walk = Generator[int, bytes, Result]


class Walker:
    """Drives one Walk that never ends by itself."""

    def __init__(self, walk: Walk[None]) -> None:
        self._walk = walk
        self._kept = bytearray()
        self._need = next(walk)

    @property
    def kept(self) -> int:
        """How many bytes wait for more to come."""
        return len(self._kept)

    def feed(self, data: bytes | memoryview) -> Iterator[None]:
        """Walk on with `data`; yields after each step, so that what it made can be handed on."""
        # Not by way of `kept`, as far as that can be: what is large is copied once.
        kept, view, at = self._kept, memoryview(data), 0
        if kept:
            at = min(self._need - len(kept), len(view))
            kept += view[:at]
            if len(kept) < self._need:
                return
            part = bytes(kept)
            kept.clear()
            self._need = self._walk.send(part)
            yield
        try:
            while len(view) - at >= self._need:
                part = bytes(view[at : at + self._need])
                at += self._need
                self._need = self._walk.send(part)
                yield
        finally:
            kept += view[at:]


def walk_through(walk: Walk[Result], data: bytes | memoryview) -> tuple[Result, int] | None:
    """Walk over `data`, which is all there is: the result and the bytes used; None if too few."""
    at, need = 0, next(walk)
    while at + need <= len(data):
        part = bytes(data[at : at + need])
        at += need
        try:
            need = walk.send(part)
        except StopIteration as ended:
            return ended.value, at
    return None
