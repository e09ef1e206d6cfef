"""``nebfs config``: check, show and template."""

import json
import math
import re
import tomllib
from pathlib import Path

import pytest

from nebfs.cli.template import GROUPS, described, page, template
from nebfs.cli.written import leaves
from nebfs.config import Settings, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Somebody who has a session."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".one").mkdir()
    session = tmp_path / ".one/one_auth"
    session.write_text("me:canary\n")
    session.chmod(0o600)
    return tmp_path


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nebfs.toml"

    def write(text):
        path.write_text(text)
        return path

    return write


def test_the_template_is_taken_as_it_is_and_changes_nothing(invoke, file):
    written = file(template())
    done = invoke("config", "check", "--config", written)
    assert done.exit_code == 0, done.output
    assert load(written, {}).model_dump(exclude={"config_file"}) == load(None, {}).model_dump(
        exclude={"config_file"}
    )


def test_the_defaults_in_the_template_are_the_defaults(file):
    """With every '#' taken away it is still read, and what is not an example is the default."""
    text = re.sub(r"^#(?! )", "", template(), flags=re.MULTILINE)
    unset = {one.name for one, _ in described() if not one.default} | {"platform", "user_agent"}
    text = re.sub(
        r"^(ssh_\w+_file|conf|keyring|ca_file|\w+_file) = .*\n", "", text, flags=re.MULTILINE
    )
    # They count with others = "modes" or "sessions" only, which is not the default.
    text = re.sub(r"^(oneadmin|research|alice) = .*\n", "", text, flags=re.MULTILINE)
    settings = load(file(text), {})
    plain = load(None, {})
    for name, _, value in leaves(settings):
        if name not in unset | {"config_file"} and not isinstance(value, dict):
            expected = {key: one for key, _, one in leaves(plain)}[name]
            assert value == expected, name


def test_every_setting_is_in_the_template_and_explained():
    text = template()
    names = {name for name, _, _ in leaves(load(None, {}))} - {"config_file"}
    for name in names:
        key = re.escape(name.rpartition(".")[2])
        assert re.search(rf"^#?\[?([\w.]+\.)?{key}( =|\])", text, re.MULTILINE), name
    for one, inner in described():
        assert one.meaning, f"{one.name} has no docstring in nebfs/config.py"
        for within, _ in described(inner, one.name) if inner else ():
            assert within.meaning, f"{within.name} has no docstring in nebfs/config.py"
    assert set(GROUPS) <= set(Settings.model_fields)
    tomllib.loads(text)


def test_the_page_is_of_now():
    assert (ROOT / "docs/configuration.md").read_text() == page(), (
        "settings have changed: nebfs config template --markdown >docs/configuration.md"
    )


def test_show_tells_where_each_setting_is_from(invoke, file, monkeypatch):
    written = file(
        '# a comment\ncache_size = "1G"\n"deadline" = 30\n\n[datastores]\nssh_user = "x"\n'
        '[datastores.paths]\n"/a" = "/b"\n[ceph]\n'
    )
    monkeypatch.setenv("NEBFS_DEADLINE", "40s")
    monkeypatch.setenv("NEBFS_CEPH__USER", "libvirt")
    monkeypatch.setenv("NEBFS_GID", "")
    done = invoke("config", "show", "-c", written, "-o", "read_ahead=1M", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    origin = {name: one["origin"] for name, one in found.items()}
    value = {name: one["value"] for name, one in found.items()}
    assert (origin["cache_size"], value["cache_size"]) == (f"{written}:2", '"1G"')
    assert origin["deadline"] == "environment variable NEBFS_DEADLINE"
    assert value["deadline"] == '"40s"'
    assert (origin["read_ahead"], value["read_ahead"]) == ("command line", '"1M"')
    assert origin["datastores.ssh_user"] == f"{written}:6"
    assert origin["datastores.paths"] == f"{written}:8"
    assert origin["ceph.user"] == "environment variable NEBFS_CEPH__USER"
    assert origin["ceph.conf"] == origin["gid"] == origin["connections"] == "default"
    assert set(found) == {name for name, _, _ in leaves(load(None, {}))}
    changed = invoke("config", "show", "--changed", "-c", written).output.splitlines()
    assert [line.split()[0] for line in changed] == [
        *("config_file", "datastores.paths", "datastores.ssh_user", "ceph.user"),
        *("cache_size", "deadline"),
    ]


def test_show_tells_no_secrets(invoke, file):
    written = file(
        'source = "https://u:canary1@h:2633/RPC2?key=canary2"\n'
        "[datastores]\n"
        'mappings = { x = "https://h/canary3/{source}" }\n'
    )
    done = invoke("config", "show", "-c", written, "--auth-file", Path.home() / ".one/one_auth")
    assert done.exit_code == 0, done.output
    assert "canary" not in done.output
    assert "not shown" in done.output
    done = invoke("config", "show", "--marketplace", "one+https://u:canary@h/?x=canary")
    assert "one+https://h/" in done.output
    assert "canary" not in done.output


def test_check_says_what_is_wrong_and_where(invoke, file):
    done = invoke("config", "check", "-c", file('cache_szie = "1G"\n'))
    assert done.exit_code == 2
    assert "there is no setting cache_szie; did you mean cache_size?" in done.output
    assert "remedy:" in done.output


def test_check_looks_at_the_files_that_are_named(invoke, file, home):
    (home / ".one/one_auth").chmod(0o644)
    credentials = home / "credentials.toml"
    credentials.write_text('["https://h"]\npasswort = "canary"\n')
    credentials.chmod(0o600)
    written = file(f'source = "http://far.example:2633/RPC2"\ncredentials_file = "{credentials}"\n')
    done = invoke("config", "check", "-c", written, "--json")
    assert done.exit_code == 2
    answer = json.loads(done.output)
    assert answer["ok"] is False
    found = {one["about"]: one for one in answer["findings"]}
    assert found["settings"]["level"] == "ok"
    assert found["auth file"]["level"] == "warning"
    assert found["auth file"]["remedy"] == f"chmod 0600 {home}/.one/one_auth"
    assert found["credentials file"]["level"] == "problem"
    assert "did you mean password?" in found["credentials file"]["text"]
    assert found["endpoint"]["level"] == "warning"
    assert "canary" not in done.output


def test_check_without_a_session_names_the_remedy(invoke, home):
    (home / ".one/one_auth").unlink()
    done = invoke("config", "check", "http://127.0.0.1:2633/RPC2", "--auth-file", home / "nothing")
    assert done.exit_code == 2
    assert f"there is no file {home}/nothing" in done.output


def test_numbers_are_written_as_people_do():
    written = {one.name: one.default for one, _ in described()}
    assert written["cache_size"] == '"10G"'
    assert written["refresh_interval"] == '"5m"'
    assert written["umask"] == '"022"'
    assert written["fill"] == '"off"'
    field = Settings.model_fields["fill"]
    from nebfs.cli.written import written as as_toml

    assert as_toml(field, math.inf) == '"idle"'
    assert as_toml(field, 10 << 20) == '"10M"'
    assert as_toml(Settings.model_fields["deadline"], 0.25) == '"250ms"'
