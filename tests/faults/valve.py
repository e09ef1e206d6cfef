"""What is between nebfs and a server: a port that forwards, stalls, cuts, slows down or is closed.

What a server says itself (503, 429 and the like) is the server's own switch, see world.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine

OPEN, REFUSED, STALLED, CUT, SLOW = "open", "refused", "stalled", "cut", "slow"
CHUNK = 256 << 10
SLOW_RATE = 2 << 20
"""Bytes per second of each connection of a slow valve."""

PORTS = range(20_000, 30_000)
"""Below those that the kernel gives away: a valve that was closed must have its port again."""


class Valves:
    """The loop in which all valves are, in a thread of its own."""

    def __init__(self) -> None:
        self._made: list[Valve] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run something in the loop and wait for it."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def valve(self, port: int) -> Valve:
        """Open a valve to a port of this machine."""
        made = Valve(port)
        self.run(made.start())
        made.valves = self
        self._made.append(made)
        return made

    def close(self) -> None:
        """End the loop with all that runs in it."""

        async def cancel() -> None:
            for valve in self._made:
                valve.shut()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=5) if others else None

        self.run(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class Valve:
    """One port, and the server behind it."""

    valves: Valves

    def __init__(self, target: int) -> None:
        self._target = target
        self.port = 0
        self.mode = OPEN
        self.bytes = 0
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen on the port that it had, or on a new one."""
        ports = [self.port] if self.port else random.sample(PORTS, 100)
        for port in ports:
            with contextlib.suppress(OSError):
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
                self.port = port
                break
        self._flows.set()

    def turn(self, mode: str) -> None:
        """Change what it does, for connections that there are as well."""
        self.valves.run(self._turn(mode))

    async def _turn(self, mode: str) -> None:
        self.mode = mode
        self._flows.clear() if mode == STALLED else self._flows.set()
        if mode == REFUSED:
            self.shut()
        while mode != REFUSED and self._server is None:
            await self.start()
            await asyncio.sleep(0.05)

    def shut(self) -> None:
        """Listen no more and break what is connected; from within the loop."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._abort()

    async def broken(self) -> None:
        """Break what is connected, and go on; from within the loop."""
        self._abort()

    def _abort(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        try:
            ways = [self._pump(reader, back, 1 << 40), self._pump(there, writer, self._length())]
            tasks = [asyncio.ensure_future(way) for way in ways]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            pass
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort() if self.mode in (CUT, REFUSED) else end.close()

    def _length(self) -> int:
        """Return after how many bytes a connection is cut, if this valve cuts."""
        return random.choice((0, 100, 5_000, 200_000, 1_000_000))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flows.wait()
                if self.mode == CUT:
                    data, length = data[:length], length - len(data)
                if self.mode == SLOW:
                    await asyncio.sleep(len(data) / SLOW_RATE)
                self.bytes += len(data)
                writer.write(data)
                await writer.drain()
                if length < 0:  # what is left out must never be followed by more
                    return
