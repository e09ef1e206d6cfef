"""The control socket: one JSON line is asked, one JSON line is answered, and the line is closed.

The daemon listens with `serve`; the command line asks with `ask`. What may be asked is the daemon's
affair: this module carries objects and bounds their size and time. The commands rely on this:

``{"command": "status"}`` is answered by an object with

* ``healthy`` (bool): False as soon as anything that is shown under ``places`` is in trouble;
* ``places``: a list of ``{"kind": "marketplace" | "datastore", "name", "healthy": bool, "trouble":
  text, "objects": int, "age": seconds since its list was taken, or null}``;
* ``trouble`` (text): what is wrong with the whole, such as refused credentials; empty if nothing;
* ``cache``: ``{"used": bytes, "limit": bytes, "hits": int, "misses": int}``; all optional.

An ``error`` (text) in an answer means that the question failed. The socket is 0600 in a directory
that is 0700: whoever may connect is the user who mounted, or root.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import structlog
import trio

from nebfs.errors import BadAnswer, NebfsError, TimedOut, Unreachable, UserError

log = structlog.get_logger()

Answer = Callable[[dict[str, object]], Awaitable[dict[str, object]]]

LONGEST_QUESTION = 64 << 10  # bytes; a path and a few words
LONGEST_ANSWER = 16 << 20  # bytes; thousands of places with their troubles
LONGEST_SOCKET_PATH = 107  # sockaddr_un has 108 bytes and ends in NUL
CONVERSATIONS = 16  # at once; more wait, so that a script gone wild cannot exhaust descriptors
CHUNK = 64 << 10


async def serve(
    path: Path,
    answer: Answer,
    *,
    timeout: float = 30.0,  # noqa: ASYNC109 - of each conversation, not of serve itself
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on `path` until cancelled and answer every question with ``await answer(question)``.

    A conversation takes at most `timeout` seconds; nothing that a client does or that `answer`
    raises ends the server. Raises UserError when the socket cannot be made.
    """
    with _listening(path) as listening, contextlib.ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        turns = trio.CapacityLimiter(CONVERSATIONS)

        async def converse(stream: trio.SocketStream) -> None:
            async with stream, turns:
                with trio.move_on_after(timeout) as bounded:
                    await _converse(stream, answer)
                if bounded.cancelled_caught:
                    log.warning("control_timed_out", seconds=timeout)

        task_status.started()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        await trio.serve_listeners(converse, [listener])


def ask(path: Path, question: Mapping[str, object], timeout: float) -> dict[str, object]:
    """Return the answer of the daemon that listens on `path`, within `timeout` seconds in all.

    Raises Unreachable (nobody listens), TimedOut, or BadAnswer (it broke off, or is not JSON).
    """
    until = time.monotonic() + timeout
    answered = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            _connect(line, path, until)
            line.sendall(json.dumps(question).encode() + b"\n")
            while not answered.endswith(b"\n") and len(answered) <= LONGEST_ANSWER:
                # 0 would mean "do not wait" and answers with another error than TimeoutError.
                line.settimeout(max(until - time.monotonic(), 0.001))
                chunk = line.recv(CHUNK)
                if not chunk:
                    break
                answered += chunk
    except TimeoutError as exc:
        raise TimedOut("the daemon did not answer", socket=path, seconds=timeout) from exc
    except OSError as exc:
        if exc.errno in {errno.ECONNRESET, errno.EPIPE}:
            raise BadAnswer("the daemon broke off", socket=path) from exc
        raise Unreachable("no daemon listens", socket=path, error=exc.strerror or exc) from exc
    return _object(bytes(answered), path)


def _connect(line: socket.socket, path: Path, until: float) -> None:
    while True:
        line.settimeout(max(until - time.monotonic(), 0.001))
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


async def _converse(stream: trio.SocketStream, answer: Answer) -> None:
    try:
        question = await _question(stream)
        if question is not None:
            await stream.send_all(await _answered(question, answer) + b"\n")
            if len(question) > LONGEST_QUESTION:
                # Closing while there is more to read would take our answer away from the asker.
                async for _ in stream:
                    pass
    except trio.BrokenResourceError:
        log.debug("control_broke_off")  # who asked did not wait for the answer


async def _question(stream: trio.SocketStream) -> bytes | None:
    """Read to the end of the line; None when who connected said nothing (a mere probe)."""
    asked = bytearray()
    while b"\n" not in asked and len(asked) <= LONGEST_QUESTION:
        chunk = await stream.receive_some(CHUNK)
        if not chunk:
            break
        asked += chunk
    return bytes(asked) or None


async def _answered(asked: bytes, answer: Answer) -> bytes:
    line, end, _ = asked.partition(b"\n")
    if not end or len(line) > LONGEST_QUESTION:
        return _refusal(f"a question is one line of at most {LONGEST_QUESTION} bytes")
    try:
        question = json.loads(line)
    except (ValueError, RecursionError):
        return _refusal("the question is not JSON")
    if not isinstance(question, dict):
        return _refusal("the question is not a JSON object")
    try:
        return json.dumps(await answer(question)).encode()
    except NebfsError as exc:
        return _refusal(str(exc))
    except Exception:  # the mount must outlive a question that fails; it is told and logged
        log.exception("control_answer_failed")
        return _refusal("the daemon failed to answer; its log says why")


def _refusal(why: str) -> bytes:
    return json.dumps({"error": why}).encode()


def _object(answered: bytes, path: Path) -> dict[str, object]:
    if not answered.endswith(b"\n"):
        what = "is too long" if len(answered) > LONGEST_ANSWER else "broke off"
        raise BadAnswer(f"the daemon's answer {what}", socket=path, length=len(answered))
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
