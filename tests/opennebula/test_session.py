from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest

from nebfs.errors import UserError
from nebfs.opennebula import Session, find_endpoint, find_session, parse_session


@pytest.fixture
def places(tmp_path):
    """A home and a system directory, each with a one_auth and a one_endpoint."""
    home, system = tmp_path / "home", tmp_path / "system"
    (home / ".one").mkdir(parents=True)
    system.mkdir()
    (home / ".one" / "one_auth").write_text("homer:doh\n")
    (home / ".one" / "one_endpoint").write_text("http://home:2633/RPC2\n")
    (system / "one_auth").write_text("oneadmin:sys\n")
    (system / "one_endpoint").write_text("http://system:2633/RPC2 \n")
    return home, system


def test_the_session_is_looked_for_in_the_order_of_opennebulas_tools(places, tmp_path):
    home, system = places
    named, given = tmp_path / "named", tmp_path / "given"
    named.write_text("named:n\n")
    given.write_text("given:g\n")
    environ = {"ONE_AUTH": str(named)}

    assert find_session(environ, home, path=given, system=system).user == "given"
    assert find_session(environ, home, system=system).user == "named"
    assert find_session({"ONE_AUTH": ""}, home, system=system).user == "homer"
    (home / ".one" / "one_auth").unlink()
    assert find_session({}, home, system=system).user == "oneadmin"
    (system / "one_auth").unlink()
    with pytest.raises(UserError, match=r"one_auth.*mode 0600.*ONE_AUTH"):
        find_session({}, home, system=system)


def test_a_session_is_the_first_line_split_at_its_first_colon(places):
    home, system = places
    (home / ".one" / "one_auth").write_text("serveradmin:alice:to:ken \t\r\nsecond:line\n")
    session = find_session({}, home, system=system)
    assert (session.user, session.secret) == ("serveradmin", "alice:to:ken")
    assert session.text == "serveradmin:alice:to:ken"


def test_a_session_shows_no_secret_and_cannot_be_changed():
    session = Session("alice", "canary")
    assert "canary" not in f"{session!r} {session}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        session.user = "bob"


@pytest.mark.parametrize("line", ["", "canary", ":canary", "canary:", " \n a:b"])
def test_a_malformed_session_is_named_by_its_file_and_not_shown(tmp_path, line):
    path = tmp_path / "auth"
    path.write_text(line)
    with pytest.raises(UserError) as caught:
        find_session({}, tmp_path, path=path)
    assert str(path) in str(caught.value)
    assert "USER:PASSWORD" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_parse_session_names_where_the_text_came_from():
    with pytest.raises(UserError, match="the option --session"):
        parse_session("nothing", "the option --session")


def test_a_named_session_file_that_is_missing_is_not_replaced_by_another_user(places, tmp_path):
    home, system = places
    gone = tmp_path / "gone"
    with pytest.raises(UserError, match=r"gone.*ONE_AUTH.*does not exist"):
        find_session({"ONE_AUTH": str(gone)}, home, system=system)
    with pytest.raises(UserError, match="gone does not exist"):
        find_session({}, home, path=gone, system=system)


def test_unusable_session_files_say_which_and_why(tmp_path):
    directory, binary, huge = tmp_path / "directory", tmp_path / "binary", tmp_path / "huge"
    directory.mkdir()
    binary.write_bytes(b"alice:\xff\xfe\n")
    huge.write_bytes(b"x" * 100_000)
    for path, words in ((directory, "directory"), (binary, "UTF-8"), (huge, "too large")):
        with pytest.raises(UserError, match=words) as caught:
            find_session({}, tmp_path, path=path)
        assert str(path) in str(caught.value)


def test_an_unreadable_file_of_ones_own_is_an_error_and_oneadmins_is_not(places, monkeypatch):
    home, system = places
    closed = {home / ".one" / "one_auth"}
    real = Path.open

    def guarded(self, *args, **kwargs):
        if self in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)  # tests may run as root, who is refused nothing
    with pytest.raises(UserError, match=r"cannot read .*home.*owner and mode"):
        find_session({}, home, system=system)
    (home / ".one" / "one_auth").unlink()
    closed.clear()
    closed.add(system / "one_auth")
    with pytest.raises(UserError, match="no OpenNebula session found"):
        find_session({}, home, system=system)


def test_the_endpoint_is_looked_for_in_the_order_of_opennebulas_tools(places):
    home, system = places
    environ = {"ONE_XMLRPC": "https://env/RPC2"}
    assert find_endpoint(environ, home, explicit="http://x:1/RPC2", system=system) == (
        "http://x:1/RPC2"
    )
    assert find_endpoint(environ, home, system=system) == "https://env/RPC2"
    assert find_endpoint({}, home, system=system) == "http://home:2633/RPC2"
    (home / ".one" / "one_endpoint").unlink()
    assert find_endpoint({}, home, system=system) == "http://system:2633/RPC2"
    (system / "one_endpoint").unlink()
    assert find_endpoint({}, home, system=system) == "http://localhost:2633/RPC2"


@pytest.mark.parametrize(
    "text",
    [
        "one.example.com:2633",
        "ftp://one/RPC2",
        "http://",
        "http://:2633/",
        "http://one:port/",
        "http://[::1/RPC2",
        "//u:canary@one/RPC2",
        "u:canary@one:2633/RPC2",
    ],
)
def test_an_endpoint_that_is_no_url_is_refused_without_showing_a_password(tmp_path, text):
    with pytest.raises(UserError, match=r"ONE_XMLRPC.*such as http") as caught:
        find_endpoint({"ONE_XMLRPC": text}, tmp_path)
    assert "canary" not in str(caught.value)
