"""One image that librbd has open: its version, and what tells whether it is still the same. Blocks.

Of an image the object of its name (rbd_id.NAME) leads to its id, and the header (rbd_header.ID)
says the rest; in format 1 the header is NAME.rbd. The first write of a client locks the header,
and its times there are renewed at most once in rbd_mtime_update_interval, a minute by default. What
is removed loses its name before its data.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nebfs.fetcher.transports.rbd_binding import Binding
from nebfs.fetcher.transports.rbd_clusters import Cluster
from nebfs.fetcher.transports.rbd_places import Place
from nebfs.model import Revision

_NAME = "rbd_id."
_HEADER = "rbd_header."
_NAME_SIZE = 4096  # much more than an id has

Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an image says about itself. `created` is in seconds since the epoch, 0: not known."""

    size: int
    id: str
    snapshot: int | None
    modified: int
    created: int

    @property
    def revision(self) -> Revision:
        """The version. `modified` is in nanoseconds, as it is for files."""
        etag = self.id if self.snapshot is None else f"{self.id}@{self.snapshot}"
        return Revision(self.size, etag, str(self.modified * 10**9) if self.modified else "")


def facts_of(image: Any, snapshot: str) -> Facts:
    """Ask an open image. Raises the binding's errors; blocks."""
    old = image.old_format()
    modified = created = number = None
    if snapshot:
        number = image.snap_get_id(snapshot)
        modified = image.get_snap_timestamp(number)
    elif not old:
        modified = image.modify_timestamp()
    if not old:
        created = image.create_timestamp()
    return Facts(
        size=image.size(),
        id=image.block_name_prefix() if old else image.id(),
        snapshot=number,
        modified=_seconds(modified),
        created=_seconds(created),
    )


def _seconds(moment: datetime | None) -> int:
    if moment is None:
        return 0
    # Some versions of the binding say nothing about the zone: it is UTC.
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())


@dataclass(frozen=True, slots=True)
class Handle:
    """An image that librbd has open, and what tells whether it is still the same.

    Its methods may be called from any thread, except that nothing is asked of what is closed.
    """

    cluster: Cluster
    place: Place
    image: Any
    facts: Facts
    pool: Any
    """Its own, because librados keeps the version of the last answer with it."""
    header: str
    header_version: int
    # Neither may be closed under a thread that somebody gave up waiting for.
    _image_used: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _pool_used: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, cluster: Cluster, place: Place) -> Handle:
        """Open it. Raises NebfsError; blocks."""
        cluster.hold()
        try:
            return cls._opened(cluster, place)
        except BaseException:
            cluster.release()
            raise

    @classmethod
    def _opened(cls, cluster: Cluster, place: Place) -> Handle:
        binding = cluster.binding
        pool = cluster.pool(place, own=True)
        try:
            # Before it is opened, so that no change falls between the two.
            header = _header_of(binding, pool, place.image)
            version = _version_of(pool, header)
            image = cluster.open(place)
            try:
                facts = facts_of(image, place.snapshot)
                return cls(cluster, place, image, facts, pool, header, version)
            except BaseException:
                image.close()
                raise
        except BaseException as exc:
            pool.close()
            if isinstance(exc, (binding.rbd.Error, binding.rados.Error)):
                raise cluster.failure(exc, place) from exc
            raise

    def extents(self, start: int, stop: int) -> Ranges:
        """Return where in [start, stop) there may be data, ascending. Raises NebfsError.

        Everything else is zeros. Of a clone, the parent's data count.
        """
        found: list[tuple[int, int]] = []

        def note(offset: int, length: int, exists: bool) -> None:
            if exists:
                found.append((max(offset, start), min(offset + length, stop)))

        with self._image_used:
            try:
                # Not whole_object: that believes the object map, which may be behind.
                self.image.diff_iterate(start, stop - start, None, note)
            except self.cluster.binding.rbd.Error as exc:
                raise self.cluster.failure(exc, self.place) from exc
        return _joined(found)

    def is_untouched(self) -> bool:
        """Whether the name still leads to it, and nothing was changed about it.

        Raises NebfsError.
        """
        rados = self.cluster.binding.rados
        with self._pool_used:
            try:
                leads_here = self._asked_name(self.place.image)
                version = _version_of(self.pool, self.header)
                return leads_here() and version == self.header_version
            except rados.ObjectNotFound:
                return False
            except rados.Error as exc:
                raise self.cluster.failure(exc, self.place) from exc

    def _asked_name(self, name: str) -> Callable[[], bool]:
        """Begin to ask whether the image's name leads to this header; return what waits for it."""
        if not self.header.startswith(_HEADER):
            return lambda: True
        answer: list[bytes] = []

        def note(_completion: Any, data: bytes | None) -> None:
            answer.append(data or b"")  # b"": the name is gone, or that was not to be learned

        asked = self.pool.aio_read(f"{_NAME}{name}", _NAME_SIZE, 0, note)

        def leads_here() -> bool:
            asked.wait_for_complete_and_cb()
            return _header(answer[0]) == self.header

        return leads_here

    def close(self) -> None:
        """Close it, when what is asked of it is answered; what cannot be closed is left."""
        with self._image_used, contextlib.suppress(Exception):
            self.image.close()
        with self._pool_used, contextlib.suppress(Exception):
            self.pool.close()
        self.cluster.release()


def _joined(extents: Ranges) -> list[tuple[int, int]]:
    """Return them ascending, and none that touches another."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(extents):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        elif start < stop:
            joined.append((start, stop))
    return joined


def _header_of(binding: Binding, pool: Any, name: str) -> str:
    """Return the name of the image's header object."""
    try:
        return _header(pool.read(f"{_NAME}{name}", _NAME_SIZE))
    except binding.rados.ObjectNotFound:
        return f"{name}.rbd"


def _header(led_to: bytes) -> str:
    """Return the same, by what is in the object of the image's name: an id behind its length."""
    return _HEADER + led_to[4:].decode("ascii", "replace")


def _version_of(pool: Any, name: str) -> int:
    """Return an object's version, which counts its changes."""
    pool.stat(name)
    version: int = pool.get_last_version()
    return version
