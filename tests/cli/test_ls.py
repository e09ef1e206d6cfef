"""``nebfs ls``: names with what only nebfs tells about them."""

import errno
import json
import os

import pytest

from nebfs.cli import ls


@pytest.fixture
def directory(tmp_path):
    place = tmp_path / "d"
    place.mkdir()
    (place / "b.qcow2").write_bytes(b"x" * 2048)
    (place / "a").mkdir()
    (place / "c").symlink_to("a")
    (place / "e\x1b[2J").write_bytes(b"")
    return place


@pytest.fixture
def attributes(monkeypatch):
    """Stand in for the mount's extended attributes: {(file name, attribute): text or errno}."""
    told = {}

    def getxattr(path, name, *, follow_symlinks):
        assert not follow_symlinks
        found = told.get((path.name, name), errno.ENODATA)
        if isinstance(found, int):
            raise OSError(found, os.strerror(found))
        return found.encode()

    monkeypatch.setattr(os, "getxattr", getxattr)
    return told


def test_names_are_sorted_marked_and_harmless(invoke, directory):
    done = invoke("ls", directory)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["a/", "b.qcow2", "c@", r"e\x1b[2J"]
    assert "not in a nebfs mount" in done.stderr


def test_states_and_cached_shares(invoke, directory, attributes):
    attributes["b.qcow2", "user.one.STATE"] = "READY"
    attributes["b.qcow2", "user.nebfs.cached"] = "512"
    attributes["a", "user.nebfs.trouble"] = "no answer"
    done = invoke("ls", "-l", directory)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["KIND", "SIZE", "STATE", "CACHED", "NAME"]
    assert lines[1].split() == ["directory", "-", "-", "-", "a", "[no", "answer]"]
    assert lines[2].split() == ["file", "2.00", "KiB", "READY", "25%", "b.qcow2"]


def test_json(invoke, directory, attributes):
    attributes["b.qcow2", "user.nebfs.cached"] = "512"
    attributes["b.qcow2", "user.nebfs.trouble"] = errno.EIO
    entries = {one["name"]: one for one in json.loads(invoke("ls", "--json", directory).stdout)}
    assert entries["b.qcow2"] == {
        "name": "b.qcow2",
        "kind": "file",
        "size": 2048,
        "state": "",
        "cached": 512,
        "trouble": "(Input/output error)",
    }
    assert [entries[name]["kind"] for name in ("a", "c")] == ["directory", "link"]


@pytest.mark.parametrize(
    ("cached", "size", "text"),
    [
        (None, 10, "-"),
        (0, 0, "-"),
        (0, 10, "0%"),
        (1, 10**9, "1%"),
        (10**9 - 1, 10**9, "99%"),
        (10, 10, "100%"),
    ],
)
def test_a_share_is_whole_only_when_nothing_is_missing(cached, size, text):
    assert ls._share(ls.Entry("n", "file", size, "", cached, "")) == text


def test_a_file_is_listed_alone(invoke, directory):
    done = invoke("ls", directory / "b.qcow2")
    assert done.stdout == f"{directory}/b.qcow2\n"


def test_what_is_not_there(invoke, tmp_path):
    done = invoke("ls", tmp_path / "no")
    assert done.exit_code == 1
    assert f"{tmp_path}/no: No such file or directory" in done.stderr


def test_a_name_that_is_not_utf8(invoke, tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    for words in (["ls"], ["ls", "-l"], ["ls", "--json"]):
        assert invoke(*words, tmp_path).exit_code == 0


def test_a_reader_that_leaves_early_is_no_traceback(shell, tmp_path):
    for number in range(3000):
        (tmp_path / f"a rather long name of a file {number}").touch()
    import subprocess
    import sys

    with subprocess.Popen(
        [sys.executable, "-m", "nebfs.cli", "ls", str(tmp_path)],
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said
    assert "internal" not in said
