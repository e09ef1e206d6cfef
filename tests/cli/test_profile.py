"""``nebfs profile``: lists, drawings and copies of what guests read while they boot."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
import trio

from nebfs.content.profiling import Part, Profile, shelf_in
from nebfs.model import Revision

MIB = 1 << 20
KEY, OTHER = "ab" * 32, "abababab" + "c" * 56
FOUND = Profile(
    key=KEY,
    image="http://host/a\x1b[2J.qcow2",
    revision=Revision(1024 * MIB, '"1"'),
    boots=3,
    recorded=1.7e9,
    parts=(Part(512 * MIB, 2 * MIB, 7), Part(0, MIB, 3), Part(1023 * MIB, MIB, 1)),
    sums=((0, 1),),
)


@pytest.fixture
def cache(tmp_path):
    shelf_in(tmp_path / "cache", create=True)
    return tmp_path / "cache"


@pytest.fixture
def profile(invoke, cache, tmp_path):
    """Run ``nebfs profile WORDS`` about that cache."""

    def run(*words, cache=cache):
        return invoke("profile", "--cache-dir", cache, "--run-dir", tmp_path / "run", *words)

    return run


def put(cache, *profiles):
    for one in profiles:
        trio.run(shelf_in(cache).save, one)


def keys(cache):
    return trio.run(shelf_in(cache).keys)


def test_an_empty_cache_has_none(profile):
    done = profile("list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no profiles yet" in done.stderr
    assert json.loads(profile("list", "--json").stdout) == []


def test_the_list(profile, cache):
    put(cache, FOUND)
    lines = profile("list").stdout.splitlines()
    assert lines[0].split() == ["ID", "BOOTS", "RANGES", "BYTES", "OF", "IMAGE"]
    assert lines[1].split() == [
        *("abababababab", "3", "3", "4.00", "MiB", "1.00", "GiB"),
        r"http://host/a\x1b[2J.qcow2",
    ]
    (told,) = json.loads(profile("list", "--json").stdout)
    assert told["id"] == KEY
    assert (told["boots"], told["ranges"], told["bytes"]) == (3, 3, 4 * MIB)


def test_a_drawing_shows_where_and_when(profile, cache):
    put(cache, FOUND)
    done = profile("show", "abababab", "--ranges")
    assert done.exit_code == 0, done.stderr
    text = done.stdout
    assert r"http://host/a\x1b[2J.qcow2" in text
    assert "4.00 MiB of 1.00 GiB in 3 ranges; 3.00 MiB in more than one boot" in text
    lines = [line.split() for line in text.splitlines()]
    drawing = [line[2] for line in lines if len(line) == 3 and len(line[2]) == 64]
    assert len(drawing) == 16
    assert drawing[8].startswith("00..")
    assert drawing[0].startswith("5..")
    assert drawing[15].endswith("..7")
    assert "".join(drawing).count(".") == 1020
    assert [str(512 * MIB), str(2 * MIB), "3"] in lines
    assert json.loads(profile("show", KEY, "--json").stdout) == FOUND.record()


def test_what_is_exported_is_imported_elsewhere(profile, cache, tmp_path):
    put(cache, FOUND)
    file = tmp_path / "boot.json"
    assert profile("export", KEY, file).exit_code == 0
    assert json.loads(file.read_text()) == json.loads(profile("export", KEY).stdout)
    fresh = tmp_path / "fresh"  # a machine on which nothing was mounted yet
    done = profile("import", file, cache=fresh)
    assert done.exit_code == 0, done.stderr
    assert trio.run(shelf_in(fresh).load, KEY) == FOUND
    assert (fresh / "VERSION").exists()
    assert os.stat(fresh).st_mode & 0o777 == 0o700


def test_nothing_is_put_into_a_directory_of_somebody_else(profile, tmp_path):
    file = tmp_path / "boot.json"
    file.write_text(json.dumps(FOUND.record()))
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter").touch()
    done = profile("import", file, cache=home)
    assert done.exit_code == 1
    assert "neither empty nor a cache" in done.stderr
    assert os.listdir(home) == ["letter"]
    done = profile("list", cache=home)
    assert done.exit_code == 1
    assert "is no cache of nebfs" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[" * 100_000,
        json.dumps({**FOUND.record(), "id": "../../x"}),
        json.dumps({**FOUND.record(), "ranges": [[0, 1 << 40, 1]]}),
        " " * (2 * MIB),
    ],
)
def test_what_is_no_profile_is_not_imported(profile, cache, tmp_path, text):
    file = tmp_path / "boot.json"
    file.write_text(text)
    done = profile("import", file)
    assert done.exit_code == 1
    assert "is not understood" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert keys(cache) == []


def test_what_is_forgotten_is_gone(profile, cache):
    put(cache, FOUND)
    assert profile("forget", KEY[:10]).exit_code == 0
    assert keys(cache) == []
    done = profile("forget", KEY)
    assert done.exit_code == 1
    assert "nobody has booted from it" in done.stderr


def test_a_short_id_must_tell_one_profile(profile, cache):
    put(cache, FOUND, replace(FOUND, key=OTHER))
    done = profile("show", "abababab")
    assert done.exit_code == 1
    assert "several profiles" in done.stderr
    assert profile("show", OTHER[:10]).exit_code == 0


def test_a_file_that_is_in_no_mount(profile, tmp_path):
    (tmp_path / "x.raw").touch()
    done = profile("show", tmp_path / "x.raw")
    assert done.exit_code == 3
    assert "not in a mount of nebfs" in done.stderr


def test_a_damaged_profile_is_left_out_and_told(profile, cache):
    put(cache, FOUND, replace(FOUND, key=OTHER))
    document = next((cache / "documents").glob(f"boot-{OTHER}*"))
    document.write_bytes(document.read_bytes()[:-1])
    done = profile("list", "--json")
    assert [one["id"] for one in json.loads(done.stdout)] == [KEY]
    assert "damaged" in done.stderr
