"""Logical volumes that nebfs makes active on this machine while somebody reads them.

OpenNebula leaves its volumes inactive, with the flag that a boot skips them. A volume that was
active before stays so; one that nebfs has activated is deactivated after the last close, unless
somebody else has it open. OpenNebula takes a file lock on the front-end around what it does with a
group; where that file's directory is on this machine, nebfs takes the same lock.

A thin volume is never activated: that makes its pool active, too, and writes to the pool's own
metadata. A VM that starts on another machine meanwhile would then destroy it. The same holds for
all kinds of volumes with a memory of their own, such as RAID and caches.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from nebfs.content import lvm_report as report
from nebfs.content.layers.extents import etag_of, looked_up
from nebfs.content.layers.inplace import InPlace
from nebfs.content.stack import ReaderFacts
from nebfs.errors import Busy, Changed, NebfsError, TimedOut

log = structlog.get_logger()

_HARMLESS = {"linear", "striped"}
"""Layouts of which nothing is written when they are activated and read."""

LOCKS = "/var/lock/one"
LOCK_WAIT = 120.0
"""Seconds that OpenNebula itself waits for that lock."""

_LOCK_PAUSE = 0.1
_LAST_CHANCE = 10.0
"""Seconds at the end of a mount for what is still active."""

_threads = trio.CapacityLimiter(4)
"""Commands that may run at once; one that hangs with its disk keeps its thread."""


@dataclass(slots=True)
class _Volume:
    """One volume (``group/name``), and who uses it."""

    name: str
    path: str
    ours: bool = False
    """nebfs has activated it."""
    readers: list[InPlace] = field(default_factory=list)
    waiting: int = 0
    turn: trio.Lock = field(default_factory=trio.Lock)


class Activations:
    """Knows which volumes nebfs has activated. Commands run in `nursery`: an activation whose
    reader has given up must not be forgotten.
    """

    def __init__(self, nursery: trio.Nursery, timeout: float, locks: str = LOCKS) -> None:
        """`timeout`: seconds for each of LVM's commands."""
        self._nursery = nursery
        self._timeout = timeout
        self._locks = locks
        self._volumes: dict[str, _Volume] = {}
        self._keeping = False
        self._ending = False
        """Whether the mount ends: whoever still waits for a volume is being turned away."""

    async def open(
        self, name: str, path: str, etag: str, opened: Callable[[], Awaitable[InPlace]]
    ) -> Activated:
        """Have the volume `name` active and return a reader of it. `etag` says which volume is
        meant; `opened` opens `path`.

        Raises Busy (somebody is changing the group), Changed (another volume has the name now),
        TimedOut, or what LVM or `opened` raises.
        """
        if not self._keeping:
            self._keeping = True
            self._nursery.start_soon(self._keep)
        volume = self._volumes.setdefault(name, _Volume(name, path))
        volume.waiting += 1
        try:
            done, failed = trio.Event(), list[NebfsError]()
            self._nursery.start_soon(self._activate, volume, etag, done, failed)
            await done.wait()
            if failed:
                raise failed[0]
            below = await opened()
            volume.readers.append(below)
        finally:
            volume.waiting -= 1
            self._let_go(volume)
        return Activated(below, lambda: self._closed(volume, below))

    def _closed(self, volume: _Volume, below: InPlace) -> None:
        if below in volume.readers:
            volume.readers.remove(below)
            self._let_go(volume)

    def _let_go(self, volume: _Volume) -> None:
        if not volume.readers and not volume.waiting:
            self._nursery.start_soon(self._deactivate, volume)

    async def _activate(
        self, volume: _Volume, etag: str, done: trio.Event, failed: list[NebfsError]
    ) -> None:
        try:
            async with volume.turn, self._locked(volume):
                if not volume.waiting:
                    return  # while we waited for the lock, everybody has given up
                if not await trio.to_thread.run_sync(os.path.exists, volume.path):
                    await self._make_active(volume, etag)
        except NebfsError as exc:
            failed.append(exc)
        except Exception as exc:  # a bug must cost this opening, at most
            log.exception("volume.bug", volume=volume.name)
            failed.append(NebfsError(f"it could not be activated: {type(exc).__name__}"))
        finally:
            done.set()
            self._let_go(volume)

    async def _make_active(self, volume: _Volume, etag: str) -> None:
        look = partial(looked_up, volume.name, self._timeout)
        found = await trio.to_thread.run_sync(look, limiter=_threads, abandon_on_cancel=True)
        if etag_of(found) != etag:
            raise Changed("the image's volume is another one now", volume=volume.name)
        trouble = why_not(found)
        if trouble:
            raise Busy(trouble, volume=volume.name)
        volume.ours = True
        try:
            await self._run("lvchange", ["-K", "-ay", "--", volume.name])
        except TimedOut:
            raise  # it may still be done
        except NebfsError:
            volume.ours = False
            raise
        log.info("volume.activated", volume=volume.name)

    async def _deactivate(self, volume: _Volume) -> None:
        """Deactivate what nebfs has activated and nobody uses.

        What fails is tried again after the next use.
        """
        try:
            async with volume.turn:
                if not volume.ours or volume.readers or (volume.waiting and not self._ending):
                    return
                async with self._locked(volume):
                    in_use = partial(report.is_open, volume.name, self._timeout)
                    if await trio.to_thread.run_sync(
                        in_use, limiter=_threads, abandon_on_cancel=True
                    ):
                        log.warning("volume.left_active", volume=volume.name, reason="it is open")
                        return
                    await self._run("lvchange", ["-an", "--", volume.name])
                    volume.ours = False
                    log.info("volume.deactivated", volume=volume.name)
        except NebfsError as exc:
            log.warning("volume.left_active", volume=volume.name, reason=str(exc))
        except Exception:  # a bug must not take the mount down
            log.exception("volume.bug", volume=volume.name)

    async def _run(self, command: str, arguments: list[str]) -> None:
        job = partial(report.run, command, arguments, self._timeout)
        await trio.to_thread.run_sync(job, limiter=_threads, abandon_on_cancel=True)

    async def _keep(self) -> None:
        """At the end of the mount, leave nothing active."""
        try:
            await trio.sleep_forever()
        finally:
            self._ending = True
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LAST_CHANCE):
                for volume in self._volumes.values():
                    while volume.readers:
                        await volume.readers.pop().aclose()
                    await self._deactivate(volume)

    @asynccontextmanager
    async def _locked(self, volume: _Volume) -> AsyncIterator[None]:
        """Hold OpenNebula's lock on the group, if this machine has it. Raises Busy."""
        group = volume.name.partition("/")[0]
        fd = _lock_file(self._locks, group)
        if fd < 0:
            yield
            return
        try:
            until = trio.current_time() + LOCK_WAIT
            while not _try_lock(fd):
                if trio.current_time() >= until:
                    raise Busy("OpenNebula is changing the volume group: its lock is held")
                await trio.sleep(_LOCK_PAUSE)
            yield
        finally:
            os.close(fd)


