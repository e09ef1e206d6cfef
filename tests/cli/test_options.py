"""``-o``: the dialect of mount(8)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.cli.options import IGNORED, SETTINGS, parse_options, split_options
from nebfs.config import load
from nebfs.errors import UserError


def problem(*texts):
    with pytest.raises(UserError) as caught:
        parse_options(texts)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_line_of_fstab():
    line = "ro,_netdev,nofail,nosuid,nodev,x-systemd.automount,cache-size=5G,allow_other,comment=a"
    assert parse_options([line]) == {"cache_size": "5G", "allow_other": "true"}


def test_dash_and_underscore_are_alike():
    assert parse_options(["cache-min-free=1G"]) == parse_options(["cache_min_free=1G"])
    assert parse_options(["allow-other"]) == parse_options(["allow_other"])


def test_several_arguments_and_the_last_one_counts():
    assert parse_options(["uid=1,gid=2", "uid=3"]) == {"uid": "3", "gid": "2"}


def test_every_marketplace_is_one_more():
    assert parse_options(["marketplace=http://a/", "marketplace=http://b/"]) == {
        "marketplaces": ("http://a/", "http://b/")
    }


def test_the_configuration_file():
    assert parse_options(["config=/etc/nebfs/nebfs.toml"]) == {
        "config_file": "/etc/nebfs/nebfs.toml"
    }


def test_a_comma_in_a_value_and_a_value_with_equals():
    assert parse_options([r"cache-dir=/a\,b\\,user-agent=x=y"]) == {
        "cache_dir": "/a,b\\",
        "user_agent": "x=y",
    }


def test_empty_items_are_nothing():
    assert parse_options(["", ",", "ro,,ro"]) == {}


def test_writing_is_refused_clearly():
    assert "read-only" in problem("rw")
    assert "read-only" in problem("ro,rw")


def test_unknown_options_get_a_suggestion():
    assert "did you mean cache_size?" in problem("cache-szie=5G")
    assert "did you mean allow_other?" in problem("allow-others")
    assert "unknown option" in problem("zzz")
    assert "unknown option" in problem("datastores=x")


def test_a_setting_needs_its_value():
    assert "needs a value" in problem("cache-size")


def test_values_are_given_their_types_with_everything_else():
    settings = load(None, parse_options(["uid=5,umask=027,allow_other=no,deadline=5m"]))
    assert (settings.uid, settings.umask, settings.allow_other) == (5, 0o027, False)
    assert settings.deadline == 300


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_concerns_others_is_accepted(name):
    assert parse_options([name, f"{name}=x"]) == {}


def escaped(value):
    return value.replace("\\", "\\\\").replace(",", "\\,")


values = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(st.lists(values, max_size=5))
def test_what_is_escaped_and_joined_is_split_as_it_was(items):
    assert split_options([",".join(map(escaped, items))]) == items


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(st.dictionaries(st.sampled_from(sorted(SETTINGS - {"marketplaces"})), values, max_size=5))
def test_every_setting_passes_unchanged(settings):
    items = [f"{name.replace('_', '-')}={escaped(value)}" for name, value in settings.items()]
    assert parse_options([",".join(items)]) == settings


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_text_is_settings_or_a_user_error(texts):
    try:
        parse_options(texts)
    except UserError as exc:
        assert exc.exit_code == 2
