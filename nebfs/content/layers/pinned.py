"""One version for ever: after the first sign of another one, nothing is brought any more."""

from __future__ import annotations

from collections.abc import Callable

from nebfs.content.stack import Order, Source
from nebfs.errors import Changed
from nebfs.model import Revision


class Pinned:
    """Keeps the revision of an open image: a change is ESTALE for good, also if it is undone.

    `on_change` is called once, so that a fresh open asks what is there now.
    """

    def __init__(self, below: Source, on_change: Callable[[], None]) -> None:
        self._below = below
        self._on_change = on_change
        self._changed: Changed | None = None

    @property
    def broken(self) -> bool:
        """Whether its place has had another version."""
        return self._changed is not None

    @property
    def revision(self) -> Revision:
        """The revision that is kept."""
        return self._below.revision

    async def fill(self, order: Order) -> None:
        """Pass the order on, unless the version is known to be gone."""
        if self._changed is not None:
            raise Changed(self._changed.message) from self._changed
        try:
            await self._below.fill(order)
        except Changed as exc:
            if self._changed is None:
                self._changed = exc
                self._on_change()
            raise
