"""A page for browsers that shows how a mount is: served on loopback, for as long as somebody wants.

* ``POST /v1/dashboard`` with ``{"port": 0 for a free one}`` is answered by JSON lines: the first
  has the ``url``, the others only say that it is still there. The listening ends with the answer.
* With ``{"keep": true}`` the answer is ``{"url": ...}``, and the listening goes on; there is one
  of these at a time.
* ``DELETE /v1/dashboard`` ends that one: ``{"stopped": bool}``.

Every process of this machine can connect, those of other users, too. So the address has a secret in
its path (144 bits, another one each time), without which there is nothing; it is never logged.
The page can change nothing. It is files of this package, and what it shows is ``data``: see
panorama.py. The browser is told to run and load nothing but these files (Content-Security-Policy),
whatever the names of images and places are, and to tell nobody the address.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncGenerator
from importlib import resources

import trio

from nebfs.daemon import jobs, listening
from nebfs.daemon.history import History
from nebfs.daemon.panorama import Panorama
from nebfs.daemon.status import Status
from nebfs.daemon.web import Handler, Reply, Request, Routes, as_json, as_lines
from nebfs.daemon.wiring import House
from nebfs.errors import Busy, UserError

HOST = "127.0.0.1"
ALIVE = 2.0
"""Seconds between two words to the command that waits."""

FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path behind the secret -> file of this package, and its media type."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
)


def routes(house: House, status: Status, past: History) -> Routes:
    """Return what begins and ends the listening."""
    dashboard = Dashboard(house, Panorama(house, status, past))

    async def begin(request: Request) -> Reply:
        said = request.json()
        port = said.get("port", 0)
        if not isinstance(port, int) or not 0 <= port < 1 << 16:
            raise UserError("a port is a number from 1 to 65535, or 0 for a free one")
        if said.get("keep") is True:
            return as_json(await dashboard.keep(port))
        return as_lines(dashboard.shown(port))

    async def end(_: Request) -> Reply:
        return as_json({"stopped": await dashboard.stop()})

    return {("POST", "/v1/dashboard"): begin, ("DELETE", "/v1/dashboard"): end}


class Dashboard:
    """Listens when it is asked to. Nothing is loaded before."""

    def __init__(self, house: House, panorama: Panorama) -> None:
        self._house = house
        self._panorama = panorama
        self._kept: _Kept | None = None

    async def shown(self, port: int) -> AsyncGenerator[jobs.Told]:
        """Listen until nobody wants to hear of it any more. Raises UserError."""
        heard, url = self._heard(port)
        news: list[jobs.Told] = [{"event": "listening", "url": url}]

        async def work() -> None:
            await listening.serve(heard, self._routes(url))

        def tell() -> list[jobs.Told]:
            told = list(news)
            news[:] = [{"event": "alive"}]
            return told

        told = jobs.done(self._house.nursery, work, tell, ALIVE)
        try:
            async for one in told:
                yield one
        finally:
            with trio.CancelScope(shield=True):
                await told.aclose()
            heard.close()

    async def keep(self, port: int) -> jobs.Told:
        """Listen until ``stop``, or the end of the mount. Raises UserError, or Busy where that
        happens at another port already.
        """
        if self._kept is None:
            heard, url = self._heard(port)
            self._kept = kept = _Kept(url, heard.getsockname()[1])
            await self._house.nursery.start(kept.run, heard, self._routes(url))
        elif port not in {0, self._kept.port}:
            raise Busy("it is kept at another port", port=self._kept.port)
        return {"url": self._kept.url}

    async def stop(self) -> bool:
        """End what is kept; return whether there was anything."""
        kept, self._kept = self._kept, None
        if kept is None:
            return False
        kept.scope.cancel()
        await kept.ended.wait()
        return True

    @staticmethod
    def _heard(port: int) -> tuple[socket.socket, str]:
        heard = listening.listen(HOST, port, "the dashboard")
        return heard, f"http://{HOST}:{heard.getsockname()[1]}/{secrets.token_urlsafe(18)}/"

    def _routes(self, url: str) -> Routes:
        path = f"/{url.split('/')[3]}/"
        answers: dict[tuple[str, str], Handler] = {("GET", f"{path}data"): self._data}
        package = resources.files("nebfs.daemon") / "page"
        for name, (file, kind) in FILES.items():
            answers["GET", path + name] = _file((package / file).read_bytes(), kind)
        return answers

    async def _data(self, _: Request) -> Reply:
        reply = as_json(await self._panorama.seen())
        return Reply(reply.body, headers=HEADERS)


class _Kept:
    """A listening that no command waits for."""

    def __init__(self, url: str, port: int) -> None:
        self.url = url
        self.port = port
        self.scope = trio.CancelScope()
        self.ended = trio.Event()

    async def run(
        self, heard: socket.socket, answers: Routes, *, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            with self.scope:
                await listening.serve(heard, answers, task_status=task_status)
        finally:
            self.ended.set()


def _file(body: bytes, kind: str) -> Handler:
    async def given(_: Request) -> Reply:
        return Reply(body, kind=kind, headers=HEADERS)

    return given
