"""``rsync``: backups of VMs in a directory of another machine, plain files.

``BASE_PATH/<VM's id>/<run's id>/`` on RSYNC_HOST has what one run of a backup has left there, see
increments.py; RSYNC_USER logs in, ``oneadmin`` if it is missing. It is read through SFTP, or in
place where ``[datastores.paths]`` says that BASE_PATH is on this machine.
Source: OpenNebula's datastore driver of this name, 7.4.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from functools import partial

import trio

from nebfs.datastores.bridges import Elsewhere, written
from nebfs.datastores.entries import Crowded, inside
from nebfs.datastores.increments import Kept, Run, parts_of, runs_of
from nebfs.datastores.places import SFTP, PathMap, is_inside, plain
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import BadAnswer, Refused, Unsupported
from nebfs.fetcher.messages import Call
from nebfs.model import Datastore, Holding, Image, Locator, Part, Trouble

_RUN = re.compile(r"[0-9A-Za-z]{1,64}")
"""A run's id: OpenNebula takes six hex digits."""

_THREADS = 4
_USER = "oneadmin"

_FAR_BATCH = 64
"""Directories that are looked into with one question."""


class RsyncDatastore:
    """Knows where backups are by their records; looks at one when it is opened."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],
        call: Call | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """See DriverFactory; `settings` are those of ``fs``."""
        self._map = PathMap(paths)
        self._prefixes = [plain(one) for one, to in paths.items() if not to.startswith(SFTP)]
        self._call = call
        self._settings = dict(settings or {})
        self._limiters: dict[int, trio.CapacityLimiter] = {}

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Nobody is asked."""
        found = []
        for image in listed(datastore, images):
            trouble = trouble_of(image, datastore) or _trouble(datastore, image)
            if trouble is not None:
                found.append(Holding(image, trouble=trouble))
            else:
                found.append(Holding(image, deferred=True))
        return tuple(found)

    async def disks(self, datastore: Datastore, image: Image) -> tuple[Part, ...]:
        """See DeferringDatastore. Raises Refused or BadAnswer when there is nothing of a backup."""
        trouble = _trouble(datastore, image)
        if trouble is not None:
            raise BadAnswer(trouble.reason)
        runs = runs_of(image)
        base = plain(datastore.base_path)
        kept: list[Kept] = []
        where = "this machine"
        if self._is_here(base):
            kept = await self._look_here(datastore, image, runs)
            if any(not one.failed for one in kept):
                return parts_of(image, kept, partial(Locator, "file"))
        place = self._host(datastore)
        if place is not None and self._call is not None:
            where = place.shown
            kept = await self._look_there(self._call, place, base, image, runs)
            if any(not one.failed for one in kept):
                return parts_of(image, kept, partial(place.locator, turn=0))
        if not kept:
            raise Unsupported("the datastore has no usable RSYNC_HOST, and is not mapped here")
        if any(one.failed == errno.EACCES for one in kept):
            raise Refused("the backup's directory may not be entered", host=where)
        raise BadAnswer("there is no directory of the backup", host=where)

    def _is_here(self, base: str) -> bool:
        return any(base == prefix or is_inside(base, prefix) for prefix in self._prefixes)

    async def _look_here(
        self, datastore: Datastore, image: Image, runs: Sequence[Run]
    ) -> list[Kept]:
        limiter = self._limiters.setdefault(datastore.id, trio.CapacityLimiter(_THREADS))
        base = self._map.local(plain(datastore.base_path))
        look = partial(_look, base, image.vm_ids[0], runs)
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)

    async def _look_there(
        self, call: Call, place: Elsewhere, base: str, image: Image, runs: Sequence[Run]
    ) -> list[Kept]:
        kept: list[Kept] = []
        for start in range(0, len(runs), _FAR_BATCH):
            batch = runs[start : start + _FAR_BATCH]
            wanted = [posixpath.join(base, str(image.vm_ids[0]), run.source) for run in batch]
            found = await place.inside(call, base, wanted)
            for run, one in zip(batch, found, strict=True):
                kept.append(Kept(run, failed=one) if isinstance(one, int) else Kept(run, one))
        return kept

    def _host(self, datastore: Datastore) -> Elsewhere | None:
        template = datastore.template
        host = template.get("RSYNC_HOST").strip()
        user = template.get("RSYNC_USER").strip() or self._settings.get("user", "") or _USER
        named = written(host if "@" in host else f"{user}@{host}")
        if not named:
            return None
        told = self._settings
        options = tuple((n, told[n]) for n in ("identity", "known-hosts") if told.get(n))
        return Elsewhere((named,), options)


def _trouble(datastore: Datastore, image: Image) -> Trouble | None:
    """Say why the backup cannot be found, by the text of the records alone."""
    if plain(datastore.base_path) in {"", "/"}:
        return Trouble(errno.EIO, "the datastore has no usable BASE_PATH")
    if not image.vm_ids or image.vm_ids[0] < 0:
        return Trouble(
            errno.EIO, "OpenNebula's record of the backup does not say which VM it is of"
        )
    if not all(_RUN.fullmatch(run.source) for run in runs_of(image)):
        return Trouble(errno.EIO, "OpenNebula's record of the backup names no run of it")
    return None


def _look(base: str, vm: int, runs: Sequence[Run]) -> list[Kept]:
    """Look at the directories of `runs` on this machine. Blocks."""
    try:
        parent = posixpath.join(os.path.realpath(base, strict=True), str(vm))
    except OSError as exc:
        return [Kept(run, failed=exc.errno or errno.EIO) for run in runs]
    kept = []
    for run in runs:
        directory = posixpath.join(parent, run.source)
        try:
            # A link in the place of the VM's directory could lead anywhere.
            if os.path.realpath(parent) != parent:
                raise NotADirectoryError(errno.ENOTDIR, "a link", parent)
            kept.append(Kept(run, inside(directory)))
        except Crowded:
            kept.append(Kept(run, failed=errno.EOVERFLOW))
        except OSError as exc:
            kept.append(Kept(run, failed=exc.errno or errno.EIO))
    return kept
