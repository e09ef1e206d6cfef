"""``ontap``: the REST API of NetApp's arrays. ``Http``, and the user and the password it wants.

Each request carries them (HTTP Basic). What the file of credentials says about the array comes
first, then what the request brings: OpenNebula may have a password in a datastore's template.
NetApp's own client (netapp-ontap) is synchronous and has an HTTP stack of its own, which would pass
our proxies, authorities and deadlines by; what is asked here are a few documents.
Source: ONTAP 9 REST API, "Getting started": authentication.
"""

from __future__ import annotations

from collections.abc import Mapping

from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports.http import Http
from nebfs.fetcher.transports.http_addresses import headers_of
from nebfs.fetcher.transports.http_connections import Connections, Target, first_target
from nebfs.fetcher.transports.http_sessions import no_login, require_tls, wrong_login
from nebfs.model import Locator

_AUTHORIZATION = "authorization"


class Users:
    """The Addresses of places that want a user and a password with every request."""

    def __init__(self, connections: Connections) -> None:
        """`connections` knows the file of credentials."""
        self._connections = connections

    def known(self, locator: Locator) -> Target | None:
        """See Addresses. Raises Refused (see `no_login`)."""
        made = first_target(locator.address, headers_of(locator))
        require_tls(made)
        given = {name.lower(): text for name, text in made.headers}
        known = self._connections.accesses.of(str(made.url)).authorization
        shown = known or given.get(_AUTHORIZATION, "")
        if not shown:
            raise no_login(made)
        bare = tuple(h for h in made.headers if h[0].lower() != _AUTHORIZATION)
        return Target(made.url, (*bare, ("Authorization", shown)))

    async def find(self, locator: Locator) -> Target:
        """See `known`."""
        target = self.known(locator)
        assert target is not None  # noqa: S101 - it never is
        return target

    async def renewed(
        self,
        locator: Locator,  # noqa: ARG002 - of the protocol, as are the others
        target: Target,
        status: int,
        headers: Mapping[str, str],  # noqa: ARG002
    ) -> bool:
        """A user and a password stay what they are."""
        if status == 401:
            raise wrong_login("the place refuses the user or the password", target.shown)
        return False


class Ontap(Http):
    """The transport ``ontap``."""

    def __init__(self, settings: FetcherSettings) -> None:
        """Raises UserError (the file of credentials)."""
        connections = Connections(settings)
        super().__init__(settings, connections, Users(connections))
