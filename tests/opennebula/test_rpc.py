from __future__ import annotations

import threading
import xmlrpc.client

import pytest
import structlog
import trio

from nebfs.errors import BadAnswer, FetcherDied, TimedOut, Unreachable
from nebfs.fetcher.messages import CallAnswer
from nebfs.opennebula import (
    BadCall,
    Caller,
    Electing,
    NotAnEndpoint,
    NotAuthenticated,
    Session,
)
from nebfs.opennebula.rpc import ATTEMPTS, INLINE_LIMIT, LONGEST_PAUSE


def same(value):
    return value


class Line:
    """Answers in turn: a body, an answer, or an exception; the last one for ever."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    async def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await trio.lowlevel.checkpoint()
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, CallAnswer) else CallAnswer(200, (), answer)


async def test_a_call_is_one_post_with_the_session_in_front(kit):
    line = Line(kit.success("7.4.0"))
    assert await kit.caller(line, timeout=12).read(same, "one.system.version", 1, False) == "7.4.0"
    (request,) = line.requests
    assert (request.method, request.url, request.timeout) == ("POST", kit.endpoint, 12)
    assert ("Content-Type", "text/xml") in request.headers
    sent, method = xmlrpc.client.loads(request.body)
    assert (sent, method) == ((f"oneadmin:{kit.secret}", 1, False), "one.system.version")
    assert kit.secret not in repr(request)


async def test_never_more_requests_at_once_than_connections(kit):
    now = most = 0

    async def call(request):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.testing.wait_all_tasks_blocked()
        now -= 1
        return CallAnswer(200, (), kit.success("x"))

    caller = kit.caller(call)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(caller.read, same, "one.system.version")
    assert most == 2


@pytest.mark.parametrize("size", [10, INLINE_LIMIT + 1])
async def test_only_big_answers_are_decoded_in_a_worker_thread(kit, size):
    where = await kit.caller(Line(kit.success("x" * size))).read(
        lambda value: threading.current_thread(), "one.imagepool.info"
    )
    assert (where is threading.current_thread()) == (size < INLINE_LIMIT)


@pytest.mark.parametrize(
    "error",
    [Unreachable("refused"), BadAnswer("cut off"), FetcherDied("died"), CallAnswer(502, (), b"")],
    ids=lambda error: getattr(error, "message", "HTTP 502"),
)
async def test_temporary_failures_are_tried_three_times(kit, autojump_clock, error):
    line = Line(error, error, kit.success("back"))
    assert await kit.caller(line).read(same, "one.system.version") == "back"
    assert len(line.requests) == ATTEMPTS == 3

    line = Line(error)
    with pytest.raises((Unreachable, BadAnswer, FetcherDied)):
        await kit.caller(line).read(same, "one.system.version")
    assert len(line.requests) == ATTEMPTS


async def test_an_election_is_waited_for(kit, autojump_clock):
    election = kit.failed(0x2000, "Cannot process request, in election mode")
    assert await kit.caller(Line(election, kit.success("ok"))).read(same, "one.user.info") == "ok"
    with pytest.raises(Electing):
        await kit.caller(Line(election)).read(same, "one.user.info")


async def test_lasting_failures_are_not_tried_again(kit, autojump_clock):
    for error, kind in (
        (kit.failed(0x100, "User couldn't be authenticated, aborting call."), NotAuthenticated),
        (kit.failed(0x1000, "Incorrect filter_flag"), BadCall),
        (TimedOut("deadline"), TimedOut),
        (CallAnswer(404, (), b"<html>"), NotAnEndpoint),
    ):
        line = Line(error)
        with pytest.raises(kind):
            await kit.caller(line).read(same, "one.system.version")
        assert len(line.requests) == 1


async def test_once_tries_once(kit, autojump_clock):
    line = Line(Unreachable("refused"))
    with pytest.raises(Unreachable):
        await kit.caller(line).once(same, "one.image.rename", 1, "new")
    assert len(line.requests) == 1


@pytest.mark.parametrize(("asked", "waited"), [("2", 2.0), ("86400", LONGEST_PAUSE)])
async def test_the_other_sides_retry_after_is_kept_within_a_bound(
    kit, autojump_clock, asked, waited
):
    busy = CallAnswer(503, (("retry-after", asked),), b"")
    started = trio.current_time()
    await kit.caller(Line(busy, kit.success("ok"))).read(same, "one.system.version")
    assert trio.current_time() - started == pytest.approx(waited)


async def test_a_retry_after_date_is_ignored(kit, autojump_clock):
    busy = CallAnswer(503, (("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"),), b"")
    with pytest.raises(BadAnswer) as caught:
        await kit.caller(Line(busy)).once(same, "one.system.version")
    assert caught.value.retry_after is None


async def test_a_call_that_never_answers_ends(kit, autojump_clock):
    async def silent(request):
        await trio.sleep_forever()

    with pytest.raises(Unreachable, match="did not answer in time"):
        await kit.caller(silent, timeout=30).once(same, "one.system.version")
    assert trio.current_time() < 3600


async def test_an_http_404_asks_whether_this_is_the_endpoint(kit):
    caller = Caller(
        Line(CallAnswer(404, (), b"")), "http://u:canary@one:2633/", Session("a", "canary")
    )
    with pytest.raises(BadAnswer, match=r"HTTP 404.*usually ends in /RPC2") as caught:
        await caller.read(same, "one.system.version")
    assert "canary" not in f"{caught.value} {caught.value.facts}"


async def test_no_secret_is_in_errors_or_logs(kit, autojump_clock):
    with structlog.testing.capture_logs() as logs:
        for body in (
            kit.failed(0x100, f"no user oneadmin:{kit.secret}"),
            kit.fault(-500, f"{kit.secret}"),
            kit.failed(0x2000, f"{kit.secret} in election mode"),
            b"<html>" + kit.secret.encode(),
        ):
            with pytest.raises(Exception) as caught:
                await kit.caller(Line(body)).read(same, "one.system.version")
            assert kit.secret not in f"{caught.value} {caught.value!r} {vars(caught.value)}"
    assert logs
    assert kit.secret not in repr(logs)
