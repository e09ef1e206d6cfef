"""The file of credentials: who is shown what, and mistakes in it said without repeating it."""

from __future__ import annotations

import pytest

from nebfs.errors import UserError
from nebfs.fetcher.access import NOBODY, Access, Accesses, load


@pytest.fixture
def written(tmp_path):
    def write(text: str, mode: int = 0o600):
        path = tmp_path / "credentials.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


ONE = Access(user="one")
TWO = Access(user="two")
BUCKET = Access(profile="three")
SOME = Accesses(
    {
        "https://files.example.org": ONE,
        "https://Files.example.org/market/": TWO,
        "s3://Images": BUCKET,
        "sftp://backup.example.org/srv/107": TWO,
        "file:///mnt/backups": ONE,
    }
)


@pytest.mark.parametrize(
    ("address", "access"),
    [
        ("https://files.example.org", ONE),
        ("https://files.example.org/other?query=market", ONE),
        ("https://files.example.org:443/market", TWO),
        ("https://FILES.example.org./market/a/b", TWO),
        ("https://files.example.org/market?x=1", TWO),
        ("https://files.example.org/marketplace", ONE),
        ("http://files.example.org/market", NOBODY),
        ("https://files.example.org:8443/market", NOBODY),
        ("https://more.files.example.org/market", NOBODY),
        ("s3://Images/key", BUCKET),
        ("s3://images/key", NOBODY),
        ("sftp://backup.example.org:22/srv/107/42", TWO),
        ("sftp://backup.example.org/srv/1074", NOBODY),
        ("sftp://backup.example.org:2222/srv/107/42", NOBODY),
        ("file:///mnt/backups/107/42", ONE),
        ("file:///mnt/backups2", NOBODY),
        ("file://host/mnt/backups", NOBODY),
        ("not an address", NOBODY),
        ("https://[::1/", NOBODY),
    ],
)
def test_the_longest_name_above_an_address_counts(address, access):
    assert SOME.of(address) is access


def test_nobody_is_shown_anything_without_entries():
    assert Accesses({}).of("https://files.example.org/") is NOBODY
    assert Accesses({}).named("https://files.example.org/") is None
    assert NOBODY.authorization == ""


def test_every_setting_is_read_and_no_secret_is_in_a_repr(written, tmp_path):
    (tmp_path / "word").write_text("from a file\r\nsecond line\n")
    (tmp_path / "ca.pem").write_text("")
    path = written(
        """
        ["https://a.example.org"]
        user = "bob"
        password-file = "word"
        ca-file = "ca.pem"
        proxy = "http://canary:canary@proxy:3128"
        ["https://b.example.org"]
        bearer-token = "canary"
        ["sftp://backup1/srv"]
        repository-password-file = "word"
        ["file:///srv"]
        repository-password = "canary"
        ["s3://images"]
        access-key-id = "canary"
        secret-access-key = "canary"
        session-token = "canary"
        profile = "reader"
        anonymous = true
        """
    )
    found = load(path)
    first = found.of("https://a.example.org/x")
    assert (first.user, first.password) == ("bob", "from a file")
    assert first.authorization == "Basic Ym9iOmZyb20gYSBmaWxl"
    assert first.certificates == (str(tmp_path / "ca.pem"), "", "")
    assert found.of("https://b.example.org").authorization == "Bearer canary"
    assert found.of("sftp://backup1/srv/107/42").repository_password == "from a file"
    kept = found.of("file:///srv/107/42")
    assert kept.repository_password == "canary"
    assert "canary" not in repr(kept)
    keys = found.of("s3://images/a")
    assert keys.anonymous
    assert "canary" not in repr(first) + repr(keys) + repr(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not valid TOML"),
        ("user = 'canary'", "tables"),
        ('["ftp://canary@host"]', "table 1"),
        ('["https://bob:canary@host"]', "table 1: it may have neither a user"),
        ('["https://host/?sig=canary"]', "neither a user nor a query"),
        ('["https://host"]\nusr = "canary"', "no setting usr; did you mean user?"),
        ('["https://host"]\npassword = 12', "password: expected text"),
        ('["https://host"]\nanonymous = "canary"', "anonymous: expected true or false"),
        ('["https://host"]\npassword = "canary\\nX: y"', "line break"),
        ('["https://host"]\nca-file = "gone.pem"', "gone.pem cannot be read"),
        ('["https://host"]\npassword-file = "gone"', "gone cannot be read"),
        ('["https://h"]\nrepository-password-file = "gone"', "repository-password-file: /"),
    ],
)
def test_mistakes_are_said_and_nothing_is_repeated(written, text, words):
    with pytest.raises(UserError, match=r"credentials\.toml") as caught:
        load(written(text))
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_file_that_others_may_read_is_refused_with_the_remedy(written):
    with pytest.raises(UserError, match="chmod o="):
        load(written("", 0o644))
    load(written("", 0o640))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = " + "[" * 5000, "nested too deeply"),
        ('["http://["]\nuser = "canary"\n', "no address"),
        ('["http://a.example"]\npassword_file = "~nobody-of-that-name/x"\n', "home"),
    ],
    ids=["nested", "broken address", "nobody's home"],
)
def test_a_file_that_was_made_up_is_an_error_and_no_traceback(written, text, words):
    with pytest.raises(UserError, match=words) as caught:
        load(written(text))
    assert "canary" not in str(caught.value)
