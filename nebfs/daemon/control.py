"""The control socket: JSON over HTTP on a UNIX socket, by which commands ask a running daemon.

The daemon listens with `serve`; the command line asks with `ask` and `follow`, and so can anybody
else: ``curl --unix-socket /run/nebfs/mnt-one.sock http://nebfs/v1/status``. Paths begin with the
version of what is answered, ``/v1``: within it facts are added, and do not change their meaning.
What may be asked is in routes.py.

The socket is 0600 in a directory that is 0700: who may connect is the user who mounted, or root.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

import structlog
import trio

from nebfs.daemon.web import Routes, converse
from nebfs.errors import KINDS, BadAnswer, NebfsError, TimedOut, Unreachable, UserError

log = structlog.get_logger()

LONGEST_ANSWER = 64 << 20  # bytes; thousands of places with their troubles, or of cached objects
LONGEST_SOCKET_PATH = 107  # sockaddr_un has 108 bytes and ends in NUL
CONVERSATIONS = 16  # at once; more wait, so that a script gone wild cannot exhaust descriptors


async def serve(
    path: Path,
    routes: Routes,
    *,
    patience: float = 30.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on `path` until cancelled and answer what is asked by `routes`.

    `patience`: seconds for a question to be asked, and for its answer to be taken. Nothing that a
    client does or that a handler raises ends the server. Raises UserError when the socket cannot be
    made.
    """
    with _listening(path) as listening, contextlib.ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        turns = trio.CapacityLimiter(CONVERSATIONS)

        async def one(stream: trio.SocketStream) -> None:
            async with stream, turns:
                await converse(stream, routes, patience=patience)

        task_status.started()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        await trio.serve_listeners(one, [listener])


def ask(
    path: Path,
    method: str,
    where: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
    timeout: float,
) -> dict[str, object]:
    """Return the answer, a JSON object, of the daemon that listens on `path`, within `timeout`
    seconds in all.

    Raises Unreachable (nobody listens), TimedOut, BadAnswer (it broke off, or is not JSON), or the
    failure that is the answer.
    """
    with _asked(path, method, where, query, body, timeout) as (answer, until):
        said = bytearray()
        while len(said) <= LONGEST_ANSWER:
            until()
            chunk = answer.read1(1 << 16)
            if not chunk:
                break
            said += chunk
        else:
            raise BadAnswer("the daemon's answer is too long", socket=path)
        if answer.length:
            raise BadAnswer("the daemon's answer broke off", socket=path, missing=answer.length)
        found = _object(bytes(said), path)
        if answer.status >= 400:
            raise _failure(found)
        return found


def follow(
    path: Path,
    method: str,
    where: str,
    *,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, object] | None = None,
    silence: float,
) -> Iterator[dict[str, object]]:
    """Yield the objects of an answer that goes on for a while, as they come; whoever stops taking
    them stops what they are about. `silence`: seconds without one after which it is given up.

    Raises as `ask` does.
    """
    with _asked(path, method, where, query, body, silence) as (answer, _):
        if answer.status >= 400:
            raise _failure(_object(answer.read(LONGEST_ANSWER), path))
        while True:
            line = answer.readline(LONGEST_ANSWER)
            if not line:
                return
            found = _object(line, path)
            if "error" in found:
                raise _failure(found)
            yield found


class _Line(http.client.HTTPConnection):
    """A connection to a UNIX socket, of which each wait ends at one moment."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("nebfs", timeout=timeout)
        self._path = path
        self._until = time.monotonic() + timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            self.hurry()
            try:
                with _short(self._path) as name:
                    self.sock.connect(name)
            except BlockingIOError:
                # Of UNIX sockets: so many are waiting to be heard that the kernel takes no more.
                if time.monotonic() > self._until:
                    raise TimeoutError from None
                time.sleep(0.02)
            else:
                return

    def hurry(self) -> None:
        """Let the next wait take no longer than what is left."""
        # 0 would mean "do not wait" and answers with another error than TimeoutError.
        if self.sock is not None:
            self.sock.settimeout(max(self._until - time.monotonic(), 0.001))


@contextlib.contextmanager
def _asked(
    path: Path,
    method: str,
    where: str,
    query: Mapping[str, str] | None,
    body: Mapping[str, object] | None,
    timeout: float,
) -> Iterator[tuple[http.client.HTTPResponse, Callable[[], None]]]:
    line = _Line(path, timeout)
    # A file's name may be any bytes: as Python writes them into text, so they are quoted.
    words = urlencode(query or {}, errors="surrogateescape")
    target = quote(where) + (f"?{words}" if words else "")
    try:
        with contextlib.closing(line):
            data = None if body is None else json.dumps(body).encode()
            line.request(method, target, data)
            with line.getresponse() as answer:
                yield answer, line.hurry
    except TimeoutError as exc:
        raise TimedOut("the daemon did not answer", socket=path, seconds=timeout) from exc
    except http.client.HTTPException as exc:
        raise BadAnswer("the daemon broke off", socket=path) from exc
    except OSError as exc:
        if exc.errno in {errno.ECONNRESET, errno.EPIPE}:
            raise BadAnswer("the daemon broke off", socket=path) from exc
        raise Unreachable("no daemon listens", socket=path, error=exc.strerror or exc) from exc


def _failure(told: dict[str, object]) -> NebfsError:
    kind, text = str(told.get("kind", "")), str(told.get("error", "it does not say why"))
    return UserError(text) if kind == "UserError" else KINDS.get(kind, NebfsError)(text)


def _object(answered: bytes, path: Path) -> dict[str, object]:
    try:
        said = json.loads(answered)
    except ValueError as exc:
        raise BadAnswer("the daemon's answer is not JSON", socket=path) from exc
    if not isinstance(said, dict):
        raise BadAnswer("the daemon's answer is not a JSON object", socket=path)
    return said


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name of `path` that fits into a socket's address, however long `path` is."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        yield os.fspath(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _listening(path: Path) -> socket.socket:
    """Return a socket that listens on `path`, mode 0600, in place of one that was left there."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):  # never anything else that has its name
                path.unlink()
        with _short(path) as name:
            listening.bind(name)
        path.chmod(0o600)
        listening.listen(CONVERSATIONS)
    except OSError as exc:
        listening.close()
        raise UserError(f"control socket {path} cannot be made: {exc.strerror}") from exc
    return listening
