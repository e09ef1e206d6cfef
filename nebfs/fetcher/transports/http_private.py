"""Which addresses an image may be fetched from, whoever says that it is there.

Where an app's bytes are is said by its publisher, or by a server that redirects. Without a limit
nebfs would ask on their behalf whatever this machine can reach and show what is answered. So the
address that a connection goes to is judged, and not the name: what a name means can change.

Link-local addresses are never asked: at 169.254.169.254 clouds give credentials to their machines.
What else is not of the internet (IANA's registries of special-purpose addresses, RFC 6890) is asked
or not, as the setting ``private_addresses`` says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from yarl import URL

from nebfs.errors import Refused
from nebfs.model import without_credentials

AddrInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""What getaddrinfo returns: family, type, protocol, name, and an address to connect to."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses that a translator makes IPv4 of (RFC 6052)."""


class Private:
    """The limit. `told` is the setting: ``allow``, ``deny``, or networks, separated by blanks, that
    are allowed besides the internet.
    """

    def __init__(self, told: str = "allow") -> None:
        self._all = told == "allow"
        named = () if told in {"allow", "deny"} else told.split()
        self._named: tuple[_Network, ...] = tuple(map(ipaddress.ip_network, named))

    def allows(self, text: str) -> bool:
        """Say whether an address, as getaddrinfo writes it, may be asked."""
        address = _embedded(ipaddress.ip_address(text.partition("%")[0]))
        if any(address in network for network in self._named):
            return True
        if address.is_link_local:
            return False
        return self._all or (address.is_global and not address.is_multicast)

    async def resolve(self, url: URL) -> Sequence[AddrInfo]:
        """Return the addresses of the host of `url` that may be asked.

        Raises Refused when there are others only, and OSError or UnicodeError for what is no name.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.host or "", url.port or 0, type=socket.SOCK_STREAM)
        allowed = [one for one in found if self.allows(str(one[4][0]))]
        if found and not allowed:
            raise self._refused(url)
        return allowed

    async def vet(self, url: URL, *, proxied: bool) -> None:
        """Raise Refused when `url` leads where nothing may be asked; of what a proxy is asked for
        only addresses are judged, as the proxy alone knows what names mean.
        """
        if not proxied:
            await self.resolve(url)
        elif _is_address(url.host or "") and not self.allows(url.host or ""):
            raise self._refused(url)

    def _refused(self, url: URL) -> Refused:
        return Refused(
            "the image is said to be at a private address, which private_addresses does not allow",
            url=without_credentials(str(url)),
        )


EVERYWHERE = Private("0.0.0.0/0 ::/0")
"""For places that the administrator has named himself."""


def _embedded(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address stands for, or itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _is_address(host: str) -> bool:
    """Say whether a host is named by its address."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
