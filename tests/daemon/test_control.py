"""The control socket: questions, answers, and everything a client can do wrong."""

import json
import os
import socket
import stat
import threading

import pytest
import structlog
import trio

from nebfs.daemon import control
from nebfs.daemon.control import ask, serve
from nebfs.errors import BadAnswer, Busy, TimedOut, Unreachable, UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.sock"


async def answer(question):
    match question.get("command"):
        case "echo":
            return question
        case "busy":
            raise Busy("not now", image=5)
        case "mistake":
            raise ZeroDivisionError("canary")
        case "not json":
            return {"what": object()}
        case "never":
            await trio.sleep_forever()
    return {}


async def asked(path, question, patience=20.0):
    return await trio.to_thread.run_sync(ask, path, question, patience)


async def said(path, raw):
    """Send `raw` as it is; return what comes back before the line is closed."""
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(raw)
        stream.socket.shutdown(socket.SHUT_WR)
        return b"".join([chunk async for chunk in stream])


async def test_a_question_is_answered(path, nursery):
    await nursery.start(serve, path, answer)
    question = {"command": "echo", "text": "ä" * 70000}
    assert (await asked(path, {"command": "echo", "n": [1, None]})) == {
        "command": "echo",
        "n": [1, None],
    }
    assert "at most" in (await asked(path, question))["error"]


async def test_only_the_owner_may_ask(path, nursery):
    await nursery.start(serve, path, answer)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_socket_is_gone_with_the_server(path, nursery):
    async with trio.open_nursery() as inner:
        await inner.start(serve, path, answer)
        assert path.exists()
        inner.cancel_scope.cancel()
    assert not path.exists()


async def test_a_socket_that_a_killed_daemon_left_is_replaced(path, nursery):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    await nursery.start(serve, path, answer)
    assert await asked(path, {"command": "echo"}) == {"command": "echo"}


async def test_a_file_in_place_of_the_socket_is_not_removed(path, nursery):
    path.write_text("precious")
    with pytest.RaisesGroup(UserError) as caught:
        async with trio.open_nursery() as inner:
            await inner.start(serve, path, answer)
    assert "cannot be made" in str(caught.value.exceptions[0])
    assert path.read_text() == "precious"


async def test_a_run_directory_with_a_name_too_long_for_a_socket(tmp_path, nursery):
    path = tmp_path / ("x" * 110) / "s.sock"
    path.parent.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    await nursery.start(serve, path, answer)
    assert await asked(path, {"command": "echo"}) == {"command": "echo"}
    assert len(os.listdir("/proc/self/fd")) <= before + 1, "only the listening socket stays open"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{\n", "not JSON"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 50000 + b"\n", "not JSON"),
        (b"\xff\n", "not JSON"),
        (b"{}", "one line"),
        (b"x" * (control.LONGEST_QUESTION + 1), "one line"),
    ],
)
async def test_what_is_no_question_is_told_so(path, nursery, raw, words):
    await nursery.start(serve, path, answer)
    assert words in json.loads(await said(path, raw))["error"]
    assert await asked(path, {"command": "echo"}) == {"command": "echo"}


async def test_a_probe_that_says_nothing_hears_nothing(path, nursery):
    await nursery.start(serve, path, answer)
    assert await said(path, b"") == b""


async def test_failures_are_answered_and_the_server_lives(path, nursery):
    await nursery.start(serve, path, answer)
    assert await asked(path, {"command": "busy"}) == {"error": "not now (image=5)"}
    with structlog.testing.capture_logs() as events:
        for command in ("mistake", "not json"):
            reply = await asked(path, {"command": command})
            assert "its log says why" in reply["error"]
            assert "canary" not in reply["error"]
    assert [one["event"] for one in events] == ["control_answer_failed"] * 2
    assert await asked(path, {"command": "echo"}) == {"command": "echo"}


async def test_a_client_that_leaves_early_harms_nobody(path, nursery):
    await nursery.start(serve, path, answer)
    for _ in range(3):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b'{"command": "echo"}\n')
        await stream.aclose()
    assert await asked(path, {"command": "echo"}) == {"command": "echo"}


async def test_a_client_that_hangs_is_let_go(path, nursery, autojump_clock):
    await nursery.start(serve, path, answer)
    stream = await trio.open_unix_socket(path)
    async with stream:
        with structlog.testing.capture_logs() as events:
            assert await stream.receive_some() == b""
    assert trio.current_time() >= 30
    assert events[0]["event"] == "control_timed_out"


async def test_many_clients_at_once(path, nursery):
    await nursery.start(serve, path, answer)
    replies = []

    async def one(number):
        replies.append(await asked(path, {"command": "echo", "n": number}))

    async with trio.open_nursery() as clients:
        for number in range(3 * control.CONVERSATIONS):
            clients.start_soon(one, number)
    assert sorted(reply["n"] for reply in replies) == list(range(3 * control.CONVERSATIONS))


async def test_a_daemon_that_does_not_answer_in_time(path, nursery):
    await nursery.start(serve, path, answer)
    with pytest.raises(TimedOut):
        await asked(path, {"command": "never"}, patience=0.05)


def test_nobody_listens(path):
    with pytest.raises(Unreachable):
        ask(path, {}, 1.0)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(Unreachable):
        ask(path, {}, 1.0)
    with pytest.raises(Unreachable):
        ask(path.with_name("x" * 120), {}, 1.0)


@pytest.mark.parametrize("raw", [b"", b"{}", b"x\n", b"[]\n"])
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
            ask(path, {}, 10.0)
        thread.join()
    assert os.path.exists(path)
