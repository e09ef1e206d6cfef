"""Where other users' sessions are found, and when it is asked what they may use."""

from __future__ import annotations

import math
import os
import pwd
import threading
from types import SimpleNamespace

import pytest
import trio

from nebfs.config import load
from nebfs.daemon.callers import callers_of, with_callers
from nebfs.daemon.credentials import session_of_user
from nebfs.errors import NebfsError, Unreachable, UserError
from nebfs.fetcher.messages import CallAnswer
from nebfs.opennebula import Caller, Session
from tests.opennebula.conftest import failed

ALICE, BOB = 60001, 60002


@pytest.fixture
def settings(tmp_path):
    def made(text):
        (tmp_path / "s.toml").write_text(f'allow_other = true\nothers = "sessions"\n{text}')
        return load(tmp_path / "s.toml", {})

    return made


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home of alice, whom this machine knows, as it does not know bob."""
    (tmp_path / "home/.one").mkdir(parents=True)

    def getpwuid(uid):
        if uid != ALICE:
            raise KeyError(uid)
        return SimpleNamespace(pw_dir=str(tmp_path / "home"))

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    return tmp_path / "home"


def written(path, text, uid):
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, uid, uid)


def test_the_table_comes_before_the_home(settings, home, tmp_path):
    written(tmp_path / "given", "given:x\n", ALICE)
    written(home / ".one/one_auth", "own:x\n", ALICE)
    both = settings(f'users.home_sessions = true\nusers.sessions.{ALICE} = "{tmp_path}/given"\n')
    assert session_of_user(both, ALICE).user == "given"
    assert session_of_user(settings("users.home_sessions = true\n"), ALICE).user == "own"
    (tmp_path / "given").unlink()
    with pytest.raises(UserError, match="there is no session file"):
        session_of_user(both, ALICE)


def test_who_has_none_is_told_why(settings, home):
    table = settings(f'users.sessions.{BOB} = "/etc/none"\n')
    with pytest.raises(UserError, match=f"user {ALICE} is not in the table"):
        session_of_user(table, ALICE)
    homes = settings("users.home_sessions = true\n")
    with pytest.raises(UserError, match="is not known to this machine"):
        session_of_user(homes, BOB)
    written(home / ".one/one_auth", "oneadmin:x\n", 0)
    with pytest.raises(UserError, match="belongs to user 0"):
        session_of_user(homes, ALICE)


async def test_questions_go_with_the_users_session_and_take_the_mounts_turns(
    settings, home, nursery
):
    written(home / ".one/one_auth", "alice:canary\n", ALICE)
    asked, at_once = [], []

    async def call(request):
        at_once.append(caller._in_flight.borrowed_tokens)
        asked.append(request.body)
        return CallAnswer(200, (), failed(256, "[x] User couldn't be authenticated"))

    caller = Caller(call, "http://h/RPC2", Session("oneadmin", "root"), connections=2)
    callers = callers_of(settings("users.home_sessions = true\n"), caller)
    await nursery.start(callers.run)
    with pytest.raises(NebfsError, match="authenticated"):
        await callers.of(ALICE)
    assert asked
    assert all(b"alice:canary" in body and b"oneadmin" not in body for body in asked)
    assert max(at_once) <= 2


async def test_a_home_that_does_not_answer_takes_one_thread(settings, monkeypatch, nursery):
    stuck, entered = threading.Event(), []

    def getpwuid(uid):
        entered.append(uid)
        stuck.wait(30)
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    made = settings('users.home_sessions = true\nlisting_deadline = "0.05s"\n')
    callers = callers_of(made, Caller(None, "http://h/", Session("a", "b")))
    await nursery.start(callers.run)
    try:
        with pytest.raises(NebfsError, match="not answered yet"):
            await callers.of(ALICE)
        await trio.sleep(0.1)  # until the question is given up: its thread has a clock of its own
        callers.begin_refresh()
        with pytest.raises(Unreachable, match="does the user's home answer"):
            await callers.of(ALICE)
        assert entered == [ALICE]
    finally:
        stuck.set()


def test_without_the_setting_there_is_nobody_to_ask():
    assert callers_of(load(None, {}), Caller(None, "http://h/", Session("a", "b"))) is None


async def test_a_survey_asks_about_everybody_and_does_not_fail_with_them():
    log, patiences = [], []

    class Callers:
        def begin_refresh(self):
            log.append("begun")

        async def refreshed(self):
            log.append("refreshed")

    async def survey(previous, only=None, *, patience):
        log.append("surveyed")
        patiences.append(patience)
        if previous == "away":
            raise Unreachable("no answer")
        return "lists"

    both = with_callers(survey, Callers())
    assert await both(None) == "lists"
    assert log == ["begun", "surveyed", "refreshed"]
    with pytest.raises(Unreachable):
        await both("away", patience=3.0)
    assert patiences == [math.inf, 3.0]
    assert log[3:] == ["begun", "surveyed", "refreshed"]
    assert with_callers(survey, None) is survey
