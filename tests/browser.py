"""A real browser without a screen: Debian's chromium-headless-shell, by the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

PHONE, DESKTOP = (390, 844), (1280, 900)
PATIENCE = 30.0


class Page:
    """One open page. `problems` are what its console, the browser's policies and scripts said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.problems: list[str] = []
        self.asked: list[str] = []
        self._number = 0

    async def do(self, method: str, **params: object) -> dict[str, Any]:
        self._number += 1
        await self.socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            said = json.loads((await self.socket.receive(PATIENCE)).data)
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]
            self._note(said)

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        match said.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.problems.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])

    async def run(self, script: str) -> Any:
        """Return what an expression of JavaScript is."""
        done = await self.do(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true, and return what it is."""
        end = time.monotonic() + PATIENCE
        # While the page is loaded there may be nothing yet that could be asked.
        while not (found := await self.run(f"document.body && document.head && ({script})")):
            assert time.monotonic() < end, (script, self.problems)
            await asyncio.sleep(0.05)
        return found

    async def look(self, size: tuple[int, int], *, dark: bool = False) -> None:
        """Have the page as wide as `size`, and dark or light."""
        width, height = size
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        scheme = "dark" if dark else "light"
        await self.do(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    async def shot(self, file: Path, height: int = 0) -> None:
        """Take a picture of the page, all of it or its first `height` pixels."""
        box = await self.run(
            "[document.documentElement.clientWidth, document.documentElement.scrollHeight]"
        )
        clip = {"x": 0, "y": 0, "width": box[0], "height": height or box[1], "scale": 1}
        done = await self.do("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(done["data"]))


def browse(url: str, visit: Callable[[Page], Awaitable[None]]) -> None:
    """Open `url` in a browser of its own, and end that after `visit`."""
    # Its helpers may write a last time while it is cleaned up.
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as home:
        # Its sandbox wants rights that a container of CI does not give; all it sees is ours.
        argv = ["chromium-headless-shell", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        argv += ["--remote-debugging-port=0", f"--user-data-dir={home}", "--disable-dev-shm-usage"]
        argv += ["--disable-background-networking", "--disable-component-update"]
        with open(Path(home) / "log", "wb") as log:
            browser = subprocess.Popen(
                [*argv, "about:blank"], stdout=log, stderr=log, start_new_session=True
            )
        try:
            asyncio.run(_visit(Path(home), url, visit))
        finally:
            browser.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                browser.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)  # and what it has started
            browser.wait()


async def _visit(home: Path, url: str, visit: Callable[[Page], Awaitable[None]]) -> None:
    end = time.monotonic() + PATIENCE
    listening = home / "DevToolsActivePort"
    while not (listening.exists() and listening.read_text().count("\n")):
        assert time.monotonic() < end, (home / "log").read_text()
        await asyncio.sleep(0.05)
    port = listening.read_text().split("\n")[0]
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            (target,) = [one for one in await answer.json() if one["type"] == "page"]
        async with session.ws_connect(
            target["webSocketDebuggerUrl"], max_msg_size=64 << 20, origin=None
        ) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await page.do(f"{domain}.enable")
            await page.do("Page.navigate", url=url)
            await visit(page)
