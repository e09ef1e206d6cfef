from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nebfs.datastores.places import PathMap, is_inside, plain


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/one//datastores/1/abc", "/var/lib/one/datastores/1/abc"),
        ("//var///lib/", "/var/lib"),
        ("/a/./b/../c", "/a/c"),
        ("/../../etc", "/etc"),
        ("/", "/"),
        ("dummy_path", ""),
        ("", ""),
        ("-", ""),
        ("/a\0b", ""),
    ],
)
def test_plain(path, expected):
    assert plain(path) == expected


@given(st.text(alphabet="/.ab", max_size=30))
def test_a_plain_path_has_nothing_left_to_resolve(text):
    path = plain(f"/{text}")
    assert posixpath.normpath(path) == path
    assert not path.startswith("//")
    assert ".." not in path.split("/")


def test_inside_means_below_and_not_beside():
    assert is_inside("/ds/1/a", "/ds/1")
    assert is_inside("/ds/1/a/b", "/ds/1")
    assert not is_inside("/ds/1", "/ds/1")
    assert not is_inside("/ds/10/a", "/ds/1")
    assert is_inside("/a", "/")
    assert not is_inside("/", "/")


def test_the_longest_prefix_wins_and_stops_at_a_slash():
    paths = PathMap(
        {
            "/var/lib/one//datastores": "/mnt/all/",
            "/var/lib/one/datastores/1": "/mnt/first",
            "/": "/elsewhere",
        }
    )
    assert paths.local("/var/lib/one/datastores/1/x") == "/mnt/first/x"
    assert paths.local("/var/lib/one/datastores/1") == "/mnt/first"
    assert paths.local("/var/lib/one/datastores/10/x") == "/mnt/all/10/x"
    assert paths.local("/etc/shadow") == "/elsewhere/etc/shadow"
    assert PathMap({}).local("/a/b") == "/a/b"
    assert PathMap({"relative": "/x", "/x": "relative"}).local("/x/y") == "/x/y"
