"""Listening on TCP, for those who cannot use the control socket: Prometheus, and browsers.

Nothing is asked there that changes anything, and nothing that is secret is answered.
"""

from __future__ import annotations

import ipaddress
import os
import socket

import trio

from nebfs.config_kinds import address
from nebfs.daemon.web import Routes, converse
from nebfs.errors import UserError

CONVERSATIONS = 8
"""At once; more wait. A browser has six connections to one address."""

WAITING = 56
"""Connections that may wait for that; others are closed at once. Anybody can connect here, and each
connection takes a descriptor that images are opened with, too.
"""

PATIENCE = 10.0
"""Seconds for a question to be asked, and for each piece of its answer to be taken."""


def listen(host: str, port: int, what: str) -> socket.socket:
    """Return a socket that listens; `port` 0 is a free one. Raises UserError, which names `what`
    cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, port))
        listening.listen(CONVERSATIONS)
    except OSError as exc:
        listening.close()
        # Not exc.strerror: trio and asyncio are not alone in writing more into it.
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        shown = f"[{host}]" if ":" in host else host
        raise UserError(f"{what} cannot be had at {shown}:{port}: {reason}") from exc
    return listening


def listen_at(text: str, what: str) -> socket.socket:
    """Return a socket that listens at ``127.0.0.1:9469`` or ``[::1]:9469``. Raises UserError."""
    host, port = address(text)
    return listen(host, port, what)


def names_of(listening: socket.socket) -> frozenset[str] | None:
    """Return the names by which a browser may call what listens; None: any.

    What is on loopback is for this machine, and a web page must not get there by having a name of
    its own point to it. What is for others is called by names that we do not know.
    """
    host = str(listening.getsockname()[0])
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return None
    return frozenset({host, "localhost", "127.0.0.1", "::1"})


async def serve(
    listening: socket.socket,
    routes: Routes,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer what is asked by `routes` until cancelled; then close the socket."""
    hosts = names_of(listening)
    turns = trio.CapacityLimiter(CONVERSATIONS)

    async def one(stream: trio.SocketStream) -> None:
        async with stream:
            if turns.statistics().tasks_waiting >= WAITING:
                return
            async with turns:
                await converse(stream, routes, patience=PATIENCE, hosts=hosts)

    listening.setblocking(False)
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    task_status.started()
    await trio.serve_listeners(one, [listener])
