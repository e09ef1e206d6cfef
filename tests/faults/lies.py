"""The ways in which a web server is wrong, by name, and a place that answers in one of them.

A lie is a function from what is at a place, and a request for it, to an answer. `LIES` has beside
each what may come of it when every answer is so: the errno of a read, or none where every byte is
right all the same. What is temporary must be outlived: see `Lie.temporary`.
"""

from __future__ import annotations

import errno
import itertools
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from tests.faults.web import Origin, Request, ScriptedServer, Site, answer

Told = bytes | Iterator[bytes]

PIECES = 7
"""Of a body that drips."""
PAUSE = 0.01
"""Seconds between two of them."""


@dataclass
class Place:
    """A script: what `origin` has, told by `lie` so many times (`left`), and rightly after that.

    A stall lasts until `healed` is set, or the server ends.
    """

    origin: Origin
    lie: Callable[[Place, Request], Told] | None = None
    left: float = math.inf
    healed: threading.Event = field(default_factory=threading.Event)
    elsewhere: str = ""
    """Where redirects lead to."""
    told: int = 0
    """How many answers were lies."""

    def __call__(self, request: Request) -> Told:
        if self.lie is None or self.left <= 0:
            return self.origin(request)
        self.left -= 1
        self.told += 1
        return self.lie(self, request)

    def heal(self) -> None:
        """Tell the truth from now on."""
        self.lie = None
        self.healed.set()


def _parts(place: Place, request: Request) -> tuple[bytes, bytes]:
    """Return the right answer: its head with the empty line, and its body."""
    head, end, body = place.origin(request).partition(b"\r\n\r\n")
    return head + end, body


