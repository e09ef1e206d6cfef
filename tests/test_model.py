"""What of an address may be shown."""

from __future__ import annotations

import pytest

from nebfs.model import shown_text, without_credentials


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://bob:canary@h:80/a/b?sig=canary#canary", "https://h:80/a/b"),
        ("http://bob:canary@[::1]/a", "http://[::1]/a"),
        ("lxd://https://images.example.org/a/b:c?size=1", "lxd://https://images.example.org/a/b:c"),
        ("lxd://https://bob:canary@h/images/x?size=1", "lxd://https://h/images/x"),
        ("LXD://HTTP://bob:canary@h", "LXD://http://h"),
        ("a://" * 5000 + "http://bob:canary@h/x", "a://" * 5000 + "http://h/x"),
        ("lxd://http:/bob:canary@h/x", "lxd://[a broken URL]"),
        ("lxd://http://[canary", "lxd://[a broken URL]"),
        ("http://[canary", "[a broken URL]"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("/var/lib/one/x", "/var/lib/one/x"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_lets_somebody_in(url, shown):
    assert without_credentials(url) == shown


def test_addresses_in_a_text_are_shown_so_too():
    text = "copying lxd://http://bob:canary@h/x?sig=canary to http://a:canary@b failed"
    assert shown_text(text) == "copying lxd://http://h/x to http://b failed"
