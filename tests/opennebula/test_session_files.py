"""Sessions that a daemon reads for other users: nobody has it read what is not his."""

import os
import tempfile
from pathlib import Path

import pytest

from nebfs.errors import UserError
from nebfs.opennebula import given_session, own_session

ALICE, BOB = 60001, 60002
TRUSTED = {0, os.geteuid()}


@pytest.fixture
def way():
    """A directory that only root can change, with nothing above it that others can."""
    with tempfile.TemporaryDirectory(prefix="nebfs-", dir="/run") as made:
        yield Path(made)


def written(path, text="alice:secret\n", *, uid=0, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, uid, uid)
    return path


def test_the_administrators_file_and_the_users_own_count(way):
    assert given_session(written(way / "a"), ALICE, TRUSTED).text == "alice:secret"
    assert given_session(written(way / "b", uid=ALICE), ALICE, TRUSTED).user == "alice"
    assert given_session(written(way / "c", mode=0o640), ALICE, TRUSTED).user == "alice"
    home = way / "home"
    written(home / ".one/one_auth", "alice:a:b\nmore\n", uid=ALICE)
    assert own_session(home, ALICE).secret == "a:b"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o666, 0o601])
def test_a_file_that_is_open_to_others_does_not_count(way, mode):
    path = written(way / "a", mode=mode)
    with pytest.raises(UserError, match=f"{path} is open to others .mode {mode:04o}.*chmod 600"):
        given_session(path, ALICE, TRUSTED)


def test_another_users_file_does_not_count(way):
    path = written(way / "a", uid=BOB)
    with pytest.raises(UserError, match=f"belongs to user {BOB}.*give it to user 0 or {ALICE}"):
        given_session(path, ALICE, TRUSTED)
    home = way / "home"
    for uid in (0, BOB):
        written(home / ".one/one_auth", uid=uid)
        with pytest.raises(UserError, match=f"belongs to user {uid}.*give it to user {ALICE}"):
            own_session(home, ALICE)


def test_a_link_does_not_make_it_read_what_the_user_could_not(way):
    secret = written(way / "root/one_auth", "oneadmin:secret\n")
    home = way / "home"
    home.mkdir()
    (home / ".one").mkdir()
    (home / ".one/one_auth").symlink_to(secret)
    with pytest.raises(UserError, match="is a link"):
        own_session(home, ALICE)
    with pytest.raises(UserError, match="is a link"):
        given_session(home / ".one/one_auth", ALICE, TRUSTED)
    # Or a directory on the way: the file is found, is root's, and is not his.
    (home / ".one/one_auth").unlink()
    (home / ".one").rmdir()
    (home / ".one").symlink_to(secret.parent)
    os.chown(home, ALICE, ALICE)
    for read in (
        lambda: own_session(home, ALICE),
        lambda: given_session(home / ".one/one_auth", ALICE, TRUSTED),
    ):
        with pytest.raises(UserError, match=r"belongs to user 0.*by no link"):
            read()


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o1777, 0), (0o770, 0), (0o755, ALICE)])
def test_roots_file_counts_only_where_nobody_else_could_put_it(way, mode, owner):
    path = written(way / "d/a")
    path.parent.chmod(mode)
    os.chown(path.parent, owner, 0)
    with pytest.raises(UserError, match="belongs to user 0, and does not count"):
        given_session(path, ALICE, TRUSTED)
    os.chown(path, ALICE, ALICE)
    assert given_session(path, ALICE, TRUSTED).user == "alice", "his own file is his wherever"


def test_below_a_sticky_directory_nobody_replaces_what_is_roots(way):
    path = written(way / "tmp/d/a")
    (way / "tmp").chmod(0o1777)
    assert given_session(path, ALICE, TRUSTED).user == "alice"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not hold a session"),
        ("alice\n", "does not hold a session"),
        (b"alice:\xff\n", "not UTF-8"),
        ("alice:" + "x" * (64 << 10), "too large"),
    ],
)
def test_a_file_that_holds_something_else(way, text, message):
    path = written(way / "a")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as caught:
        given_session(path, ALICE, TRUSTED)
    assert "xxx" not in str(caught.value)


def test_what_is_no_file_is_not_read(way):
    with pytest.raises(UserError, match="there is no session file"):
        given_session(way / "none", ALICE, TRUSTED)
    with pytest.raises(UserError, match="there is no session file"):
        given_session(way / "none/none", ALICE, TRUSTED)
    os.mkfifo(way / "fifo")
    with pytest.raises(UserError, match="no regular file"):
        given_session(way / "fifo", ALICE, TRUSTED)
    (way / "d").mkdir()
    with pytest.raises(UserError, match="no regular file"):
        given_session(way / "d", ALICE, TRUSTED)