def short_body(place: Place, request: Request) -> Told:
    """Break off in the middle of the body."""
    head, body = _parts(place, request)
    yield head + body[: len(body) // 2]
    yield b""


def no_body(place: Place, request: Request) -> Told:
    """Break off behind the head."""
    head, _ = _parts(place, request)
    yield head
    yield b""


def nothing(place: Place, request: Request) -> Told:
    """Hang up."""
    del place, request
    yield b""


def less(place: Place, request: Request) -> Told:
    """Give a shorter part than was asked for, and say so."""
    start, stop = _span(place, request)
    return place.origin.part(start, start + max((stop - start) // 2, 1))


def silently_less(place: Place, request: Request) -> Told:
    """Give fewer bytes than the part that the head is about, with a length that agrees."""
    start, stop = _span(place, request)
    body = place.origin.data[start:stop][: max((stop - start) // 2, 1)]
    total = len(place.origin.data)
    said = f"bytes {start}-{stop - 1}/{total}"
    return answer(206, body, content_range=said, etag=place.origin.etag)


def more(place: Place, request: Request) -> Told:
    """Send more than was announced."""
    head, body = _parts(place, request)
    yield head + body + b"and this"


def longer(place: Place, request: Request) -> Told:
    """Announce a body that is longer than what comes."""
    start, stop = _span(place, request)
    told = place.origin.part(start, stop, content_length=str(stop - start + 1000))
    yield told
    yield b""


def longer_in_total(place: Place, request: Request) -> Told:
    """Say that the whole is longer than it is."""
    start, stop = _span(place, request)
    said = f"bytes {start}-{stop - 1}/{len(place.origin.data) + 1000}"
    return place.origin.part(start, stop, content_range=said)


def whole(place: Place, request: Request) -> Told:
    """Answer 200 with everything."""
    del request
    return place.origin.whole()


def another_part(place: Place, request: Request) -> Told:
    """Send another part than was asked for, and say so."""
    start, stop = _span(place, request)
    start = start - 1 if start else 1
    return place.origin.part(start, min(stop, len(place.origin.data)))


def wrong_range(place: Place, request: Request) -> Told:
    """Send the right part, and say that it is another."""
    start, stop = _span(place, request)
    said = f"bytes {start + 1}-{stop}/{len(place.origin.data)}"
    return place.origin.part(start, stop, content_range=said)


def no_range(place: Place, request: Request) -> Told:
    """Do not say which part it is."""
    return place.origin.part(*_span(place, request), content_range="")


def not_satisfiable(place: Place, request: Request) -> Told:
    """Say that there is no such part."""
    del request
    return answer(416, content_range=f"bytes */{len(place.origin.data)}")


def _status(status: int, **headers: str) -> Callable[[Place, Request], Told]:
    def told(place: Place, request: Request) -> Told:
        del place, request
        return answer(status, b"an error page, and no bytes of the image", **headers)

    return told


def error_page(place: Place, request: Request) -> Told:
    """Answer 200 with a page that says what went wrong, as portals and proxies do."""
    del place, request
    return answer(200, b"<html>Please log in</html>" * 40, content_type="text/html")


def stalled_head(place: Place, request: Request) -> Told:
    """Say nothing."""
    del request
    place.healed.wait()
    yield b""


def stalled_body(place: Place, request: Request) -> Told:
    """Say the head, and no more."""
    head, _ = _parts(place, request)
    yield head
    place.healed.wait()
    yield b""


def stalled_half_way(place: Place, request: Request) -> Told:
    """Fall silent in the middle of the body."""
    head, body = _parts(place, request)
    yield head + body[: len(body) // 2]
    place.healed.wait()
    yield b""


def drip(place: Place, request: Request) -> Told:
    """Send little by little: right, but slow."""
    told = place.origin(request)
    step = len(told) // PIECES + 1
    for at in range(0, len(told), step):
        yield told[at : at + step]
        time.sleep(PAUSE)


def drip_for_ever(place: Place, request: Request) -> Told:
    """Send a byte now and then: never silent for long, and never done."""
    told = place.origin(request)
    for at in itertools.count():
        yield told[at : at + 1]
        if place.healed.wait(0.05):
            yield b""


def redirect(place: Place, request: Request) -> Told:
    """Send on to `elsewhere`."""
    del request
    return answer(302, location=place.elsewhere)


def other_etag(place: Place, request: Request) -> Told:
    """Send the bytes of a version with another ETag."""
    return replace(place.origin, data=place.origin.data[::-1], etag='"another"')(request)


def other_date(place: Place, request: Request) -> Told:
    """Send the bytes of a version with another Last-Modified, which its ETag does not tell."""
    later = "Mon, 02 Nov 2026 10:00:00 GMT"
    return replace(place.origin, data=place.origin.data[::-1], modified=later)(request)


def packed(place: Place, request: Request) -> Told:
    """Say that the bytes are compressed on the way, which nobody has asked for."""
    return replace(place.origin, extra={"content_encoding": "gzip"})(request)


def not_http(place: Place, request: Request) -> Told:
    """Speak another protocol."""
    del place, request
    yield b"220 smtp ready\r\n"
    yield b""


def _span(place: Place, request: Request) -> tuple[int, int]:
    start, stop = request.range or (0, len(place.origin.data))
    return start, min(stop, len(place.origin.data))


@dataclass(frozen=True)
class Lie:
    """One way to be wrong. `errno`: what a read is answered when it does not end; 0: its bytes."""

    tell: Callable[[Place, Request], Told]
    errno: int
    sure: bool = True
    """Whether it is always so; else it may also be found out too late to matter."""
    temporary: bool = True
    """Whether it is asked again by itself."""
    elsewhere: str = ""
    """Of a redirect: where to; see `LyingServer`."""
    slow: bool = False
    """Whether it lasts until somebody gives up."""


LIES = {
    "short body": Lie(short_body, errno.EIO, sure=False),
    "no body": Lie(no_body, errno.EIO),
    "no answer": Lie(nothing, errno.EIO),
    "less than asked": Lie(less, errno.EIO, sure=False),
    "less, silently": Lie(silently_less, errno.EIO),
    "more than announced": Lie(more, errno.EIO, sure=False),
    "a lying length": Lie(longer, errno.EIO),
    "a lying total": Lie(longer_in_total, errno.ESTALE, temporary=False),
    "200 for 206": Lie(whole, 0),
    "another part": Lie(another_part, errno.EIO),
    "a wrong Content-Range": Lie(wrong_range, errno.EIO),
    "no Content-Range": Lie(no_range, errno.EIO),
    "416": Lie(not_satisfiable, errno.ESTALE, temporary=False),
    "429": Lie(_status(429, retry_after="0"), errno.EIO),
    "429 for an hour": Lie(_status(429, retry_after="3600"), errno.EIO, temporary=False),
    "500": Lie(_status(500), errno.EIO),
    "503": Lie(_status(503, retry_after="0"), errno.EIO),
    "an expired signature": Lie(_status(403), errno.EACCES, temporary=False),
    "an error page": Lie(error_page, errno.ESTALE, temporary=False),
    "a stalled head": Lie(stalled_head, errno.EIO, slow=True),
    "a stalled body": Lie(stalled_body, errno.EIO, slow=True),
    "a stall half-way": Lie(stalled_half_way, errno.EIO, sure=False, slow=True),
    "drip": Lie(drip, 0),
    "a redirect": Lie(redirect, 0, elsewhere="copy"),
    "a redirect to another version": Lie(
        redirect, errno.ESTALE, temporary=False, elsewhere="other"
    ),
    "a redirect to a name that is not": Lie(redirect, errno.EIO, elsewhere="nowhere"),
    "a redirect to what is no TLS": Lie(redirect, errno.EIO, elsewhere="tls"),
    "a redirect to a port that is closed": Lie(redirect, errno.EIO, elsewhere="closed"),
    "another ETag": Lie(other_etag, errno.ESTALE, temporary=False),
    "another Last-Modified": Lie(other_date, errno.ESTALE, temporary=False),
    "compressed on the way": Lie(packed, errno.EIO),
    "another protocol": Lie(not_http, errno.EIO),
}
"""Each as a server has been seen to be."""


class LyingServer:
    """A server for one lie: `name` is what it is called. What is published tells the truth until
    its place is told to lie.
    """

    def __init__(self, lie: Lie, name: str = "") -> None:
        self.name = name
        self._lie = lie
        self._site = Site()
        self._server = ScriptedServer(self._site)
        self.url = self._server.url
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._closed = probe.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for script in self._site.paths.values():
            if isinstance(script, Place):
                script.heal()
        self._server.close()

    def publish(self, data: bytes) -> tuple[str, Place]:
        """Have a place with `data`; return its address, and itself."""
        path = f"/{len(self._site.paths)}"
        self._site.paths[f"{path}/copy"] = Origin(data)
        self._site.paths[f"{path}/other"] = Origin(data[::-1], etag='"another"')
        elsewhere = {
            "tls": self.url.replace("http:", "https:"),
            "closed": f"http://127.0.0.1:{self._closed}/",
            "nowhere": "http://no-such-host.invalid/",
        }.get(self._lie.elsewhere, f"{self.url}{path}/{self._lie.elsewhere}")
        place = self._site.paths[path] = Place(Origin(data), elsewhere=elsewhere)
        return self.url + path, place
