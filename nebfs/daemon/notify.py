"""What a service manager is told, in the words of sd_notify(3): ready, reloading, alive, stopping.

One datagram per message to the socket that NOTIFY_SOCKET names (a path, or ``@`` and an abstract
name), ``NAME=value`` lines. Without it nothing is said. The watchdog (sd_watchdog_enabled(3)) is
told that all is well at half of WATCHDOG_USEC, by a task of the loop that answers the kernel, and
only after the fetcher has answered it: whatever of the two hangs, the manager hears nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Protocol, Self

import structlog
import trio

from nebfs.ending import pass_on
from nebfs.errors import NebfsError

log = structlog.get_logger()

PATIENCE = 1.0
"""Seconds for which a full queue of the manager may hold us up. It has room for hundreds."""

STATUS_INTERVAL = 30.0
"""Seconds between two looks at what STATUS says, where no watchdog sets the pace."""


class Answering(Protocol):
    """The fetcher, as far as it is asked whether it lives."""

    async def ping(self) -> None:
        """Return when it has answered."""
        ...

    def kill(self) -> None:
        """End its process, which is started again by itself."""
        ...


@dataclass(slots=True)
class Notifier:
    """Whom to tell. `watchdog` is in seconds, 0.0 where none waits."""

    address: str = ""
    watchdog: float = 0.0
    _status: str = ""
    _ending: bool = False

    @classmethod
    def taken_from(cls, environ: MutableMapping[str, str]) -> Self:
        """Read the environment, and take out of it what is meant for this process alone."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        whose = environ.pop("WATCHDOG_PID", "")
        if address[:1] not in {"/", "@"} or len(address) < 2:
            if address:
                log.warning("notify.unusable", reason="NOTIFY_SOCKET is no path and no @name")
            return cls()
        meant = (
            microseconds.isascii() and microseconds.isdigit() and whose in {"", str(os.getpid())}
        )
        return cls(address, int(microseconds) / 1e6 if meant else 0.0)

    def say(self, *lines: str) -> None:
        """Send `lines` as one message. Whoever does not hear it is no reason to fail."""
        if not self.address:
            return
        where = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(where)
                sock.sendall("\n".join(lines).encode("utf-8", "surrogateescape"))
        except OSError as exc:
            log.warning("notify.not_told", told=lines[0], error=str(exc))

    def ready(self, status: str) -> None:
        """Say that the mount may be used: after the start, and after a reload."""
        self._status = status
        if not self._ending:
            self.say("READY=1", f"STATUS={one_line(status)}")

    def starting(self, status: str) -> None:
        """Say what the start waits for."""
        self.say(f"STATUS={one_line(status)}")

    def reloading(self) -> None:
        """Say that credentials are read again, until `ready`. Type=notify-reload wants the time."""
        self.say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the end has begun. After it there is no other status."""
        self._ending = True
        self.say("STOPPING=1", "STATUS=Waiting for open files to be closed")

    async def keep_telling(self, fetcher: Answering, status: Callable[[], str]) -> None:
        """Tell the watchdog that all is well, and the status when it changes, for ever."""
        if not self.address:
            return
        interval = self.watchdog / 2 or STATUS_INTERVAL
        while True:
            began = trio.current_time()
            try:
                await self._tell_once(fetcher, status, interval)
            except BaseException as exc:  # it is told less then, and the mount goes on
                pass_on(exc)
                log.exception("notify.bug")
            await trio.sleep_until(began + interval)

    async def _tell_once(
        self, fetcher: Answering, status: Callable[[], str], within: float
    ) -> None:
        try:
            with trio.fail_after(within):
                await fetcher.ping()
            if self.watchdog:
                self.say("WATCHDOG=1")
        except trio.TooSlowError:
            # Its requests are asked again of the next one. No word to the watchdog meanwhile.
            log.error("fetcher.silent", seconds=within, remedy="it is started again")
            fetcher.kill()
        except NebfsError as exc:  # it died while it was asked, and is started again already
            log.warning("fetcher.unasked", error=str(exc))
        text = status()
        if text != self._status and not self._ending:
            self._status = text
            self.say(f"STATUS={one_line(text)}")


def one_line(text: str) -> str:
    """Return `text` without what would begin another NAME=value."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
