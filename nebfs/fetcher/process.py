"""One life of the fetcher process, seen from the daemon: started, talked to, ended. trio."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import structlog
import trio

import nebfs
from nebfs.fetcher import wire
from nebfs.fetcher.settings import FetcherSettings

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL: the worker only has to drop its connections."""

FRAMES_AT_ONCE = 64
"""Frames taken before other tasks may run."""

log = structlog.get_logger()


class WorkerProcess:
    """A running ``python -m nebfs.fetcher`` and this side's end of its socket."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Start it. Raises OSError when the system cannot.

        This blocks for some milliseconds. Not in a thread: PR_SET_PDEATHSIG counts the death of the
        starting *thread* as the parent's, and trio's threads end when they are idle.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                wire.enlarge(ours)
                wire.enlarge(theirs)
                self._popen = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "nebfs.fetcher",
                        str(theirs.fileno()),
                        str(os.getpid()),
                        settings.to_json(),
                    ],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    # -m looks for modules in the working directory first: it must be the package's
                    # own place, not wherever the user happened to be.
                    cwd=Path(nebfs.__file__).parent.parent,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        # Not trio's socket: that lets other tasks run around each call, which costs more than the
        # call. Frames are short and the buffer holds hundreds of them.
        ours.setblocking(False)
        self._socket = ours
        self._sending = trio.Lock()
        self._buffer = wire.receive_buffer()
        self._view = memoryview(self._buffer)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    async def send(self, parcel: wire.Parcel) -> None:
        """Send one frame whole, at once if the socket takes it.

        Raises OSError or ClosedResourceError when the process is gone, OSError when the system
        refuses.
        """
        # Without the lock when it is free: taking it would let all other tasks run first.
        if self._sending.locked() or not self._sent(parcel):
            async with self._sending:  # the others wait behind whoever waits for the socket
                while not self._sent(parcel):
                    await trio.lowlevel.wait_writable(self._socket)

    def _sent(self, parcel: wire.Parcel) -> bool:
        try:
            self._socket.sendmsg(*parcel.arguments)
        except BlockingIOError:
            return False
        return True

    async def receive(self) -> list[wire.Frame]:
        """Return the frames that are here, at least one; none when the process is gone.

        Raises BadAnswer.
        """
        frames: list[wire.Frame] = []
        while len(frames) < FRAMES_AT_ONCE:
            try:
                count, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._buffer], wire.ANCILLARY_SIZE, wire.RECEIVE_FLAGS
                )
            except BlockingIOError:
                if frames:
                    break
                await trio.lowlevel.wait_readable(self._socket)
                continue
            except OSError:
                break  # ECONNRESET: it died with requests unread
            if count == 0:
                break
            frames.append(wire.unpack(self._view[:count], ancillary, flags))
        return frames

    async def end(self) -> int | None:
        """Make sure that it is gone; return its exit code as subprocess does, None if it is not."""
        with trio.CancelScope(shield=True):
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
            if self._popen.poll() is None:
                pidfd = os.pidfd_open(self._popen.pid)
                try:
                    await self._stop(pidfd)
                finally:
                    os.close(pidfd)
        return self._popen.poll()

    async def _stop(self, pidfd: int) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(pidfd, number)
            # SIGKILL cannot be refused, but a process in D state is late: wait no longer either.
            with trio.move_on_after(GRACE):
                await trio.lowlevel.wait_readable(pidfd)
                return
        log.error("fetcher does not die", pid=self.pid)
