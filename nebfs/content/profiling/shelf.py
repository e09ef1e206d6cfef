"""Where profiles are kept: one document of the cache for each image."""

from __future__ import annotations

import os
from pathlib import Path

import structlog
import trio

from nebfs.blocks import DiskStore, Documents
from nebfs.content.profiling.profile import Profile, is_key
from nebfs.errors import BadAnswer, UserError

log = structlog.get_logger()

PREFIX, SUFFIX = "boot-", ".json"

MOST = 1000
"""Profiles that are kept: some 10 KiB each. Beyond it the one that was saved least lately goes."""


class Shelf:
    """Profiles by the lineage of their images. Each is read when it is needed: a profile that
    another process has put there, or taken away, holds from the next opening on.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.turn = trio.Lock()
        """Held by whoever reads a profile in order to replace it."""

    async def load(self, key: str) -> Profile | None:
        """Return the profile of `key`, or None when there is none, or it is not usable."""
        raw = await self._documents.load(_name(key))
        if raw is None:
            return None
        try:
            found = Profile.decode(raw)
        except BadAnswer as exc:
            log.warning("profile.unreadable", id=key[:12], reason=str(exc))
            return None
        return found if found.key == key else None

    async def save(self, profile: Profile) -> None:
        """Keep `profile` in place of the one that its image has."""
        await self._documents.save(_name(profile.key), profile.encode())
        names = await self._documents.names(PREFIX)
        for name in names[: max(0, len(names) - MOST)]:
            await self._documents.forget(name)

    async def forget(self, key: str) -> bool:
        """Remove a profile; return whether there was one."""
        return await self._documents.forget(_name(key))

    async def keys(self) -> list[str]:
        """Return the lineages that have a profile, the one that was saved last first."""
        found = [
            name.removeprefix(PREFIX).removesuffix(SUFFIX)
            for name in await self._documents.names(PREFIX)
        ]
        return [key for key in reversed(found) if is_key(key)]


def shelf_in(cache_dir: Path, *, create: bool = False) -> Shelf:
    """Return the profiles of a cache, for commands: its daemon may be running meanwhile.

    Without `create` the cache must be there. Raises UserError when it is none, and OSError when it
    may not be entered. Blocking.
    """
    if not os.path.lexists(cache_dir / "VERSION"):
        if not create:
            raise UserError(f"{cache_dir} is no cache of nebfs; name it with --cache-dir")
        DiskStore.prepare(cache_dir, 0, 0).unlock()
    os.listdir(cache_dir / "documents")  # what may not be read is not empty
    return Shelf(Documents(cache_dir / "documents"))


def _name(key: str) -> str:
    return f"{PREFIX}{key}{SUFFIX}"
