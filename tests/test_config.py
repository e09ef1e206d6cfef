"""Settings: where they come from, which wins, and what is said when they are wrong."""

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nebfs import config
from nebfs.config import Settings, load
from nebfs.errors import UserError
from nebfs.units import GIB, MIB


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in list(os.environ):
        if name.startswith("NEBFS_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nebfs.toml"

    def write(text):
        path.write_text(text)
        return path

    return write


def problem(overrides=None, config_file=None):
    with pytest.raises(UserError) as caught:
        load(config_file, overrides or {})
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults():
    settings = load(None, {})
    assert settings.cache_size == 10 * GIB
    assert settings.read_ahead == 32 * MIB
    assert settings.refresh_interval == 300
    assert settings.source == ""
    assert settings.marketplaces == ()
    assert settings.umask == 0o022
    assert settings.datastore_paths == {}


def test_file_then_environment_then_flags(file, monkeypatch):
    written = file('cache_size = "1G"\ndeadline = 30\nread_ahead = "1M"\nconnections = 2\n')
    monkeypatch.setenv("NEBFS_DEADLINE", "40s")
    monkeypatch.setenv("NEBFS_READ_AHEAD", "2M")
    settings = load(written, {"read_ahead": "0"})
    assert (settings.cache_size, settings.deadline, settings.read_ahead) == (GIB, 40, 0)
    assert settings.connections == 2
    assert settings.config_file == written


def test_the_environment_names_the_file(file, monkeypatch):
    monkeypatch.setenv("NEBFS_CONFIG_FILE", str(file('cache_size = "1G"')))
    assert load(None, {}).cache_size == GIB


def test_an_empty_variable_is_no_setting(monkeypatch):
    monkeypatch.setenv("NEBFS_UID", "")
    assert load(None, {}).uid is None


def test_marketplaces_in_every_spelling(file, monkeypatch):
    urls = ("http://a.example/", "https://b.example/x")
    assert load(None, {"marketplaces": urls}).marketplaces == urls
    assert load(file(f"marketplaces = {list(urls)}"), {}).marketplaces == urls
    monkeypatch.setenv("NEBFS_MARKETPLACES", " ".join(urls))
    assert load(None, {}).marketplaces == urls


def test_a_marketplace_may_say_its_type():
    urls = ("docker-registry+https://me:canary@host/", "one+http://b", "http://a/x+y://z")
    settings = load(None, {"marketplaces": urls})
    assert settings.marketplaces == urls
    assert "canary" not in repr(settings)
    for wrong in ("docker_registry+https://host", "+https://host", "one+ftp://host", "one+/x"):
        assert "marketplaces" in problem({"marketplaces": [wrong]})


@pytest.mark.parametrize("value", ["linux", "Linux/amd64", "linux/amd64/v8/x", "linux/../x", ""])
def test_a_platform_is_in_the_words_of_oci(value):
    assert "platform" in problem({"platform": value})
    assert load(None, {"platform": "linux/arm/v7"}).platform == "linux/arm/v7"
    assert load(None, {}).platform.startswith("linux/")


def test_datastore_paths(file):
    written = file('[datastores.paths]\n"/var/lib/one/datastores" = "/mnt/ds"\n')
    assert load(written, {}).datastore_paths == {"/var/lib/one/datastores": "/mnt/ds"}
    assert "not an absolute path" in problem(config_file=file('[datastores.paths]\n"/a" = "b"\n'))


@pytest.mark.parametrize("source", ["", "none", "nebfs"])
def test_fstab_needs_a_first_field(source):
    assert load(None, {"source": source}).source == ""


def test_every_problem_is_one_line_and_names_its_place(file, monkeypatch):
    written = file('cache_szie = "5G"\nread_ahead = true\n[datastores.path]\na = "b"\n')
    monkeypatch.setenv("NEBFS_CONNECTIONS", "0")
    lines = problem({"refresh_interval": "5 parsecs"}, written).splitlines()
    assert len(lines) == 5
    text = "\n".join(lines)
    assert f"{written}: there is no setting cache_szie; did you mean cache_size?" in text
    assert f"{written}: there is no setting datastores.path; did you mean paths?" in text
    assert f"{written}: read_ahead: a size is" in text
    assert "environment variable NEBFS_CONNECTIONS: connections: input should be" in text
    assert "command line: refresh_interval: '5 parsecs' is not a duration" in text


def test_a_misspelt_variable_is_told(monkeypatch):
    monkeypatch.setenv("NEBFS_CACHE_SZIE", "5G")
    assert "NEBFS_CACHE_SIZE" in problem()


def test_somebody_elses_variable_is_left_alone(monkeypatch):
    monkeypatch.setenv("NEBFS_BENCH_ROUNDS", "5")
    load(None, {})


def test_a_broken_nested_variable_is_no_traceback(monkeypatch):
    monkeypatch.setenv("NEBFS_DATASTORES__PATHS", "{x")
    assert "datastores" in problem()


def test_a_file_that_is_not_there_or_not_toml(file, tmp_path):
    assert str(tmp_path / "no") in problem(config_file=tmp_path / "no")
    assert "line 1" in problem(config_file=file("cache_size =\nuid = 1"))
    written = file("")
    written.write_bytes(b"\xff\xfe")
    assert "not valid TOML" in problem(config_file=written)


def test_secrets_in_urls_are_not_shown():
    url = "https://me:canary@market.example/x?token=canary"
    settings = load(None, {"source": url, "marketplaces": [url]})
    assert settings.source == url
    assert "canary" not in repr(settings)
    assert "canary" not in str(settings)
    assert "https://market.example/x" in repr(settings)


@pytest.mark.parametrize("name", ["source", "marketplaces"])
@pytest.mark.parametrize("url", ["me:canary@host", "ftp://me:canary@host", "http://[canary", "/x"])
def test_secrets_in_refused_urls_are_not_shown(name, url):
    text = problem({name: url})
    assert "whole URL" in text
    assert "canary" not in text


@pytest.mark.parametrize("value", ["22x", "8", 22, "", "7777"])
def test_umask_is_octal_text(value):
    assert "umask" in problem({"umask": value})
    assert load(None, {"umask": "027"}).umask == 0o027


@pytest.mark.parametrize(
    "value", [0, "0", -1, "inf", float("nan"), float("inf"), True, None, "x", "5\u017f"]
)
def test_deadlines_are_positive_and_finite(value):
    assert "deadline" in problem({"deadline": value})


@pytest.mark.parametrize("value", [-1, "9" * 400, True, 1.5, [], "0"])
def test_sizes_are_checked(value):
    assert "cache_size" in problem({"cache_size": value})


def test_a_named_file_must_be_there(tmp_path):
    assert "there is no file" in problem({"auth_file": tmp_path / "no"})
    (tmp_path / "yes").touch()
    assert load(None, {"auth_file": str(tmp_path / "yes")}).auth_file == tmp_path / "yes"


def test_paths_are_absolute_and_know_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load(None, {"cache_dir": "~/c"}).cache_dir == tmp_path / "c"
    assert load(None, {"cache_dir": "c/../d"}).cache_dir == tmp_path / "d"
    assert "home" in problem({"cache_dir": "~no-such-user-here/c"})


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load(None, {}).deadline = 5


def test_places_of_root_and_of_others(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert (str(config.default_cache_dir()), str(config.default_run_dir())) == (
        "/var/cache/nebfs",
        "/run/nebfs",
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert config.default_cache_dir() == tmp_path / ".cache/nebfs"
    assert str(config.default_run_dir()) == "/tmp/nebfs-1234"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert config.default_cache_dir() == tmp_path / ".cache/nebfs"
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/r")
    assert (str(config.default_cache_dir()), str(config.default_run_dir())) == (
        "/c/nebfs",
        "/r/nebfs",
    )


@hypothesis_settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(
    st.dictionaries(
        st.sampled_from(sorted(Settings.model_fields)),
        st.one_of(
            st.text(max_size=20),
            st.integers(),
            st.floats(),
            st.booleans(),
            st.none(),
            st.lists(st.text(max_size=5), max_size=3),
        ),
        max_size=4,
    )
)
def test_whatever_is_set_gives_settings_or_a_user_error(overrides):
    try:
        load(None, overrides)
    except UserError as exc:
        assert str(exc)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("off", None),
        ("0", None),
        (0, None),
        ("idle", math.inf),
        (" Idle", math.inf),
        ("10M", 10 * MIB),
        (500_000, 500_000),
    ],
)
def test_fill_is_off_or_idle_or_a_rate(text, rate):
    assert load(None, {"fill": text}).fill == rate


def test_fill_is_off_unless_asked_for():
    assert load(None, {}).fill is None


@pytest.mark.parametrize("text", ["on", "fast", "-1", -1, True, "10M/s", "inf", "", 1.5])
def test_a_fill_that_means_nothing_is_explained(text):
    assert problem({"fill": text}) == (
        "command line: fill: write off, idle, or bytes per second such as 10M"
    )


def test_how_ceph_is_entered_for_all_datastores_and_for_one(file, tmp_path):
    (tmp_path / "key").write_text("")
    written = file(
        f'[ceph]\nuser = "nebfs"\nkeyring = "{tmp_path}/key"\n'
        '[ceph.datastores."other"]\nuser = "b"\n'
    )
    assert load(written, {}).ceph_places == {
        "": {"user": "nebfs", "keyring": f"{tmp_path}/key"},
        "other": {"user": "b"},
    }
    assert load(None, {}).ceph_places == {}


def test_what_is_wrong_about_ceph_is_said(file, tmp_path):
    text = problem(config_file=file(f'[ceph]\nkeyrng = "x"\nconf = "{tmp_path}/none"\n'))
    assert "there is no setting ceph.keyrng; did you mean keyring?" in text
    assert f"ceph.conf: there is no file {tmp_path}/none" in text
    text = problem(config_file=file('[ceph.datastores.x]\nuser = "a b"\nusr = "b"\n'))
    assert "ceph.datastores.x.usr; did you mean user?" in text
    assert "ceph.datastores.x.user" in text


def test_where_the_images_of_an_unknown_driver_are(file):
    written = file('[datastores.mappings]\nstorpool = "/dev/storpool/{source_base}"\n')
    assert load(written, {}).datastores.mappings == {"storpool": "/dev/storpool/{source_base}"}
    text = problem(
        config_file=file('[datastores.mappings]\nlinstor = "https://b:canary@gw/{id}"\n')
    )
    assert "datastores.mappings: of 'linstor': the host must be named" in text
    assert "canary" not in text


@pytest.mark.parametrize("directory", ["/", "relative", "//", "/.", ""])
def test_directories_to_show_must_be_named(file, directory):
    assert load(file('[datastores]\ndirectories = ["/srv/x"]\n'), {}).datastores.directories == (
        "/srv/x",
    )
    text = problem(config_file=file(f'[datastores]\ndirectories = ["{directory}"]\n'))
    assert "datastores.directories" in text


@pytest.mark.parametrize("name", ["iqn.2026-01.org.example:nebfs", "eui.02004567A425678D", ""])
def test_how_storage_arrays_are_reached(file, name):
    written = file(f'[datastores]\niscsi_initiator = "{name}"\narray_devices = ["/dev/mapper"]\n')
    arrays = load(written, {}).datastores.arrays
    assert arrays == {"initiator": name, "directories": ("/dev/mapper",)}


@pytest.mark.parametrize(
    "line",
    [
        'iscsi_initiator = "nebfs"',
        'iscsi_initiator = "iqn.2026-01.x:a/b"',
        'array_devices = ["dev/mapper"]',
        'array_devices = ["/"]',
    ],
)
def test_storage_arrays_that_cannot_be_reached_so(file, line):
    assert line.split(" ")[0] in problem(config_file=file(f"[datastores]\n{line}\n"))


def test_system_datastores_are_empty_unless_told_otherwise(file):
    assert load(None, {}).system_datastores == "empty"
    written = file('system_datastores = "poweroff"\n')
    assert load(written, {}).system_datastores == "poweroff"
    assert "system_datastores" in problem(config_file=file('system_datastores = "live"\n'))


# --- other users of the machine -------------------------------------------------------------------


def test_users_and_groups_are_named_or_numbered(file):
    path = file(
        'allow_other = true\nothers = "modes"\n'
        '[users.uids]\noneadmin = "root"\nalice = 1001\n"a b" = "77"\n[users.gids]\nall = "root"\n'
    )
    users = load(path, {}).users
    assert users.uids == {"oneadmin": 0, "alice": 1001, "a b": 77}
    assert users.gids == {"all": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('others = "modes"\n', "without allow_other nobody else may enter"),
        (
            'allow_other = true\nothers = "modes"\nmarketplaces = ["http://h/"]\n',
            "belongs to nobody",
        ),
        ("allow_other = true\n[users.uids]\nalice = 1\n", 'others = "modes" only'),
        ('allow_other = true\nothers = "some"\n', "others: "),
        (
            'allow_other = true\nothers = "modes"\n[users.uids]\nalice = "no-such-user"\n',
            "users.uids.alice: there is no user 'no-such-user' on this machine",
        ),
        (
            'allow_other = true\nothers = "modes"\n[users.gids]\nalice = -1\n',
            "-1 is no number of a group",
        ),
        ("[users]\nuid = {alice = 1}\n", "did you mean uids"),
        ('others = "sessions"\n', "sessions says what others may open, and without allow_other"),
        (
            'allow_other = true\nothers = "sessions"\nmarketplaces = ["http://h/"]\n',
            "sessions is for a cloud",
        ),
        (
            'allow_other = true\nothers = "sessions"\n',
            ".toml: others: with sessions everybody needs one, and nobody has: name them in the",
        ),
        (
            'allow_other = true\n[users.sessions]\n1001 = "/a"\n',
            'count with others = "sessions" only, and it is "all"',
        ),
        (
            'allow_other = true\nothers = "modes"\nusers.home_sessions = true\n',
            'count with others = "sessions" only, and it is "modes"',
        ),
        (
            'allow_other = true\nothers = "sessions"\nusers = {home_sessions = true, uids.a = 1}\n',
            'uids and gids count with others = "modes" only, and it is "sessions"',
        ),
        (
            'allow_other = true\nothers = "sessions"\n[users.sessions]\nroot = "/a"\n',
            "root sees what the mount's own session may",
        ),
        (
            'allow_other = true\nothers = "sessions"\n[users.sessions]\n77 = "/a"\n077 = "/b"\n',
            "users.sessions: '77' and '077' are the same user",
        ),
        (
            'allow_other = true\nothers = "sessions"\n[users.sessions]\nno-such-user = "/a"\n',
            "there is no user 'no-such-user' on this machine",
        ),
    ],
)
def test_what_does_not_go_together_is_said(file, text, said):
    assert said in problem(config_file=file(text))


def test_sessions_are_of_users_of_this_machine(file):
    path = file(
        'allow_other = true\nothers = "sessions"\n'
        '[users]\nhome_sessions = true\n[users.sessions]\n1001 = "/etc/a"\ndaemon = "/etc/d"\n'
    )
    users = load(path, {}).users
    assert users.sessions == {1001: Path("/etc/a"), 1: Path("/etc/d")}
    assert users.home_sessions


def test_a_settings_file_nested_too_deeply_is_the_users_mistake(tmp_path):
    file = tmp_path / "nebfs.toml"
    file.write_text("a = " + "[" * 5000)
    with pytest.raises(UserError, match="nested too deeply"):
        load(file, {})
