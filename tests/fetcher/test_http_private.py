"""Where an app may have its bytes fetched from: the address counts, and what redirects lead to."""

from __future__ import annotations

import asyncio
import dataclasses
import socket

import pytest
from yarl import URL

from nebfs.errors import NebfsError, Refused
from nebfs.fetcher.messages import CallRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_private import EVERYWHERE, Private

QUICK = FetcherSettings(connect_timeout=10, stall_timeout=10, trust_env=False)

METADATA = "169.254.169.254"
INTERNAL = (
    "127.0.0.1",
    "10.1.2.3",
    "192.168.7.7",
    "172.16.0.1",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fd00:1::5",
    "::ffff:10.1.2.3",
    "64:ff9b::a01:203",
    "2002:a01:203::1",
)
LINK_LOCAL = (METADATA, "fe80::1%eth0", f"::ffff:{METADATA}", "64:ff9b::a9fe:a9fe")
INTERNET = ("8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808")


def settings(private, **changes):
    return dataclasses.replace(QUICK, private_addresses=private, **changes)


def fetch(told, target, request):
    async def run():
        http = Http(told)
        try:
            return await http.fetch(request, target.fd, target.listener())
        finally:
            await http.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize("address", [*INTERNAL, *LINK_LOCAL, *INTERNET])
def test_what_is_allowed(address):
    assert Private("allow").allows(address) == (address not in LINK_LOCAL)
    assert Private("deny").allows(address) == (address in INTERNET)
    assert EVERYWHERE.allows(address)


def test_networks_that_are_named_are_allowed_besides_the_internet():
    private = Private("10.1.0.0/16 fd00:1::/32")
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", *INTERNET):
        assert private.allows(address)
    for address in ("10.2.0.1", "127.0.0.1", METADATA, "fd00:2::5"):
        assert not private.allows(address)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_image_at_a_private_address_is_not_asked_for(serve, origin, target, ranges):
    server = serve(origin if ranges else lambda _: origin.whole())
    request = target.request(server.url + "/d", (0, 10), expected=None)
    with pytest.raises(Refused, match="private_addresses"):
        fetch(settings("deny"), target, request)
    assert server.requests == []
    target.check_untouched()
    fetch(settings("127.0.0.0/8"), target, request)
    assert server.requests


def test_a_redirect_to_a_private_address_is_not_followed(serve, origin, target, answer):
    inside = serve(origin)
    server = serve(lambda _: answer(302, location=f"http://localhost:{inside.port}/d"))
    request = target.request(server.url + "/d", (0, 10), expected=None)

    async def run():
        http = Http(settings("127.0.0.1/32"))
        loop = asyncio.get_running_loop()
        genuine = loop.getaddrinfo

        async def getaddrinfo(host, port, **words):
            # As a name that its owner points at a machine inside.
            return await genuine("127.0.0.2" if host == "localhost" else host, port, **words)

        loop.getaddrinfo = getaddrinfo
        try:
            await http.fetch(request, target.fd, target.listener())
        finally:
            await http.aclose()

    with pytest.raises(Refused, match="private_addresses"):
        asyncio.run(run())
    assert inside.requests == []
    target.check_untouched()


def test_a_name_with_an_address_outside_and_one_inside_is_asked_outside_only():
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80)),
    ]

    async def run():
        async def getaddrinfo(*_words, **_more):
            return found

        asyncio.get_running_loop().getaddrinfo = getaddrinfo
        return await Private("deny").resolve(URL("http://example.org/"))

    assert asyncio.run(run()) == found[1:]


def test_through_a_proxy_addresses_are_judged_and_names_are_left_to_it(serve, target):
    proxy = serve(lambda _: b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    def asked(told, url):
        async def run():
            http = Http(told)
            http._connections._proxies = {"http": proxy.url}
            try:
                request = target.request(url, (0, 10), expected=None)
                await http.fetch(request, target.fd, target.listener())
            finally:
                await http.aclose()

        with pytest.raises(NebfsError) as failure:
            asyncio.run(run())
        return failure.value

    assert isinstance(asked(settings("deny"), "http://10.1.2.3/d"), Refused)
    assert proxy.requests == []
    assert not isinstance(asked(settings("deny"), "http://inside.invalid/d"), Refused)
    assert len(proxy.requests) >= 1


def test_what_the_administrator_has_named_is_asked_wherever_it_is(serve, origin):
    """The front-end and marketplaces: nobody else says where they are."""
    server = serve(origin)

    async def run():
        http = Http(settings("deny"))
        try:
            return await http.call(CallRequest("GET", server.url + "/RPC2"))
        finally:
            await http.aclose()

    assert asyncio.run(run()).status == 200
