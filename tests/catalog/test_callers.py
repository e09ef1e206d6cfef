"""What is known of other users: asked when they come, at each refresh, and never mixed up."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from nebfs.catalog import callers as room
from nebfs.catalog.callers import Callers
from nebfs.catalog.usable import Usable
from nebfs.errors import Busy, NebfsError, Refused, Unreachable, UserError
from nebfs.opennebula import Session

ME, ALICE, BOB = 1000, 60001, 60002


class World:
    """Sessions and a front-end that do as they are told."""

    def __init__(self) -> None:
        self.sessions = {ALICE: Session("alice", "a"), BOB: Session("bob", "b")}
        self.may: dict[str, object] = {"alice": 1, "bob": 2}
        self.takes = 0.1
        self.asked: list[str] = []
        self.before: list[Usable | None] = []
        self.at_once = self.most_at_once = 0

    async def session_of(self, uid: int) -> Session:
        await trio.lowlevel.checkpoint()
        if uid not in self.sessions:
            raise UserError(f"user {uid} has no session")
        return self.sessions[uid]

    async def ask(self, session: Session, before: Usable | None) -> Usable:
        self.asked.append(session.user)
        self.before.append(before)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        answer = self.may[session.user]
        try:
            await trio.sleep(self.takes)
        finally:
            self.at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return Usable({}, {}, float(answer))


@pytest.fixture
def world():
    return World()


@pytest.fixture
async def callers(world, nursery):
    made = Callers(
        world.session_of, world.ask, exempt={0, ME}, patience=5.0, timeout=20.0, now=lambda: 100.0
    )
    await nursery.start(made.run)
    return made


async def refresh(callers):
    callers.begin_refresh()
    await callers.refreshed()


async def of(callers, uid):
    return (await callers.of(uid)).taken


async def test_each_is_asked_about_once_with_his_own_session(autojump_clock, callers, world):
    async with trio.open_nursery() as together:
        for _ in range(3):
            together.start_soon(callers.of, ALICE)
            together.start_soon(callers.of, BOB)
    assert await of(callers, ALICE) == 1
    assert await of(callers, BOB) == 2
    assert sorted(world.asked) == ["alice", "bob"]
    assert [(f.uid, f.user, f.age, f.trouble) for f in callers.facts()] == [
        (ALICE, "alice", 99.0, ""),
        (BOB, "bob", 98.0, ""),
    ]


async def test_who_mounts_and_root_see_everything(autojump_clock, callers, world):
    assert await callers.of(0) is None
    assert await callers.of(ME) is None
    assert world.asked == []


async def test_a_refresh_asks_anew_about_all_who_are_known(autojump_clock, callers, world):
    await callers.of(ALICE)
    await callers.of(BOB)
    world.may = {"alice": 3, "bob": 4}
    await refresh(callers)
    assert (await of(callers, ALICE), await of(callers, BOB)) == (3, 4)
    assert sorted(before.taken for before in world.before[2:]) == [1, 2]


async def test_a_refresh_does_not_believe_an_answer_that_was_under_way(
    autojump_clock, callers, world, nursery
):
    await callers.of(ALICE)
    world.takes, world.may = 1.0, {"alice": 10}
    callers.begin_refresh()
    await trio.sleep(0.5)
    world.may = {"alice": 20}  # the right is changed while the front-end still writes its answer
    await refresh(callers)
    assert await of(callers, ALICE) == 20


@pytest.mark.parametrize("lost", ["session", "refused"])
async def test_who_loses_his_session_sees_nothing_from_the_next_refresh_on(
    autojump_clock, callers, world, lost
):
    await callers.of(ALICE)
    await callers.of(BOB)
    if lost == "session":
        del world.sessions[ALICE]
    else:
        world.may["alice"] = Refused("wrong password")
    await refresh(callers)
    with pytest.raises(Refused):
        await callers.of(ALICE)
    assert await of(callers, BOB) == 2
    assert [fact.uid for fact in callers.facts()] == [BOB]
    # And has it again.
    world.sessions[ALICE], world.may["alice"] = Session("alice", "new"), 5
    await refresh(callers)
    assert await of(callers, ALICE) == 5
    assert world.before[-1] is None, "what he could use before he was turned out does not count"


async def test_another_session_has_nothing_of_the_one_before(autojump_clock, callers, world):
    await callers.of(ALICE)
    world.sessions[ALICE] = world.sessions[BOB]
    await refresh(callers)
    assert await of(callers, ALICE) == 2
    assert world.before == [None, None]


async def test_why_somebody_sees_nothing_is_logged_once(autojump_clock, callers, world):
    with capture_logs() as log:
        for _ in range(5):
            with pytest.raises(Refused, match="has no session"):
                await callers.of(7)
            await trio.sleep(room.REFUSED_FOR + 1)
    assert [(e["event"], e["uid"]) for e in log] == [("callers.refused", 7)]
    assert world.asked == []


async def test_while_the_front_end_is_away_what_is_known_stays(autojump_clock, callers, world):
    await callers.of(ALICE)
    world.may = dict.fromkeys(world.may, Unreachable("no answer"))
    with capture_logs() as log:
        for _ in range(3):
            await refresh(callers)
    assert await of(callers, ALICE) == 1
    assert [fact.trouble for fact in callers.facts()] == ["no answer"]
    assert [(e["event"], e["age"]) for e in log] == [("callers.unanswered", "99 s")]
    # Of somebody who was never known nothing is, and he is told so: at once the second time.
    with pytest.raises(Unreachable):
        await callers.of(BOB)
    count = len(world.asked)
    with pytest.raises(Unreachable):
        await callers.of(BOB)
    assert len(world.asked) == count
    world.may = {"alice": 7, "bob": 8}
    await trio.sleep(room.REFUSED_FOR + 1)
    assert await of(callers, BOB) == 8


async def test_a_front_end_that_hangs_holds_nobody_longer_than_told(autojump_clock, callers, world):
    world.takes = 1e6
    began = trio.current_time()
    with pytest.raises(NebfsError, match="has not answered yet"):
        await callers.of(ALICE)
    assert trio.current_time() - began == pytest.approx(5.0)
    await trio.sleep(16)  # it ends by itself
    with pytest.raises(NebfsError, match="no answer in time"):
        await callers.of(ALICE)
    began = trio.current_time()
    await refresh(callers)
    assert trio.current_time() == began


async def test_an_answer_that_came_too_late_counts_for_the_next_call(
    autojump_clock, callers, world
):
    world.takes = 8.0
    with pytest.raises(NebfsError, match="has not answered yet"):
        await callers.of(ALICE)
    assert await of(callers, ALICE) == 1
    assert world.asked == ["alice"]


async def test_two_are_asked_about_at_once(autojump_clock, callers, world):
    for number in range(10):
        world.sessions[number + 10] = Session("alice", str(number))
    async with trio.open_nursery() as together:
        for number in range(10):
            together.start_soon(callers.of, number + 10)
    assert world.most_at_once == room.ASKED_AT_ONCE


async def test_as_many_are_known_as_told_and_who_came_last_stays(
    autojump_clock, callers, world, monkeypatch
):
    monkeypatch.setattr(room, "MOST", 2)
    world.sessions[9] = Session("alice", "c")
    for uid in (ALICE, BOB, ALICE, 9):
        await callers.of(uid)
        await trio.sleep(1)
    assert [fact.uid for fact in callers.facts()] == [9, ALICE]
    await callers.of(BOB)
    assert world.asked == ["alice", "bob", "alice", "bob"]


async def test_strangers_take_no_place_from_those_who_are_known(
    autojump_clock, callers, world, monkeypatch
):
    monkeypatch.setattr(room, "MOST", 1)
    await callers.of(ALICE)
    for uid in range(100, 300):
        with pytest.raises(Refused):
            await callers.of(uid)
    assert [fact.uid for fact in callers.facts()] == [ALICE]


async def test_so_many_wait_for_their_first_answer_and_no_more(
    autojump_clock, callers, world, monkeypatch
):
    monkeypatch.setattr(room, "MOST_COMING", 1)
    async with trio.open_nursery() as together:
        together.start_soon(callers.of, ALICE)
        await trio.sleep(0.01)
        with pytest.raises(Busy):
            await callers.of(BOB)
    assert await of(callers, BOB) == 2


async def test_who_does_not_come_any_more_is_forgotten(autojump_clock, callers, world):
    await callers.of(ALICE)
    await callers.of(BOB)
    await trio.sleep(room.IDLE - 10)
    await callers.of(BOB)
    await trio.sleep(20)
    await refresh(callers)
    assert [fact.uid for fact in callers.facts()] == [BOB]
    assert world.asked == ["alice", "bob", "bob"]


async def test_a_bug_costs_nobody_else_anything(autojump_clock, callers, world):
    await callers.of(BOB)
    world.may["alice"] = ZeroDivisionError()
    with capture_logs() as log, pytest.raises(NebfsError, match="its log has the details"):
        await callers.of(ALICE)
    assert log[0]["event"] == "callers.bug"
    await refresh(callers)
    assert await of(callers, BOB) == 2
