"""``docker_registry``: a container registry of one's own.

Without a front-end its catalogue is the list; OpenNebula's own driver took the first page only.
BASE_URL is the registry's address, http or https.
Source: the OCI distribution specification 1.1 and Docker's HTTP API V2 (``_catalog``), and
OpenNebula's marketplace driver of this name (6.2 to 6.8).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from urllib.parse import urljoin, urlsplit

import structlog

from nebfs.errors import BadAnswer
from nebfs.fetcher.messages import CallRequest
from nebfs.marketplaces.answers import decoded, judge
from nebfs.marketplaces.driver import Call
from nebfs.marketplaces.identity import numbered
from nebfs.marketplaces.oci_app import app_of
from nebfs.marketplaces.oci_names import DOCKER_HUB, is_repository, registry_at
from nebfs.marketplaces.oci_registry import files_of, offers_of
from nebfs.model import App, Content, Marketplace, Offer, without_credentials
from nebfs.units import MIB

log = structlog.get_logger()

_MAX_PAGE = 16 * MIB
_MAX_NAMES = 100_000
_MAX_PAGES = 10_000
_NEXT = re.compile(r'<([^<>]*)>\s*;(?:[^,<]*;)?\s*rel="?next"?\s*(?:[;,]|$)', re.IGNORECASE)


class DockerRegistryMarketplace:
    """Asks the registry for names when nobody else has them, and for an image when it is opened."""

    def __init__(self, *, call: Call, version: str, platform: str = "") -> None:  # noqa: ARG002
        """`platform` is the one to take of an image that is there for several."""
        self._call = call
        self._platform = platform

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """See MarketplaceDriver. Raises Unsupported when BASE_URL is not a registry's address."""
        registry = registry_of(marketplace)
        if apps is None:
            names = await self._catalogue(registry)
            numbers = numbered(names)
            host = without_credentials(registry).partition("://")[2]
            apps = [app_of(n, numbers[n], marketplace, f"{host}/{n}") for n in names]
        return offers_of(apps, registry, DOCKER_HUB)

    async def contents(self, marketplace: Marketplace, app: App) -> tuple[Content, ...]:
        """See DeferringDriver, and oci_registry.files_of."""
        return await files_of(self._call, app, registry_of(marketplace), DOCKER_HUB, self._platform)

    async def _catalogue(self, registry: str) -> list[str]:
        names: dict[str, None] = {}
        # No page size: what registries allow differs, and their own default is always allowed.
        url: str | None = f"{registry}/v2/_catalog"
        for _ in range(_MAX_PAGES):
            if url is None:
                return list(names)
            request = CallRequest(
                "GET", url, (("Accept", "application/json"),), max_body=_MAX_PAGE, transport="oci"
            )
            answer = await self._call(request)
            shown = without_credentials(url)
            judge(answer, shown, what="catalogue", who="registry")
            page = await decoded(_names, answer.body)
            before = len(names)
            names.update(dict.fromkeys(page))
            url = _following(answer.header("Link"), url, registry)
            if url is not None and (len(names) == before or len(names) > _MAX_NAMES):
                raise BadAnswer("the registry's catalogue does not end", url=shown)
        raise BadAnswer("the registry's catalogue does not end", url=without_credentials(registry))


def registry_of(marketplace: Marketplace) -> str:
    """Return the address in BASE_URL. Raises Unsupported."""
    return registry_at(marketplace.template.get("BASE_URL").strip(), "BASE_URL", marketplace)


def _names(body: bytes) -> list[str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer("the registry's catalogue is not JSON", length=len(body)) from exc
    listed = document.get("repositories") if isinstance(document, dict) else None
    # An empty one may be null, but it is there.
    if not isinstance(document, dict) or "repositories" not in document:
        raise BadAnswer("the registry's answer is not a catalogue", length=len(body))
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise BadAnswer("the registry's answer is not a catalogue", length=len(body))
    usable = [one for one in listed if isinstance(one, str) and is_repository(one)]
    if len(usable) < len(listed):
        log.warning("registry.names_skipped", count=len(listed) - len(usable))
    return usable


def _following(link: str, url: str, registry: str) -> str | None:
    """Return the next page's address: on the same registry, whatever host the link names."""
    found = _NEXT.search(link[:8192])
    if found is None:
        return None
    try:
        parts = urlsplit(urljoin(url, found[1]))
    except ValueError as exc:
        raise BadAnswer("the link to the catalogue's next page is malformed") from exc
    if parts.path != "/v2/_catalog" or not found[1].isprintable() or " " in found[1]:
        raise BadAnswer("the catalogue's next page is somewhere else")
    # A proxy in front of a registry rarely tells it by which name and scheme it is known.
    return f"{registry}/v2/_catalog" + (f"?{parts.query}" if parts.query else "")
