"""An HTTP file server with ranges and validators, and a switch for each way to misbehave.

RFC 9110: single byte ranges (sections 14.1, 14.2), ETag and Last-Modified (8.8), If-Match,
If-None-Match and If-Range (13.1). More than one range in a request is answered with the whole file,
which the RFC allows. Bytes go from the page cache to the socket with sendfile(2).
"""

from __future__ import annotations

import functools
import os
import re
import select
import threading
from collections import deque
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from nebfs.demo.cloud import Cloud
from nebfs.demo.listening import Handler, Listener

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_LOG_LENGTH = 10_000  # requests remembered: more than any test makes
_SENDFILE_PIECE = 1 << 20  # so that what was sent is counted while a long answer runs


@dataclass(slots=True)
class Switches:
    """How the answers for one path are spoiled; the defaults spoil nothing."""

    ranges: bool = True
    """Off: a Range header is ignored and the whole file is sent with status 200."""
    validators: bool = True
    """Off: no ETag and no Last-Modified."""
    longer: int = 0
    """Bytes by which every announced length is larger than what is there."""
    cut_after: int | None = None
    """Break the connection after so many bytes of a body."""
    stall_after: int | None = None
    """Stop sending after so many bytes of a body, until release() or the end of the server."""
    corrupt_at: int | None = None
    """The offset of a byte that is sent with all its bits turned over."""
    fail_next: int = 0
    """How many of the next requests are answered with `fail_status`."""
    fail_status: int = 503
    retry_after: int | None = None
    """Seconds in the Retry-After header of those failures."""


@dataclass(slots=True)
class PathStatistics:
    """What one path was asked for, and what was sent of it."""

    requests: int = 0
    bytes: int = 0
    statuses: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it was answered."""

    method: str
    path: str
    range: str
    status: int
    user_agent: str


class FileServer:
    """Serves `cloud.published`; counts; every path has its own switches."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.published = cloud.published
        self.requests: deque[Seen] = deque(maxlen=_LOG_LENGTH)
        self._switches: dict[str, Switches] = {}
        self._statistics: dict[str, PathStatistics] = {}
        self._guard = threading.Lock()
        self._released = threading.Event()

    def listener(self) -> Listener:
        """Return a server, not yet started, that sends these files."""
        return Listener(functools.partial(FileHandler, files=self))

    def switches(self, path: str) -> Switches:
        """Return the switches of `path`, to be changed at any time."""
        with self._guard:
            return self._switches.setdefault(path, Switches())

    def replace(self, path: str, file: Path) -> None:
        """Serve another version under `path`; transfers that run go on with the old one."""
        with self.cloud.lock:
            self.published[path] = file

    def release(self) -> None:
        """Let every stalled transfer go on, and none stall any more."""
        self._released.set()

    def statistics(self) -> dict[str, PathStatistics]:
        """Return a copy of the counts of every path that was asked for."""
        with self._guard:
            return {
                path: PathStatistics(s.requests, s.bytes, list(s.statuses))
                for path, s in self._statistics.items()
            }

    def bytes_sent(self) -> int:
        """Return the bytes of all bodies sent until now, headers not counted."""
        with self._guard:
            return sum(s.bytes for s in self._statistics.values())

    def failing(self, path: str) -> bool:
        """Say whether this request is one of those that `fail_next` announced."""
        switches = self.switches(path)
        with self._guard:
            failing = switches.fail_next > 0
            switches.fail_next -= failing
        return failing

    def answered(self, seen: Seen) -> None:
        """Count a request."""
        with self._guard:
            self.requests.append(seen)
            counts = self._statistics.setdefault(seen.path, PathStatistics())
            counts.requests += 1
            counts.statuses.append(seen.status)

    def sent(self, path: str, count: int) -> None:
        """Count bytes of a body."""
        with self._guard:
            self._statistics[path].bytes += count

    def stall(self) -> None:
        """Wait until release()."""
        self._released.wait()


@dataclass(frozen=True, slots=True)
class _Part:
    """What of a file an answer holds: status, first byte, how many."""

    status: int
    start: int
    length: int


