"""``nebfs support-bundle``: what is in it, and above all what is not."""

import base64
import json
import os
import stat
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest

from nebfs.cli.scrubbing import REMOVED, Scrubber, secrets_of
from nebfs.config import load
from nebfs.daemon import registry

ODD = "canary pass/word+%&é"  # as it is, quoted and in base64 it looks different each time
SECRETS = {
    "session": ODD,
    "url": "canaryUrlPassword",
    "query": "canaryQueryToken",
    "stored": "canaryStoredPassword",
    "file": "canaryPasswordFromFile",
    "key": "canaryAccessKeyId",
    "secret": "canary/SecretAccessKey+",
    "bearer": "canary-bearer-token",
    "environment": "canaryEnvironment",
    "aws": "canaryAwsSecret",
    "keyring": "AQcanaryKeyring==",
    "proxy": "canaryProxy",
    "unknown": "canaryUnknown1",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A person whose files, environment, settings and log are full of secrets."""

    def secret(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRETS["environment"])
    monkeypatch.setenv("http_proxy", f"http://me:{SECRETS['proxy']}@127.0.0.1:1")
    secret(".aws/credentials", f"[default]\naws_secret_access_key = {SECRETS['aws']}\n")
    auth = secret("auth", f"oneadmin:{SECRETS['session']}\n")
    secret("passwords", SECRETS["file"] + "\n")
    credentials = secret(
        "credentials.toml",
        f'["https://a"]\nuser = "me"\npassword = "{SECRETS["stored"]}"\n'
        f'["https://b"]\npassword-file = "passwords"\n["https://c"]\n'
        f'bearer-token = "{SECRETS["bearer"]}"\n["s3://d"]\n'
        f'access-key-id = "{SECRETS["key"]}"\nsecret-access-key = "{SECRETS["secret"]}"\n',
    )
    keyring = secret("keyring", f"[client.x]\n\tkey = {SECRETS['keyring']}\n")
    (tmp_path / "nebfs.toml").write_text(
        f'source = "http://u:{SECRETS["url"]}@127.0.0.1:1/RPC2?key={SECRETS["query"]}"\n'
        f'auth_file = "{auth}"\ncredentials_file = "{credentials}"\nrun_dir = "{tmp_path}/run"\n'
        f'cache_dir = "{tmp_path}/cache"\n[ceph]\nkeyring = "{keyring}"\n'
    )
    log = tmp_path / "log"
    lines = [form for one in SECRETS.values() for form in (one, quote(one, safe=""), quote(one))]
    lines += [base64.b64encode(one.encode()).decode() for one in SECRETS.values()]
    # What nobody knows here is told by its form.
    lines = [line for line in lines if "canaryUnknown" not in line]
    lines += [
        f'{{"password": "{SECRETS["unknown"]}", "x": 1}}',
        f"api_token={SECRETS['unknown']} Authorization: Bearer {SECRETS['unknown']}",
        f"url=https://u:{SECRETS['unknown']}@h/p?X-Amz-Signature={SECRETS['unknown']}",
        f"-----BEGIN PRIVATE KEY-----\n{SECRETS['unknown']}\n-----END PRIVATE KEY-----",
        "an ordinary line",
    ]
    log.write_text("\n".join(lines) + "\n")
    registration = registry.Registration.of_this_process(
        tmp_path / "run", Path("/mnt/one"), source="", log_file=str(log)
    )
    registry.register(tmp_path / "run", registration)
    return tmp_path


def members(path):
    with tarfile.open(path) as bundle:
        found = {one.name.partition("/")[2]: one for one in bundle}
        assert all(one.mode == 0o600 and one.isfile() for one in found.values())
        return {name: bundle.extractfile(one).read().decode() for name, one in found.items()}


def test_no_secret_is_in_it_and_all_else_is(invoke, home):
    done = invoke("support-bundle", "--config", home / "nebfs.toml", "-o", home / "b.tar.gz")
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE((home / "b.tar.gz").stat().st_mode) == 0o600
    found = members(home / "b.tar.gz")
    whole = "\n".join(found.values()) + done.output
    for name, secret in SECRETS.items():
        for form in (secret, quote(secret, safe=""), quote(secret)):
            assert form not in whole, name
        if name != "unknown":
            encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
            assert encoded not in whole, name
    assert "canary" not in whole.lower().replace("canary pass", "")
    assert "an ordinary line" in found["mounts/mnt-one/log.txt"]
    assert json.loads(found["mounts/mnt-one/status.json"])["state"] == "silent"
    assert json.loads(found["versions.json"])["packages"]["trio"]
    assert "127.0.0.1:1/RPC2" in found["settings.txt"]
    assert f'auth_file = "{home}/auth"' in found["settings.txt"]
    assert "front-end" in found["doctor.txt"]
    assert " / " in found["mountinfo.txt"]
    assert found["kernel/version"].startswith("Linux")


def test_settings_that_are_wrong_are_in_it_as_well(invoke, home):
    (home / "nebfs.toml").write_text('cache_szie = "1G"\n')
    done = invoke("support-bundle", "-c", home / "nebfs.toml")
    assert done.exit_code == 0, done.output
    (made,) = home.glob("nebfs-support-*.tar.gz")
    assert "did you mean cache_size?" in members(made)["settings.txt"]


def test_nothing_is_overwritten(invoke, home):
    (home / "b").write_text("mine")
    done = invoke("support-bundle", "-c", home / "nebfs.toml", "-o", home / "b")
    assert done.exit_code == 1
    assert "is there already" in done.output
    assert (home / "b").read_text() == "mine"
    os.symlink(home / "elsewhere", home / "link")
    done = invoke("support-bundle", "-c", home / "nebfs.toml", "-o", home / "link")
    assert done.exit_code == 1
    assert not (home / "elsewhere").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("said 'Basic Y2FuYXJ5OmNhbmFyeQ==' to it", f"said 'Basic {REMOVED}' to it"),
        ("said: bearer canary.jwt-token_1/+~", f"said: bearer {REMOVED}"),
        ("signed by AKIACANARY0123456789,", f"signed by {REMOVED},"),
        ("signed by ASIACANARY0123456789,", f"signed by {REMOVED},"),
        ("password=canary, x=1", f"password={REMOVED}, x=1"),
        ("'Authorization': 'canary canary'", f"'Authorization': {REMOVED}"),
        ("-----BEGIN RSA PRIVATE KEY-----\ncanary", REMOVED),
        ("http://u:canary@h/p?canary=canary", "http://h/p"),
    ],
)
def test_what_nobody_knows_to_be_secret_is_told_by_each_form(text, shown):
    """One form in each text: no other would take it away."""
    assert Scrubber([]).clean(text) == shown


def test_secrets_are_looked_for_wherever_they_can_be(tmp_path, monkeypatch):
    """Those that the bundle above does not have one of each by itself."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def written(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def secrets(**overrides):
        return set(secrets_of(load(None, overrides), {}, tmp_path))

    written(".one/one_auth", "me:usual session\n")
    found = set(secrets_of(None, {}, tmp_path))
    assert {"me:usual session", "usual session"} <= found, "also where the settings are refused"
    auth = written("auth", "me:own session\n")
    found = secrets(source="http://h:2633/RPC2", auth_file=auth)
    assert {"me:own session", "own session"} <= found
    found = secrets(marketplaces=["one+https://user:market@h/?token=query"])
    assert {"user:market", "market", "query"} <= found
    tables = '["https://u:address@a"]\nproxy = "http://u:value@p:1"\ntoken = "named"\n'
    found = secrets(credentials_file=written("credentials.toml", tables))
    assert {"address", "value", "named"} <= found
    found = secrets(credentials_file=written("broken.toml", f"{tables}[broken"))
    assert "named" in found
    usual = written("usual", "[client.x]\n\tkey = usual==\n")
    own = written("own", "[client.x]\n\tkey = own==\n")
    found = secrets(ceph={"keyring": usual, "datastores": {"7": {"keyring": own}}})
    assert {"usual==", "own=="} <= found


def test_what_is_no_secret_stays():
    scrubber = Scrubber(["/etc/secret-path", "true", "one", ""])
    text = "password_file: /etc/x, /etc/secret-path true oneadmin, auth_file = (not set)"
    assert scrubber.clean(text) == text
    assert scrubber.clean("one, by itself") == "[removed], by itself"
