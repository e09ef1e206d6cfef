"""The kernel's side of /dev/fuse, for tests of what answers it without libfuse."""

from __future__ import annotations

import contextlib
import socket
import struct

import trio

from nebfs.fuse.direct import DirectReads

LOOKUP, READ, STATFS, INTERRUPT, BATCH_FORGET = 1, 15, 17, 36, 42
HEAD = struct.Struct("<IIQQ16x")


class Kernel:
    """The other end of /dev/fuse: sends requests, and hears answers as (errno, unique, bytes)."""

    def __init__(self):
        self.end, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        self.end.setblocking(False)

    def send(self, opcode, unique, body=b"", inode=1):
        self.end.send(HEAD.pack(HEAD.size + len(body), opcode, unique, inode) + body)

    async def answer(self):
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(self.end)
        message = self.end.recv(1 << 21)
        length, number, unique = struct.unpack_from("<IiQ", message)
        assert length == len(message)
        return -number, unique, message[16:]

    def close(self):
        self.end.close()
        self.device.close()


def read_in(fh, size=4096):
    """Return the body of a READ."""
    return struct.pack("<QQI20x", fh, 0, size)


@contextlib.asynccontextmanager
async def served(kernel, reads):
    """Have the window serve a kernel."""
    window = DirectReads(kernel.device.fileno(), reads)
    async with trio.open_nursery() as nursery:
        await nursery.start(window.run)
        yield
        nursery.cancel_scope.cancel()
    window._theirs.close()  # which otherwise lives as long as libfuse
