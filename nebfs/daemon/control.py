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
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

import h11
import structlog
import trio

from nebfs.daemon.web import Routes, converse
from nebfs.errors import (
    KINDS,
    BadAnswer,
    NebfsError,
    Refused,
    TimedOut,
    Unreachable,
    UserError,
)

log = structlog.get_logger()

LONGEST_ANSWER = 64 << 20  # bytes; thousands of places with their troubles, or of cached objects
LONGEST_SOCKET_PATH = 107  # sockaddr_un has 108 bytes and ends in NUL
CHUNK = 64 << 10
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
        undo.callback(_remover(path))
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

    Raises Unreachable (nobody listens), Refused (it is another user's), TimedOut, BadAnswer (it
    broke off, or is not JSON), or the failure that is the answer.
    """
    until = time.monotonic() + timeout
    said = bytearray()
    with _asked(path, method, where, query, body, lambda: until - time.monotonic()) as answer:
        for chunk in answer.chunks():
            said += chunk
            if len(said) > LONGEST_ANSWER:
                raise BadAnswer("the daemon's answer is too long", socket=path)
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
    left = b""
    with _asked(path, method, where, query, body, lambda: silence) as answer:
        for chunk in answer.chunks():
            *lines, left = (left + chunk).split(b"\n")
            for line in lines:
                found = _object(line, path)
                if "error" in found:
                    raise _failure(found)
                yield found
            if len(left) > LONGEST_ANSWER:
                raise BadAnswer("the daemon's answer is too long", socket=path)
        if left:
            raise _failure(_object(left, path))


class _Answer:
    """An answer that is on its way on `line`. `patience` tells how long the next wait may be."""

    def __init__(self, line: socket.socket, patience: Callable[[], float]) -> None:
        self.status = 0
        self._line = line
        self._patience = patience
        self._asking = h11.Connection(h11.CLIENT)

    def hurry(self) -> None:
        """Let the next wait take no longer than it may."""
        # 0 would mean "do not wait" and answers with another error than TimeoutError.
        self._line.settimeout(max(self._patience(), 0.001))

    def ask(self, method: str, target: str, body: bytes) -> None:
        """Send the question and take the head of what is answered."""
        headers = [("host", "nebfs"), ("content-length", str(len(body)))]
        asked = (
            h11.Request(method=method, target=target, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        self.hurry()
        self._line.sendall(b"".join(self._asking.send(event) or b"" for event in asked))
        head = self._next()
        if not isinstance(head, h11.Response):
            raise h11.RemoteProtocolError("no answer")
        self.status = head.status_code

    def chunks(self) -> Iterator[bytes]:
        """Yield what is answered, as it comes."""
        while isinstance(event := self._next(), h11.Data):
            yield bytes(event.data)

    def _next(self) -> object:
        while (event := self._asking.next_event()) is h11.NEED_DATA:
            self.hurry()
            self._asking.receive_data(self._line.recv(CHUNK))
        return event


@contextlib.contextmanager
def _asked(
    path: Path,
    method: str,
    where: str,
    query: Mapping[str, str] | None,
    body: Mapping[str, object] | None,
    patience: Callable[[], float],
) -> Iterator[_Answer]:
    # A file's name may be any bytes: as Python writes them into text, so they are quoted.
    words = urlencode(query or {}, errors="surrogateescape")
    target = quote(where) + (f"?{words}" if words else "")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            answer = _Answer(line, patience)
            _connect(line, path, answer.hurry, time.monotonic() + patience())
            answer.ask(method, target, b"" if body is None else json.dumps(body).encode())
            yield answer
    except TimeoutError as exc:
        raise TimedOut("the daemon did not answer", socket=path) from exc
    except h11.RemoteProtocolError as exc:
        raise BadAnswer("the daemon broke off, or is none", socket=path) from exc
    except OSError as exc:
        if exc.errno in {errno.ECONNRESET, errno.EPIPE}:
            raise BadAnswer("the daemon broke off", socket=path) from exc
        if exc.errno in {errno.EACCES, errno.EPERM}:
            raise Refused(
                "only the user who mounted may ask its daemon, and root", socket=path
            ) from exc
        raise Unreachable("no daemon listens", socket=path, error=exc.strerror or exc) from exc


def _connect(line: socket.socket, path: Path, hurry: Callable[[], None], until: float) -> None:
    while True:
        hurry()
        try:
            with _short(path) as name:
                line.connect(name)
        except BlockingIOError:
            # Of UNIX sockets: so many are waiting to be heard that the kernel takes no more.
            if time.monotonic() > until:
                raise TimeoutError from None
            time.sleep(0.02)
        else:
            return


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


def _remover(path: Path) -> Callable[[], None]:
    """Return what removes our socket, and not that of a daemon which has taken its place."""
    ours = path.lstat().st_ino

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_ino == ours:
                path.unlink()

    return remove


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
