"""The control socket: questions, answers, and everything a client can do wrong."""

import json
import os
import socket
import stat
import threading

import pytest
import structlog
import trio

from nebfs.daemon import control, web
from nebfs.daemon.control import ask, follow, serve
from nebfs.daemon.web import as_json, as_lines
from nebfs.errors import (
    BadAnswer,
    Busy,
    Missing,
    NebfsError,
    Refused,
    TimedOut,
    Unreachable,
    UserError,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sock"


STOPPED = [trio.Event()]


async def echo(request):
    return as_json({"query": dict(request.query), "said": request.json()})


async def busy(request):
    raise Busy("not now", image=5)


async def missing(request):
    raise Missing("no such entry")


async def mistake(request):
    raise ZeroDivisionError("canary")


async def not_json(request):
    return as_json({"what": object()})


async def never(request):
    await trio.sleep_forever()


async def steps(request):
    async def made():
        try:
            for number in range(int(request.query.get("to", "3"))):
                yield {"n": number}
            if "then" in request.query:
                raise {"busy": Busy("not now"), "mistake": ZeroDivisionError("canary")}[
                    request.query["then"]
                ]
            if "for-ever" in request.query:
                await trio.sleep_forever()
        finally:
            STOPPED[0].set()

    return as_lines(made())


ROUTES = {
    ("GET", "/v1/echo"): echo,
    ("POST", "/v1/echo"): echo,
    ("GET", "/v1/busy"): busy,
    ("GET", "/v1/missing"): missing,
    ("GET", "/v1/mistake"): mistake,
    ("GET", "/v1/not-json"): not_json,
    ("GET", "/v1/never"): never,
    ("GET", "/v1/steps"): steps,
}
NOTHING = {"query": {}, "said": {}}


async def asked(path, where="/v1/echo", method="GET", within=20.0, **more):
    return await trio.to_thread.run_sync(
        lambda: ask(path, method, where, timeout=within, **more), abandon_on_cancel=True
    )


async def followed(path, **query):
    return await trio.to_thread.run_sync(
        lambda: list(follow(path, "GET", "/v1/steps", query=query, silence=20.0))
    )


async def said(path, raw):
    """Send `raw` as it is; return what comes back before the line is closed."""
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(raw)
        stream.socket.shutdown(socket.SHUT_WR)
        return b"".join([chunk async for chunk in stream])


async def test_a_question_is_answered(path, nursery):
    await nursery.start(serve, path, ROUTES)
    assert await asked(path, query={"path": "a b/\udcffä?&=", "empty": ""}) == {
        "query": {"path": "a b/\udcffä?&=", "empty": ""},
        "said": {},
    }
    assert await asked(path, method="POST", body={"n": [1, None], "text": "ä" * 700_000}) == {
        "query": {},
        "said": {"n": [1, None], "text": "ä" * 700_000},
    }


async def test_curl_may_ask(path, nursery):
    await nursery.start(serve, path, ROUTES)
    argv = ["curl", "-si", "--unix-socket", path, "http://nebfs/v1/echo?a=1", "-d", '{"b": 2}']
    done = await trio.run_process(argv, capture_stdout=True)
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200")
    assert json.loads(body) == {"query": {"a": "1"}, "said": {"b": 2}}
    argv = ["curl", "-sI", "--unix-socket", path, "http://nebfs/v1/echo"]
    done = await trio.run_process(argv, capture_stdout=True)
    assert b"content-length" in done.stdout.lower()


async def test_what_goes_on_for_a_while_comes_as_it_is_made(path, nursery):
    await nursery.start(serve, path, ROUTES)
    assert await followed(path) == [{"n": 0}, {"n": 1}, {"n": 2}]
    with pytest.raises(Busy, match="not now"):
        await followed(path, then="busy")
    with structlog.testing.capture_logs(), pytest.raises(NebfsError, match="its log says why"):
        await followed(path, then="mistake")


async def test_whoever_stops_listening_stops_what_goes_on(path, nursery):
    ended = STOPPED[0] = trio.Event()
    await nursery.start(serve, path, ROUTES)

    def one():
        for answer in follow(path, "GET", "/v1/steps", query={"for-ever": ""}, silence=20.0):
            if answer["n"] == 2:
                return

    await trio.to_thread.run_sync(one)
    with trio.fail_after(10):
        await ended.wait()


async def test_only_the_owner_may_ask(path, nursery):
    await nursery.start(serve, path, ROUTES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_socket_is_gone_with_the_server(path, nursery):
    async with trio.open_nursery() as inner:
        await inner.start(serve, path, ROUTES)
        assert path.exists()
        inner.cancel_scope.cancel()
    assert not path.exists()


async def test_a_socket_that_a_killed_daemon_left_is_replaced(path, nursery):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    await nursery.start(serve, path, ROUTES)
    assert await asked(path) == NOTHING


async def test_a_file_in_place_of_the_socket_is_not_removed(path, nursery):
    path.write_text("precious")
    with pytest.RaisesGroup(UserError) as caught:
        async with trio.open_nursery() as inner:
            await inner.start(serve, path, ROUTES)
    assert "cannot be made" in str(caught.value.exceptions[0])
    assert path.read_text() == "precious"


async def test_a_run_directory_with_a_name_too_long_for_a_socket(tmp_path, nursery):
    path = tmp_path / ("x" * 110) / "s.sock"
    path.parent.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    await nursery.start(serve, path, ROUTES)
    assert await asked(path) == NOTHING
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "only the listening socket stays open"


@pytest.mark.parametrize(
    ("raw", "status", "words"),
    [
        (b"x\n\n", 400, ""),
        (b"\xff\r\n\r\n", 400, ""),
        (b"GET /v1/echo HTTP/1.1\r\nHost: a\r\nx: " + b"y" * (2 * web.LONGEST_HEAD), 431, ""),
        (b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404, "does not know"),
        (b"DELETE /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n", 405, "GET or POST"),
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]", 400, "object"),
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n{", 400, "JSON"),
        (b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{", 400, ""),
        (
            b"POST /v1/echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
            % (web.LONGEST_BODY + 1, b"x" * (web.LONGEST_BODY + 1)),
            400,
            "at most",
        ),
    ],
    ids=["words", "bytes", "head", "path", "method", "list", "broken", "cut off", "long"],
)
async def test_what_is_no_question_is_told_so(path, nursery, raw, status, words):
    await nursery.start(serve, path, ROUTES)
    head, _, body = (await said(path, raw)).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert words in json.loads(body)["error"]
    assert await asked(path) == NOTHING


async def test_a_probe_that_says_nothing_hears_nothing(path, nursery):
    await nursery.start(serve, path, ROUTES)
    assert await said(path, b"") == b""


async def test_failures_are_answered_and_the_server_lives(path, nursery):
    await nursery.start(serve, path, ROUTES)
    with pytest.raises(Busy, match=r"not now \(image=5\)"):
        await asked(path, "/v1/busy")
    with pytest.raises(Missing):
        await asked(path, "/v1/missing")
    with structlog.testing.capture_logs() as events:
        for where in ("/v1/mistake", "/v1/not-json"):
            with pytest.raises(NebfsError, match="its log says why") as caught:
                await asked(path, where)
            assert "canary" not in str(caught.value)
    assert [one["event"] for one in events] == ["control_answer_failed"] * 2
    assert await asked(path) == NOTHING


async def test_a_client_that_leaves_early_harms_nobody(path, nursery):
    await nursery.start(serve, path, ROUTES)
    for _ in range(3):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b"GET /v1/echo HTTP/1.1\r\nHost: a\r\n\r\n")
        await stream.aclose()
    assert await asked(path) == NOTHING


async def test_a_client_that_hangs_is_let_go(path, nursery, autojump_clock):
    await nursery.start(serve, path, ROUTES)
    stream = await trio.open_unix_socket(path)
    async with stream:
        assert await stream.receive_some() == b""
    assert trio.current_time() >= 30


async def test_a_client_that_takes_no_answer_is_let_go(path, nursery, autojump_clock):
    ended = STOPPED[0] = trio.Event()
    await nursery.start(serve, path, ROUTES)
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(b"GET /v1/steps?to=1000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        await ended.wait()
    assert trio.current_time() >= 30


async def test_many_clients_at_once(path, nursery):
    await nursery.start(serve, path, ROUTES)
    replies = []

    async def one(number):
        replies.append(await asked(path, query={"n": str(number)}))

    async with trio.open_nursery() as clients:
        for number in range(3 * control.CONVERSATIONS):
            clients.start_soon(one, number)
    numbers = sorted(int(reply["query"]["n"]) for reply in replies)
    assert numbers == list(range(3 * control.CONVERSATIONS))


async def test_a_daemon_that_does_not_answer_in_time(path, nursery):
    await nursery.start(serve, path, ROUTES)
    with pytest.raises(TimedOut):
        await asked(path, "/v1/never", within=0.05)


async def test_a_name_that_somebody_else_gave_us_is_refused(nursery):
    """DNS rebinding: a page in a browser that has its own name point at this machine."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def one(stream):
        async with stream:
            await web.converse(
                stream, ROUTES, patience=5, hosts=frozenset({"127.0.0.1", "localhost", "::1"})
            )

    nursery.start_soon(trio.serve_listeners, one, listeners)
    for host, status in (
        (f"127.0.0.1:{port}", b"200"),
        ("localhost", b"200"),
        ("[::1]:80", b"200"),
        ("evil.example", b"403"),
        ("", b"403"),
    ):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /v1/echo HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode())
            answer = b"".join([chunk async for chunk in stream])
        assert answer.split()[1] == status, host


def test_nobody_listens(path):
    with pytest.raises(Unreachable):
        ask(path, "GET", "/", timeout=1.0)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(Unreachable):
        ask(path, "GET", "/", timeout=1.0)
    with pytest.raises(Unreachable):
        ask(path.with_name("x" * 120), "GET", "/", timeout=1.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_daemon_may_not_be_asked(path):
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(Refused, match="only the user who mounted may ask its daemon, and"):
                ask(path, "GET", "/", timeout=1.0)
        finally:
            os.seteuid(0)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"x\n",
        OK + b"\r\n[]",
        OK + b"\r\n{",
        OK + b"Content-Length: 9\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
    ],
)
def test_a_daemon_that_answers_nonsense(path, raw):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def answer_once():
            line, _ = listening.accept()
            with line:
                line.recv(1000)
                line.sendall(raw)

        thread = threading.Thread(target=answer_once)
        thread.start()
        with pytest.raises(BadAnswer):
            ask(path, "GET", "/", timeout=10.0)
        thread.join()
    assert os.path.exists(path)
