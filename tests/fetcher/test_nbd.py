"""The NBD client against servers that break the protocol, hang up, or stand still."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time

import pytest

from nebfs.errors import BadAnswer, Missing, NebfsError, Unreachable
from nebfs.fetcher.transports.nbd import Connection

SIZE = 1 << 20
DATA = bytes(range(256)) * (SIZE // 256)
HELLO = b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
REPLY = 0x0003E889045565A9
READ_ONLY = 3


def reply(option, kind, data=b""):
    return struct.pack(">QIII", REPLY, option, kind, len(data)) + data


def export(size=SIZE, flags=READ_ONLY):
    return reply(7, 3, struct.pack(">HQH", 0, size, flags)) + reply(7, 1)


def simple(handle, data=b"", error=0):
    return struct.pack(">IIQ", 0x67446698, error, handle) + data


def chunk(handle, kind, data=b"", done=False):
    return struct.pack(">IHHQI", 0x668E33EF, done, kind, handle, len(data)) + data


def piece(handle, start, stop, done=False):
    return chunk(handle, 1, struct.pack(">Q", start) + DATA[start:stop], done)


def hole(handle, start, length, done=False):
    return chunk(handle, 2, struct.pack(">QI", start, length), done)


def error(handle, number, *, done=True, text=b"canary"):
    facts = struct.pack(">IH", number, len(text)) + text
    return chunk(handle, 0x8001, facts, done)


class Server:
    """Answers with what a test says. `structured`: what the option is answered with."""

    def __init__(self, answers, *, structured=True, hello=HELLO, go=None):
        self.answers = list(answers)
        self.structured = structured
        self.hello = hello
        self.go = export() if go is None else go
        self.asked = []
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)

    async def run(self):
        reader, writer = await asyncio.open_connection(sock=self.theirs)
        try:
            writer.write(self.hello)
            assert await reader.readexactly(4) == struct.pack(">I", 3)
            for option, said in ((8, reply(8, 1 if self.structured else 0x80000001)), (7, self.go)):
                _, number, length = struct.unpack(">QII", await reader.readexactly(16))
                await reader.readexactly(length)
                assert number == option
                writer.write(said)
            while True:
                head = struct.unpack(">IHHQQI", await reader.readexactly(28))
                assert head[:3] == (0x25609513, 0, 0)
                self.asked.append(head[4:])
                if not self.answers:
                    await reader.read()  # stands still
                    return
                said = self.answers.pop(0)(head[3])
                if said is None:
                    return
                writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def session(server, work, stall=20.0):
    running = asyncio.create_task(server.run())
    try:
        async with asyncio.timeout(20):
            connection = await Connection.open(server.ours, "disk", stall)
            try:
                return await work(connection)
            finally:
                await connection.aclose()
    finally:
        server.ours.close()
        await running


def read(*answers, ranges=((0, 1000),), stall=20.0, **facts):
    """Read ranges one after the other; return what came, or the failure, of each."""

    async def work(connection):
        found = []
        for span in ranges:
            try:
                found.append(bytes(await connection.read(*span)))
            except NebfsError as exc:
                found.append(exc)
        return found

    return asyncio.run(session(Server(answers, **facts), work, stall))


def test_simple_replies_are_read():
    answer = read(lambda n: simple(n, DATA[5:1000]), ranges=((5, 1000),), structured=False)
    assert answer == [DATA[5:1000]]


def test_chunks_and_holes_are_read():
    def answer(n):
        return piece(n, 100, 300) + hole(n, 300, 500) + piece(n, 800, 1100) + chunk(n, 0, b"", True)

    expected = DATA[100:300] + bytes(500) + DATA[800:1100]
    assert read(answer, ranges=((100, 1100),)) == [expected]


def test_answers_may_come_in_another_order():
    numbers = []

    def both(n):
        numbers.append(n)
        if len(numbers) == 1:
            return b""
        return piece(numbers[1], 10, 20, True) + piece(numbers[0], 0, 10, True)

    async def work(connection):
        return await asyncio.gather(connection.read(0, 10), connection.read(10, 20))

    assert asyncio.run(session(Server([both, both]), work)) == [DATA[:10], DATA[10:20]]


def test_a_read_that_nobody_waits_for_does_not_disturb_the_next():
    numbers = []

    def both(n):
        numbers.append(n)
        if len(numbers) == 1:
            return b""
        return piece(numbers[0], 0, 10, True) + piece(numbers[1], 10, 20, True)

    async def work(connection):
        first = asyncio.create_task(connection.read(0, 10))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await connection.read(10, 20)

    assert asyncio.run(session(Server([both, both]), work)) == DATA[10:20]


@pytest.mark.parametrize("structured", [True, False])
def test_an_error_is_of_that_read_only(structured):
    def bad(n):
        return error(n, 5) if structured else simple(n, error=5)

    def good(n):
        return piece(n, 0, 1000, True) if structured else simple(n, DATA[:1000])

    failure, data = read(bad, good, ranges=((0, 1000), (0, 1000)), structured=structured)
    assert isinstance(failure, Unreachable)
    assert "Input/output error" in str(failure)
    assert "canary" not in str(failure)
    assert data == DATA[:1000]


def test_an_error_in_the_middle_is_no_short_answer():
    (failure,) = read(lambda n: piece(n, 0, 500) + error(n, 5, done=False) + chunk(n, 0, b"", True))
    assert isinstance(failure, Unreachable)


BROKEN = {
    "less": lambda n: piece(n, 0, 999, True),
    "nothing": lambda n: chunk(n, 0, b"", True),
    "more": lambda n: piece(n, 0, 1001, True),
    "before": lambda n: hole(n, (1 << 64) - 1, 1000, True),
    "twice": lambda n: piece(n, 0, 600) + piece(n, 500, 900, True),
    "backwards": lambda n: piece(n, 500, 1000) + piece(n, 0, 500, True),
    "a hole too long": lambda n: hole(n, 0, 1001, True),
    "an empty hole": lambda n: hole(n, 0, 0) + hole(n, 0, 1000, True),
    "a hole of a strange length": lambda n: chunk(n, 2, bytes(11), True),
    "data of no length": lambda n: chunk(n, 1, bytes(8), True),
    "an unknown chunk": lambda n: chunk(n, 5, bytes(8), True),
    "an endless chunk": lambda n: chunk(n, 0, b"", False),
    "a huge error": lambda n: chunk(n, 0x8001, bytes(9000), True),
    "another's": lambda n: piece(n + 7, 0, 1000, True),
    "a simple reply": lambda n: simple(n, DATA[:1000]),
    "rubbish": lambda n: b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_breaks_the_protocol_is_none_and_ends_the_connection(name):
    failures = read(BROKEN[name], ranges=((0, 1000), (0, 1000)))
    assert [type(failure) for failure in failures] == [BadAnswer, BadAnswer]


def test_chunks_are_not_believed_where_simple_replies_were_agreed():
    (failure,) = read(lambda n: piece(n, 0, 1000, True), structured=False)
    assert isinstance(failure, BadAnswer)


def test_a_server_that_hangs_up_is_unreachable():
    failures = read(lambda n: None, ranges=((0, 1000), (0, 1000)))
    assert [type(failure) for failure in failures] == [Unreachable, Unreachable]


def test_a_server_that_stands_still_in_the_middle_is_given_up():
    (failure,) = read(lambda n: piece(n, 0, 400)[:300], stall=0.2)
    assert isinstance(failure, Unreachable)
    assert "silent" in str(failure)


def test_a_server_that_stands_still_is_given_up():
    begun = time.monotonic()
    failures = read(ranges=((0, 1000), (0, 1000)), stall=0.2)
    assert time.monotonic() - begun < 10
    assert [type(failure) for failure in failures] == [Unreachable, Unreachable]
    assert "silent" in str(failures[0])


def test_a_server_that_is_slow_and_goes_on_is_not():
    async def work(connection):
        loop = asyncio.get_running_loop()
        answer = asyncio.create_task(connection.read(0, 1000))
        parts = [piece(1, at, at + 100, at == 900) for at in range(0, 1000, 100)]
        begun = loop.time()
        for part in parts:
            await asyncio.sleep(0.15)
            await loop.sock_sendall(raw, part)
        assert loop.time() - begun > 1
        return await answer

    server = Server([lambda n: b""])
    raw = server.theirs.dup()
    try:
        assert asyncio.run(session(server, work, stall=1)) == DATA[:1000]
    finally:
        raw.close()


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({"hello": b"SSH-2.0-OpenSSH_9.2\r\n"}, BadAnswer),
        ({"hello": b"NBDMAGIC" + bytes(10)}, BadAnswer),
        ({"hello": HELLO[:-2] + struct.pack(">H", 1)}, BadAnswer),
        ({"go": reply(7, 0x80000006)}, Missing),
        ({"go": reply(7, 0x80000002)}, BadAnswer),
        ({"go": reply(7, 1)}, BadAnswer),
        ({"go": reply(8, 1)}, BadAnswer),
        ({"go": export(size=1 << 63)}, BadAnswer),
        ({"go": export(flags=1)}, BadAnswer),
        ({"go": reply(7, 3, bytes(3)) + reply(7, 1)}, BadAnswer),
        ({"go": struct.pack(">QIII", REPLY, 7, 3, 1 << 31)}, BadAnswer),
        ({"go": reply(7, 3, b"\0\3" + bytes(12)) * 100}, BadAnswer),
        ({"hello": HELLO[:9]}, ConnectionError),
    ],
)
def test_a_greeting_that_is_none_is_refused(facts, kind):
    async def run():
        server = Server([], **facts)
        running = asyncio.create_task(server.run())
        if kind is ConnectionError:
            await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        try:
            async with asyncio.timeout(20):
                with pytest.raises(kind):
                    await Connection.open(server.ours, "disk", 20.0)
        finally:
            server.ours.close()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(run())


def test_what_is_not_in_the_export_is_not_asked_for():
    async def work(connection):
        for span in ((0, 0), (-1, 5), (0, SIZE + 1), (5, 4)):
            with pytest.raises(ValueError, match="cannot be read"):
                await connection.read(*span)
        return connection.export.size

    server = Server([])
    assert asyncio.run(session(server, work)) == SIZE
    assert server.asked == []
