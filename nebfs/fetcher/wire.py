"""Frames on the socket between the daemon and the fetcher process.

One SOCK_SEQPACKET datagram is one frame: 4 bytes (big-endian) that count the header, the header
as JSON in ASCII, then a raw payload up to the end. Descriptors go along by SCM_RIGHTS (unix(7)). A
datagram must fit the socket's buffer, so a frame of more than INLINE_LIMIT bytes is written into a
sealed memfd (memfd_create(2)) and what is sent is the length 0 and that memfd as last descriptor.
Sealed, so that a reader need not fear that what it reads changes or shrinks under it.

Nothing here waits: the callers own the socket and know how to wait in their own event loop.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nebfs.errors import BadAnswer

INLINE_LIMIT = 32 << 10
"""Bytes of a frame that travels in the datagram itself; above it a memfd is cheaper than copying
twice through the socket, and far below SO_SNDBUF, so that many frames may be under way."""

SOCKET_BUFFER = 1 << 20
"""SO_SNDBUF that is asked for: hundreds of requests at once without waiting for the other side."""

MAX_DESCRIPTORS = 2
"""The file to fill and the memfd."""

ANCILLARY_SIZE = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
RECEIVE_FLAGS = socket.MSG_CMSG_CLOEXEC

_LENGTH = struct.Struct(">I")
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_WRITE_STEP = 1 << 30  # write(2) moves at most 2 GiB - 4 KiB at once

Ancillary = Sequence[tuple[int, int, bytes]]


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: what it says, its raw bytes, and descriptors that now belong to the receiver."""

    header: Mapping[str, Any]
    payload: bytes = b""
    fds: tuple[int, ...] = ()

    def close(self) -> None:
        """Close the descriptors, for a receiver that has no use for them."""
        for fd in self.fds:
            os.close(fd)


class Parcel:
    """A frame ready for ``sendmsg(*parcel.arguments)``; owns its memfd, if any, until closed."""

    __slots__ = ("_memfd", "arguments")

    def __init__(
        self, header: Mapping[str, Any], payload: bytes = b"", fds: Iterable[int] = ()
    ) -> None:
        """`fds` stay the caller's. Raises OSError when a big frame finds no memory."""
        text = json.dumps(header, separators=(",", ":")).encode("ascii")
        parts = [_LENGTH.pack(len(text)), text, payload]
        rights = list(fds)
        self._memfd = -1
        if _LENGTH.size + len(text) + len(payload) > INLINE_LIMIT:
            self._memfd = _sealed(parts)
            rights.append(self._memfd)
            parts = [_LENGTH.pack(0)]
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", rights))] if rights else []
        )
        self.arguments: tuple[list[bytes], list[tuple[int, int, Any]]] = (parts, ancillary)

    def close(self) -> None:
        """Close this side's copy of the memfd; once sent, the datagram holds its own."""
        if self._memfd >= 0:
            os.close(self._memfd)
            self._memfd = -1


def receive_buffer() -> bytearray:
    """Make the buffer that recvmsg_into fills with one datagram."""
    return bytearray(INLINE_LIMIT)


def unpack(data: memoryview, ancillary: Ancillary, flags: int) -> Frame:
    """Read what ``recvmsg_into`` received. Raises BadAnswer, with all descriptors closed."""
    fds = _descriptors(ancillary)
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            # MSG_CTRUNC is also how the kernel says that this process has no descriptor left.
            raise BadAnswer("a message of the fetcher was cut off", flags=flags)
        (length,) = _LENGTH.unpack_from(data)
        if length:
            text = bytes(data[_LENGTH.size : _LENGTH.size + length])
            payload = bytes(data[_LENGTH.size + length :])
        else:
            memfd = fds.pop()
            try:
                text, payload = _read_sealed(memfd)
            finally:
                os.close(memfd)
        return Frame(json.loads(text), payload, tuple(fds))
    except (struct.error, IndexError, ValueError, OSError) as exc:
        _close_all(fds)
        raise BadAnswer("a message of the fetcher is malformed", reason=str(exc)) from exc
    except BaseException:
        _close_all(fds)
        raise


def enlarge(sock: socket.socket) -> None:
    """Ask for SOCKET_BUFFER; the kernel silently gives less where wmem_max is smaller."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _descriptors(ancillary: Ancillary) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _sealed(parts: Iterable[bytes]) -> int:
    memfd = os.memfd_create("nebfs-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(memfd, view[:_WRITE_STEP]) :]
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def _read_sealed(memfd: int) -> tuple[bytes, bytes]:
    if fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise ValueError("the memfd is not sealed")
    (length,) = _LENGTH.unpack(os.pread(memfd, _LENGTH.size, 0))
    body = _LENGTH.size + length
    text = os.pread(memfd, length, _LENGTH.size)
    size = os.fstat(memfd).st_size - body
    if size <= _WRITE_STEP:
        return text, os.pread(memfd, size, body)
    pieces = [
        os.pread(memfd, min(_WRITE_STEP, size - at), body + at)
        for at in range(0, size, _WRITE_STEP)
    ]
    return text, b"".join(pieces)
