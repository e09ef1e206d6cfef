"""QEMU's block layer as a process of ours: one qemu-storage-daemon, one node, one NBD connection.

The node is described whole, and for reading only: QEMU guesses no format, and follows no name that
it finds in an image. Its socket has a name only until we are connected, in a directory of its own
(mode 0700), so nobody else can connect. Secrets go through a pipe: no command line, no file. The
process dies with this one (qsd_child.py), and knows nothing of our environment.
Source: QEMU 7.2, qemu-storage-daemon(1), and "blockdev-add" in its QMP reference.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nebfs.errors import Unsupported
from nebfs.fetcher.transports import qsd_child

PROGRAM = "qemu-storage-daemon"
REMEDY = "install qemu-system-common and qemu-block-extra"
NAME = "disk"
"""Of the node, and of its export."""

GRACE = 1.0
"""Seconds in which it may say goodbye to where it reads from."""

_SAID = 4096  # bytes of its stderr that are kept: the last ones, which say why it has ended
_MAX_SECRET = 4096  # bytes: what fits into a pipe that nobody reads yet (PIPE_BUF)


@dataclass(frozen=True, slots=True)
class Node:
    """A block node, as ``blockdev-add`` wants it, and the secrets that it names.

    `shown` says in a word for people what it reads.
    """

    options: str = field(repr=False)
    secrets: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    shown: str = ""

    @classmethod
    def of(
        cls, options: Mapping[str, Any], secrets: Mapping[str, str] | None = None, shown: str = ""
    ) -> Self:
        """Describe one. `secrets`: the id by which the options name it -> what it is."""
        node = {
            **options,
            "node-name": NAME,
            "read-only": True,
            # What is read is what is there now. For iSCSI, direct also means that QEMU does not
            # remember where there was nothing: another initiator may have written there since.
            "cache": {"direct": True, "no-flush": True},
        }
        return cls(json.dumps(node), tuple((secrets or {}).items()), shown)


class Process:
    """A running qemu-storage-daemon, whose ``socket`` is a connection to its NBD server.

    It may still be opening its node then, and ends if it cannot: `said` is then why. Whoever starts
    one calls `end`.
    """

    def __init__(self, node: Node) -> None:
        """Start it; this blocks for some milliseconds.

        Not in a thread: PR_SET_PDEATHSIG counts the death of the starting *thread* as the parent's.
        Raises Unsupported when it is not installed, or OSError when the system cannot.
        """
        program = shutil.which(PROGRAM)
        if program is None:
            raise Unsupported(f"{PROGRAM} is not installed; {REMEDY}")
        self._loop = asyncio.get_running_loop()
        self._said = bytearray()
        with contextlib.ExitStack() as given, contextlib.ExitStack() as ours:
            listener, self.socket = _connected(given)
            ours.enter_context(self.socket)
            fds, secrets = _secrets(node.secrets, given)
            command = [program, *secrets, *_words(node, listener.fileno())]
            self._popen = subprocess.Popen(
                # -I and -S: quick, and nothing of where we happen to be is looked at.
                [sys.executable, "-I", "-S", qsd_child.__file__, str(os.getpid()), *command],
                pass_fds=(listener.fileno(), *fds),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd="/",
                # libiscsi, for one, would take a password from there. C: what it says is English.
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )
            ours.pop_all()
        assert self._popen.stderr is not None  # noqa: S101 - by PIPE
        self._stderr = self._popen.stderr
        os.set_blocking(self._stderr.fileno(), False)
        self._loop.add_reader(self._stderr, self._listen)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def said(self) -> str:
        """The last that it said, to be judged and shortened before it is shown to anybody."""
        return self._said.decode("utf-8", "replace")

    def _listen(self) -> None:
        try:
            more = os.read(self._stderr.fileno(), _SAID)
        except BlockingIOError:
            return
        self._said = (self._said + more)[-_SAID:]
        if not more:
            self._loop.remove_reader(self._stderr)

    async def ended(self, within: float) -> bool:
        """Wait `within` seconds at most; return whether it has ended."""
        if self._popen.poll() is not None:
            self._listen()
            return True
        over = asyncio.Event()
        pidfd = os.pidfd_open(self._popen.pid)
        self._loop.add_reader(pidfd, over.set)
        try:
            async with asyncio.timeout(within):
                await over.wait()
        except TimeoutError:
            pass
        finally:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
        if self._popen.poll() is None:
            return False
        self._listen()  # what it said last
        return True

    async def end(self, *, grace: float = GRACE) -> None:
        """Make sure that it is gone; `grace` in seconds, 0: at once. The socket is closed."""
        self.socket.close()
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, GRACE)):
            # Not one that has ended: its number may be another's by now.
            if patience and self._popen.poll() is None:
                self._popen.send_signal(number)
                if await self.ended(patience):
                    break
        if not self._stderr.closed:
            self._loop.remove_reader(self._stderr)
            self._stderr.close()


def _connected(kept: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return a listening socket without a name, `kept` open, and a connection to it.

    Whoever inherits the first one accepts the second one.
    """
    listener = kept.enter_context(socket.socket(socket.AF_UNIX))
    with _private_directory() as directory, contextlib.ExitStack() as opened:
        ours = opened.enter_context(socket.socket(socket.AF_UNIX))
        path = f"/proc/self/fd/{directory}/nbd"  # short, wherever it is: at most 107 bytes
        listener.bind(path)
        listener.listen(1)
        ours.connect(path)
        os.unlink("nbd", dir_fd=directory)
        opened.pop_all()
    ours.setblocking(False)
    return listener, ours


@contextlib.contextmanager
def _private_directory() -> Iterator[int]:
    path = Path(tempfile.mkdtemp(prefix="nebfs-qsd-"))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _secrets(
    secrets: Sequence[tuple[str, str]], kept: contextlib.ExitStack
) -> tuple[list[int], list[str]]:
    """Put each into a pipe, `kept` open; return their descriptors, and the words that lead there.

    Raises Unsupported.
    """
    fds, words = [], []
    for name, text in secrets:
        data = text.encode()
        if len(data) > _MAX_SECRET:
            raise Unsupported("the password is too long")
        readable, writable = os.pipe()
        kept.callback(os.close, readable)
        with open(writable, "wb") as file:
            file.write(data)
        secret = {"qom-type": "secret", "id": name, "file": f"/proc/self/fd/{readable}"}
        fds.append(readable)
        words += ["--object", json.dumps(secret)]
    return fds, words


def _words(node: Node, listener: int) -> list[str]:
    """In this order: the server answers only when the node is open."""
    export = {"type": "nbd", "id": NAME, "node-name": NAME, "name": NAME, "writable": False}
    return [
        "--blockdev",
        node.options,
        "--nbd-server",
        f"addr.type=fd,addr.str={listener},max-connections=1",
        "--export",
        json.dumps(export),
    ]
