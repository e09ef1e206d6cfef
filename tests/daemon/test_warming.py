"""What is asked of a daemon that brings images, and what cannot fit."""

import types

import pytest

from nebfs.daemon.finding import File
from nebfs.daemon.warming import Work, _Wanted, paths_in, rate_in
from nebfs.errors import UserError
from nebfs.model import Content, Locator, Revision


def wanted(url, size):
    return _Wanted(url, (File(Content(Locator("http", url)), Revision(size, '"1"')),), [0])


def test_what_cannot_fit_is_refused_and_the_same_file_counts_once():
    house = types.SimpleNamespace(store=types.SimpleNamespace(room=lambda _: 100, limit=200))
    work = Work(house, None)
    work._images = [wanted("a", 60), wanted("a", 60), wanted("b", 40)]
    work._check_room()
    work._images.append(wanted("c", 1))
    with pytest.raises(UserError, match="has room for 100 B at most"):
        work._check_room()


@pytest.mark.parametrize("paths", [None, [], "a", [1], [None], {"a": 1}])
def test_paths_are_a_list_of_texts(paths):
    with pytest.raises(UserError, match="at least one path"):
        paths_in({"paths": paths})


def test_the_rate_is_a_number_of_bytes():
    assert rate_in({}) is None
    assert rate_in({"rate": 5000}) == 5000.0
    for odd in ("fast", 0, -1, [], float("nan")):
        with pytest.raises(UserError, match="bytes per second"):
            rate_in({"rate": odd})
