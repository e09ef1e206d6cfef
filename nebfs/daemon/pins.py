"""What somebody wants kept: objects of the cache that are not evicted, across restarts, too.

A pin is of one version of one file: another version at the same path is another object, and is not
pinned by it. The document is ``documents/pins.json`` in the cache directory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from nebfs.blocks import DiskStore, Documents, Store
from nebfs.blocks.documents import decode
from nebfs.errors import UserError
from nebfs.units import format_size

log = structlog.get_logger()

DOCUMENT = "pins.json"
MOST = 10_000

SHARE = 0.9
"""Of the cache's limit: the rest is what everything else is read through."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One object: its key, where in the mount it was when it was pinned, and its length."""

    key: str
    path: str
    source: str
    size: int


class Pins:
    """Keeps the pins of one cache, and tells them to its `store`."""

    def __init__(self, store: Store, documents: Documents) -> None:
        self._store = store
        self._documents = documents
        self._pins: dict[str, Pin] = {}

    async def load(self) -> None:
        """Take up the pins of an earlier life. Nothing is raised: without them it goes on."""
        data = await self._documents.load(DOCUMENT)
        if data is not None:
            self._pins = {pin.key: pin for pin in _read(data)}
            self._tell()

    @property
    def all(self) -> tuple[Pin, ...]:
        """All pins, by path."""
        return tuple(sorted(self._pins.values(), key=lambda pin: (pin.path, pin.key)))

    async def add(self, pins: Iterable[Pin]) -> None:
        """Pin objects. Raises UserError when they cannot all be kept."""
        if not isinstance(self._store, DiskStore):
            raise UserError("this mount has no cache on a disk: nothing can be kept in it")
        wanted = self._pins | {pin.key: pin for pin in pins}
        size, most = sum(pin.size for pin in wanted.values()), int(self._store.limit * SHARE)
        if size > most:
            raise UserError(
                f"pinned images would take {format_size(size)}; {format_size(most)} is the most "
                f"(90 % of the cache): unpin some, or mount with a larger cache_size"
            )
        if len(wanted) > MOST:
            raise UserError(f"there are at most {MOST} pins")
        self._pins = wanted
        await self._save()

    async def remove(self, keys: Iterable[str]) -> list[Pin]:
        """Take pins back; return those that there were."""
        gone = [self._pins.pop(key) for key in set(keys) if key in self._pins]
        if gone:
            await self._save()
        return gone

    def _tell(self) -> None:
        self._store.pinned = frozenset(self._pins)

    async def _save(self) -> None:
        self._tell()
        document = json.dumps([asdict(pin) for pin in self.all]).encode()
        await self._documents.save(DOCUMENT, document)


def pinned_in(directory: Path) -> frozenset[str]:
    """Return the keys that are pinned in a cache directory. Blocking."""
    try:
        data = decode((directory / "documents" / DOCUMENT).read_bytes())
    except OSError:
        return frozenset()
    return frozenset() if data is None else frozenset(pin.key for pin in _read(data))


def _read(data: bytes) -> list[Pin]:
    try:
        pins = [Pin(**one) for one in json.loads(data)]
        wrong = [p for p in pins if not all(map(_is_text, (p.key, p.path, p.source)))]
        if wrong or not all(isinstance(pin.size, int) for pin in pins):
            raise TypeError
    except (ValueError, TypeError, RecursionError) as exc:  # of another version of nebfs
        log.warning("pins.not_understood", error=type(exc).__name__)
        return []
    return pins


def _is_text(value: object) -> bool:
    return isinstance(value, str)