class FileHandler(Handler):
    """One connection to the file server, or to a store of files with rules of its own."""

    server_version = "nebfs-demonstration"

    def __init__(self, *args: object, files: FileServer) -> None:
        self._files = files
        super().__init__(*args)  # type: ignore[arg-type] # socketserver's own three

    def answer(self) -> None:
        """Send a file, or what is to be said instead."""
        path = unquote(self.path.partition("?")[0])
        with self._files.cloud.lock:
            file = self._files.published.get(path)
        switches = self._files.switches(path)
        if self._files.failing(path):
            headers = {}
            if switches.retry_after is not None:
                headers["Retry-After"] = str(switches.retry_after)
            return self._refuse(path, switches.fail_status, headers)
        if self.command == "POST":
            self.close_connection = True  # its body was not read
            return self._refuse(path, HTTPStatus.METHOD_NOT_ALLOWED)
        if file is None:
            return self._refuse(path, HTTPStatus.NOT_FOUND)
        try:
            with file.open("rb") as stream:
                self._serve(path, stream, switches)
        except FileNotFoundError:
            self._refuse(path, HTTPStatus.NOT_FOUND)

    def _serve(self, path: str, stream: BinaryIO, switches: Switches) -> None:
        status = os.fstat(stream.fileno())
        validators = {}
        if switches.validators:
            # As nginx makes it, but to the nanosecond: two versions within a second must differ.
            validators["ETag"] = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            validators["Last-Modified"] = formatdate(status.st_mtime, usegmt=True)
        etag = validators.get("ETag", "")
        wanted = self.headers.get("If-Match")
        if wanted is not None and wanted != "*" and etag not in _listed(wanted):
            return self._refuse(path, HTTPStatus.PRECONDITION_FAILED)
        if etag and etag in _listed(self.headers.get("If-None-Match", "")):
            return self.head(path, HTTPStatus.NOT_MODIFIED, validators)
        part = self._part(status.st_size, validators, switches)
        total = status.st_size + switches.longer
        if switches.ranges:
            validators["Accept-Ranges"] = "bytes"
        if part.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return self._refuse(path, part.status, {"Content-Range": f"bytes */{total}"})
        length = part.length
        if part.status == HTTPStatus.PARTIAL_CONTENT:
            last = part.start + part.length - 1
            validators["Content-Range"] = f"bytes {part.start}-{last}/{total}"
        else:
            length += switches.longer
        validators["Content-Type"] = "application/octet-stream"
        self.head(path, part.status, {**validators, "Content-Length": str(length)})
        if self.command != "HEAD":
            self._send(path, stream.fileno(), part, switches)
            if length > part.length:
                self.close_connection = True  # more was promised than there is
        return None

    def _part(self, size: int, validators: dict[str, str], switches: Switches) -> _Part:
        """Decide what to send: RFC 9110 13.2.2 and 14.2."""
        whole = _Part(HTTPStatus.OK, 0, size)
        asked = _RANGE.fullmatch(self.headers.get("Range", "").strip())
        if asked is None or not switches.ranges or not (asked[1] or asked[2]):
            return whole
        condition = self.headers.get("If-Range")
        if condition is not None and condition not in (
            validators.get("ETag"),
            validators.get("Last-Modified"),
        ):
            return whole
        if asked[1]:
            start, stop = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
            if asked[2] and int(asked[2]) < int(asked[1]):
                return whole  # not a valid range: as if it had not been sent
        else:
            start, stop = max(size - int(asked[2]), 0), size
        if start >= stop:
            return _Part(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, 0)
        return _Part(HTTPStatus.PARTIAL_CONTENT, start, stop - start)

    def _send(self, path: str, fd: int, part: _Part, switches: Switches) -> None:
        self.wfile.flush()
        at, stop = part.start, part.start + part.length
        if switches.cut_after is not None and part.length > switches.cut_after:
            stop = part.start + switches.cut_after
            self.close_connection = True
        stall = None if switches.stall_after is None else part.start + switches.stall_after
        bad = switches.corrupt_at
        while at < stop:
            if at == stall:
                self._files.stall()
                stall = None
            if at == bad:
                self._files.sent(path, 1)
                self.connection.sendall(bytes([os.pread(fd, 1, at)[0] ^ 0xFF]))
                sent = 1
            else:
                # Up to the next place where something is to happen.
                ahead = (p for p in (stall, bad, at + _SENDFILE_PIECE, stop) if p is not None)
                end = min(p for p in ahead if p > at)
                sent = self._sendfile(path, fd, at, end - at)
                if sent == 0:
                    self.close_connection = True  # the file became shorter under us
                    return
            at += sent

    def _sendfile(self, path: str, fd: int, at: int, count: int) -> int:
        # The handler's timeout makes the socket non-blocking underneath: wait for room by hand.
        out = self.connection.fileno()
        while True:
            # Counted before, so that whoever has received a byte finds it counted; then put right.
            self._files.sent(path, count)
            sent = 0
            try:
                sent = os.sendfile(out, fd, at, count)
            except BlockingIOError:
                pass
            else:
                return sent
            finally:
                self._files.sent(path, sent - count)
            room = select.poll()
            room.register(out, select.POLLOUT)
            if not room.poll(1000 * (self.timeout or 0)):
                raise TimeoutError("the client reads no more")

    def head(self, path: str, status: int, headers: dict[str, str]) -> None:
        """Count the request and send the beginning of its answer."""
        self._files.answered(
            Seen(
                self.command,
                path,
                self.headers.get("Range", ""),
                int(status),
                self.headers.get("User-Agent", ""),
            )
        )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _refuse(self, path: str, status: int, headers: dict[str, str] | None = None) -> None:
        self.head(path, status, {**(headers or {}), "Content-Length": "0"})


def _listed(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",")]
