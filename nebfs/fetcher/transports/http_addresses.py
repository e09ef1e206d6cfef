"""Where the bytes of a locator are in HTTP's words, and what their host is shown.

For most of them that is the locator's own address (``Plain``). An object store wants a signature
and a registry a token: their transports bring an ``Addresses`` of their own, and leave ranges,
redirects and failures to ``Http``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cachetools import LRUCache

from nebfs.fetcher.transports.http_connections import Connections, Target, first_target
from nebfs.model import Locator

REFUSED = frozenset((400, 401, 403))
"""What a host answers to somebody whose token or signature is not good (any more). 400: object
stores say so to a signature of a kind that they do not know."""

_HEADER = "header:"


class Addresses(Protocol):
    """Says how the bytes of a locator are asked for now."""

    def known(self, locator: Locator) -> Target | None:
        """Return what `find` would, if that can be had without waiting."""
        ...

    async def find(self, locator: Locator) -> Target:
        """Return the address and headers to ask with. Raises NebfsError."""
        ...

    async def renewed(
        self, locator: Locator, target: Target, status: int, headers: Mapping[str, str]
    ) -> bool:
        """Whether to ask `find` again, now that `target` was answered with a `status` of REFUSED.

        Raises NebfsError to say better than the status what is wrong.
        """
        ...


class Plain:
    """Locators whose address is a URL. Option ``header:NAME`` is a header for its host."""

    def __init__(self, connections: Connections) -> None:
        """`connections` knows who is shown what."""
        self._connections = connections
        self._targets: LRUCache[Locator, Target] = LRUCache(1024)

    def known(self, locator: Locator) -> Target | None:
        """Return the target: it is always known. Raises BadAnswer for a malformed address."""
        target = self._targets.get(locator)
        if target is None:
            made = first_target(locator.address, headers_of(locator))
            target = self._targets[locator] = self._connections.authorized(made)
        return target

    async def find(self, locator: Locator) -> Target:
        """See `known`."""
        target = self.known(locator)
        assert target is not None  # noqa: S101 - it never is
        return target

    async def renewed(
        self,
        locator: Locator,  # noqa: ARG002 - of the protocol, as are the others
        target: Target,  # noqa: ARG002
        status: int,  # noqa: ARG002
        headers: Mapping[str, str],  # noqa: ARG002
    ) -> bool:
        """A user and a password stay what they are."""
        return False


def headers_of(locator: Locator) -> tuple[tuple[str, str], ...]:
    """Return the headers that the locator's options hold."""
    return tuple(
        (name.removeprefix(_HEADER), text)
        for name, text in locator.options
        if name.startswith(_HEADER)
    )
