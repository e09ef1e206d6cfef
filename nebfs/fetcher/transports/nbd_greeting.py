"""The beginning of an NBD connection: what the server can do, and which export is meant. asyncio.

Source: the NBD project's doc/proto.md, "Fixed newstyle negotiation". The option NBD_OPT_GO is
asked for; servers without it (before 2017) are not spoken to, nor is one that lets us write.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass

from nebfs.errors import BadAnswer, Missing

_HELLO = struct.Struct(">QQH")
_NBDMAGIC, _IHAVEOPT = 0x4E42444D41474943, 0x49484156454F5054
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2

_OPTION = struct.Struct(">QII")
_OPT_GO, _OPT_STRUCTURED_REPLY = 7, 8

_REPLY = struct.Struct(">QIII")
_REPLY_MAGIC = 0x0003E889045565A9
_REP_ACK, _REP_INFO = 1, 3
_REP_ERROR = 1 << 31
_ERR_UNKNOWN = _REP_ERROR | 6
_MAX_REPLY = 8192  # bytes; the longest that is asked for is a name's, of at most 4096

_MAX_REPLIES = 64  # there is one for each kind of information, of which there are four

_INFO_EXPORT = 0
_EXPORT_FACTS = struct.Struct(">HQH")
_HAS_FLAGS, _READ_ONLY = 1, 2


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported. `size` is in bytes; `structured`: replies are in chunks."""

    size: int
    structured: bool


async def negotiate(sock: socket.socket, name: str) -> Export:
    """Greet the server, and have it export `name`.

    Raises ConnectionError when it hangs up, BadAnswer, or Missing when it has no such export.
    """
    loop = asyncio.get_running_loop()
    magic, options, flags = _HELLO.unpack(await _exactly(sock, _HELLO.size))
    if (magic, options) != (_NBDMAGIC, _IHAVEOPT) or not flags & _FIXED_NEWSTYLE:
        raise BadAnswer("that is no NBD server, or one of an old kind")
    if not flags & _NO_ZEROES:
        raise BadAnswer("the NBD server is of an old kind")
    await loop.sock_sendall(sock, struct.pack(">I", _FIXED_NEWSTYLE | _NO_ZEROES))
    structured = False
    for kind, _ in await _ask(sock, _OPT_STRUCTURED_REPLY, b""):
        structured = kind == _REP_ACK
    wanted = name.encode()
    size = -1
    asked = struct.pack(">I", len(wanted)) + wanted + struct.pack(">H", 0)
    for kind, data in await _ask(sock, _OPT_GO, asked):
        if kind == _ERR_UNKNOWN:
            raise Missing("the NBD server has no such export", name=name)
        if kind & _REP_ERROR:
            raise BadAnswer("the NBD server does not give its export", name=name, code=kind)
        if kind == _REP_INFO and data[:2] == struct.pack(">H", _INFO_EXPORT):
            if len(data) != _EXPORT_FACTS.size:
                raise BadAnswer("what the NBD server says of its export is not understood")
            _, size, flags = _EXPORT_FACTS.unpack(data)
            if not flags & _HAS_FLAGS or not flags & _READ_ONLY:
                raise BadAnswer("the NBD server's export is not for reading only")
    if not 0 <= size < 1 << 63:
        raise BadAnswer("the NBD server does not say how long its export is")
    return Export(size, structured)


async def _ask(sock: socket.socket, option: int, data: bytes) -> list[tuple[int, bytes]]:
    """Send an option; return the replies to it up to the last, each with its kind."""
    head = _OPTION.pack(_IHAVEOPT, option, len(data))
    await asyncio.get_running_loop().sock_sendall(sock, head + data)
    replies: list[tuple[int, bytes]] = []
    while len(replies) < _MAX_REPLIES:
        magic, about, kind, length = _REPLY.unpack(await _exactly(sock, _REPLY.size))
        if magic != _REPLY_MAGIC or about != option or length > _MAX_REPLY:
            break
        replies.append((kind, await _exactly(sock, length)))
        if kind == _REP_ACK or kind & _REP_ERROR:
            return replies
    raise BadAnswer("the NBD server's reply is not understood")


async def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        more = await asyncio.get_running_loop().sock_recv(sock, length - len(data))
        if not more:
            raise ConnectionResetError("the server has hung up")
        data += more
    return bytes(data)
