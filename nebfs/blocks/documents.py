"""A few small named documents beside the blocks: the saved catalogue, what probes have learned."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import structlog
import trio
from xxhash import xxh3_64_intdigest

from nebfs.blocks.blockfile import disk_threads

log = structlog.get_logger()


def decode(raw: bytes) -> bytes | None:
    """Return the document in a file's bytes, or None when it is damaged."""
    if len(raw) < 8 or xxh3_64_intdigest(raw[:-8]) != struct.unpack("<Q", raw[-8:])[0]:
        return None
    return raw[:-8]


class Documents:
    """Named bytes in the cache directory, written whole or not at all, and checked when read.

    A document that cannot be written is logged and forgotten: nothing here may fail a mount.
    Without a directory it keeps nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    async def load(self, name: str) -> bytes | None:
        """Return the document, or None when there is none, or it is damaged."""
        if self._directory is None:
            return None
        path = self._directory / name
        try:
            raw = await trio.to_thread.run_sync(path.read_bytes, limiter=disk_threads)
        except FileNotFoundError:
            return None
        except OSError as exc:
            log.warning("document.unreadable", name=name, error=str(exc))
            return None
        data = decode(raw)
        if data is None:
            log.warning("document.damaged", name=name)
        return data

    async def save(self, name: str, data: bytes) -> None:
        """Replace the document. Readers see the old one or the new one."""
        if self._directory is None:
            return
        try:
            await trio.to_thread.run_sync(self._write, name, data, limiter=disk_threads)
        except OSError as exc:
            log.warning("document.unwritable", name=name, error=str(exc))

    async def names(self, prefix: str) -> list[str]:
        """Return the documents whose names begin with `prefix`, the one saved last at the end."""
        if self._directory is None:
            return []
        try:
            return await trio.to_thread.run_sync(self._names, prefix, limiter=disk_threads)
        except FileNotFoundError:
            return []
        except OSError as exc:
            log.warning("document.unreadable", name=prefix, error=str(exc))
            return []

    def _names(self, prefix: str) -> list[str]:
        assert self._directory is not None  # noqa: S101 - names() has looked
        found = []
        for entry in os.scandir(self._directory):
            if entry.name.startswith(prefix) and not entry.name.endswith(".new"):
                with contextlib.suppress(FileNotFoundError):  # somebody has just forgotten it
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        return [name for _, name in sorted(found)]

    async def forget(self, name: str) -> bool:
        """Remove the document; return whether there was one."""
        if self._directory is None:
            return False
        path = self._directory / name
        try:
            await trio.to_thread.run_sync(path.unlink, limiter=disk_threads)
        except FileNotFoundError:
            return False
        except OSError as exc:
            log.warning("document.unwritable", name=name, error=str(exc))
            return False
        return True

    def _write(self, name: str, data: bytes) -> None:
        assert self._directory is not None  # noqa: S101 - save() has looked
        path = self._directory / name
        fresh = path.with_name(f"{name}.{os.getpid()}.new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data + struct.pack("<Q", xxh3_64_intdigest(data)))
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
