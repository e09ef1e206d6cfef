"""The tree of failures keeps what it promises: errno, temporary, facts, and safe texts."""

import errno
import inspect
import pickle

import pytest

from nebfs import errors
from nebfs.errors import KINDS, Bug, NebfsError, Unreachable, UserError


def kinds():
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, NebfsError) and kind is not NebfsError
    ]


@pytest.mark.parametrize("kind", kinds())
def test_each_kind_is_in_the_drawing_with_its_errno(kind):
    lines = [line for line in errors.__doc__.splitlines() if f"-- {kind.__name__} " in line]
    assert len(lines) == 1
    assert errno.errorcode[kind.errno].replace("ENOTSUP", "EOPNOTSUPP") in lines[0]
    assert ("temporary" in lines[0]) == kind.temporary


def test_all_but_the_users_and_our_own_mistakes_may_cross_the_process_border():
    assert set(KINDS.values()) == set(kinds()) - {Bug, UserError}
    assert all(KINDS[kind.__name__] is kind for kind in KINDS.values())


def test_facts_are_shown_after_the_message():
    failure = Unreachable("no answer", url="http://h/", after=3)
    assert str(failure) == "no answer (url=http://h/, after=3)"
    assert failure.message == "no answer"
    assert failure.facts == {"url": "http://h/", "after": 3}
    assert str(Unreachable("no answer")) == "no answer"


def test_what_another_side_asked_us_to_wait_is_no_fact():
    failure = Unreachable("busy", retry_after=5.0)
    assert failure.retry_after == 5.0
    assert str(failure) == "busy"


def test_levels_are_known():
    assert {kind.level for kind in kinds()} <= {"debug", "info", "warning", "error"}


def test_a_users_mistake_has_an_exit_code():
    assert UserError("no such directory").exit_code == 1
    assert UserError("bad option", exit_code=2).exit_code == 2


@pytest.mark.parametrize("kind", KINDS.values())
def test_failures_survive_copying(kind):
    assert str(pickle.loads(pickle.dumps(kind("why")))) == "why"