def why_not(volume: report.Volume) -> str:
    """Say why nebfs does not activate `volume`; empty when it would."""
    if volume.is_plain and volume.kind in _HARMLESS:
        return ""
    return (
        f"the volume is inactive, and of the kind {volume.kind}: activating it would write to the"
        " group's disks, so nebfs leaves that to you: lvchange -K -ay"
    )


class Activated:
    """Reads an active volume, and says when it is not needed any more."""

    def __init__(self, below: InPlace, closed: Callable[[], None]) -> None:
        self._below = below
        self._closed = closed
        self.size = below.size
        self.revision = below.revision
        self.warm = below.warm
        self.pread = below.pread

    def facts(self) -> ReaderFacts:
        """What the device says."""
        return self._below.facts()

    async def aclose(self) -> None:
        """Close the device, and let the volume be deactivated."""
        await self._below.aclose()
        self._closed()


def _lock_file(directory: str, group: str) -> int:
    """Open OpenNebula's lock file of a group; -1 where there is no place for it.

    It is made for whoever owns the directory, so that OpenNebula can open it afterwards.
    """
    path = os.path.join(directory, f"tm-onelvm-{group}.lock")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        owner = os.stat(directory)
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return os.open(path, flags)
        if os.geteuid() == 0:
            os.fchown(fd, owner.st_uid, owner.st_gid)
        return fd
    except OSError as exc:
        if not isinstance(exc, (FileNotFoundError, NotADirectoryError)):
            log.warning("volume.unlocked", path=path, reason=exc.strerror)
        return -1


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise TimedOut(f"OpenNebula's lock cannot be taken: {exc.strerror}") from exc
    return True
