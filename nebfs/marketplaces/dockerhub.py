"""``dockerhub``: the official images of Docker Hub.

ENDPOINT (https://hub.docker.com when it is empty) has the list; the bytes are at
registry-1.docker.io. Any other ENDPOINT is taken for a service that has both: its registry is at
the same address.
Source: Docker Hub's API (``/v2/repositories/library/``, pages by ``next``), and OpenNebula's
marketplace driver of this name (5.12 to 6.8).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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

DEFAULT_ENDPOINT = "https://hub.docker.com"

_LIST = "/v2/repositories/library/"
_PAGE_SIZE = 100  # the most that Docker Hub gives at once
_MAX_PAGE = 16 * MIB
_MAX_PAGES = 1000
_MAX_DESCRIPTION = 4000
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class _Listed:
    """An image as the list describes it; `published` is its entry as JSON text."""

    name: str
    published: str
    description: str
    updated: int


class DockerHubMarketplace:
    """Asks Docker Hub for its list when there is no other, and for an image when it is opened."""

    def __init__(self, *, call: Call, version: str, platform: str = "") -> None:  # noqa: ARG002
        """`platform` is the one to take of an image that is there for several."""
        self._call = call
        self._platform = platform

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """See MarketplaceDriver. Raises Unsupported when ENDPOINT is not an HTTP address."""
        endpoint, registry = places_of(marketplace)
        if apps is not None:
            return offers_of(apps, registry, registry)
        listed = await self._list(endpoint)
        numbers = numbered(listed)
        host = without_credentials(endpoint).partition("://")[2]
        own = {
            number: app_of(
                name,
                number,
                marketplace,
                name,
                description=listed[name].description,
                created=listed[name].updated,
                publisher=host,
            )
            for name, number in numbers.items()
        }
        published = {numbers[name]: entry.published for name, entry in listed.items()}
        offers = offers_of(list(own.values()), registry, registry)
        return tuple(replace(offer, published=published[offer.app.id]) for offer in offers)

    async def contents(self, marketplace: Marketplace, app: App) -> tuple[Content, ...]:
        """See DeferringDriver, and oci_registry.files_of."""
        _, registry = places_of(marketplace)
        return await files_of(self._call, app, registry, registry, self._platform)

    async def _list(self, endpoint: str) -> dict[str, _Listed]:
        found: dict[str, _Listed] = {}
        url: str | None = f"{endpoint}{_LIST}?page_size={_PAGE_SIZE}"
        for _ in range(_MAX_PAGES):
            if url is None:
                return found
            request = CallRequest("GET", url, (("Accept", "application/json"),), max_body=_MAX_PAGE)
            answer = await self._call(request)
            shown = without_credentials(url)
            judge(answer, shown, what="list", who="registry")
            page, following = await decoded(_page, answer.body)
            before = len(found)
            found.update((one.name, one) for one in page)
            url = _next(following, url, endpoint)
            if url is not None and len(found) == before:
                break
        raise BadAnswer("the list does not end", url=without_credentials(endpoint))


def places_of(marketplace: Marketplace) -> tuple[str, str]:
    """Return where the list is and where the bytes are. Raises Unsupported."""
    text = marketplace.template.get("ENDPOINT").strip() or DEFAULT_ENDPOINT
    endpoint = registry_at(text, "ENDPOINT", marketplace)
    hub = urlsplit(endpoint).hostname == urlsplit(DEFAULT_ENDPOINT).hostname
    return endpoint, DOCKER_HUB if hub else endpoint


def _page(body: bytes) -> tuple[list[_Listed], str]:
    """Return the entries of one page, and where the next one is (empty for the last)."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer("the list is not JSON", length=len(body)) from exc
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(results, list):
        raise BadAnswer("the answer is not a list of images", length=len(body))
    found = [one for one in map(_listed, results) if one is not None]
    if len(found) < len(results):
        log.warning("dockerhub.entries_skipped", count=len(results) - len(found))
    following = document.get("next")
    if following is not None and not isinstance(following, str):
        raise BadAnswer("the list does not say where it goes on")
    return found, following or ""


def _listed(entry: object) -> _Listed | None:
    if not isinstance(entry, dict):
        return None
    name = entry.get("name")
    if not isinstance(name, str) or "/" in name or not is_repository(name):
        return None
    description = entry.get("description")
    text = description if isinstance(description, str) else ""
    published = json.dumps(entry, ensure_ascii=False)
    return _Listed(
        name,
        # JSON can hold half of a surrogate pair, which cannot be saved.
        published.encode("utf-8", "replace").decode("utf-8"),
        text[:_MAX_DESCRIPTION].encode("utf-8", "replace").decode("utf-8"),
        _seconds(entry.get("last_updated")),
    )


def _seconds(value: object) -> int:
    """Return ``2026-11-20T08:59:03.768123Z`` as seconds since the epoch; 0 for anything else."""
    found = _MOMENT.match(value) if isinstance(value, str) else None
    if found is None:
        return 0
    try:
        return max(0, int(datetime.fromisoformat(found[0]).replace(tzinfo=UTC).timestamp()))
    except ValueError:
        return 0


def _next(following: str, url: str, endpoint: str) -> str | None:
    """Return the next page's address, which has to be of the same host."""
    if not following:
        return None
    try:
        parts = urlsplit(urljoin(url, following))
        here = urlsplit(endpoint)
        same = parts.hostname == here.hostname and parts.username is None
        if parts.scheme == here.scheme:
            same = same and parts.port == here.port
    except ValueError as exc:
        raise BadAnswer("the address of the list's next page is malformed") from exc
    if not same or parts.path.rstrip("/") != _LIST.rstrip("/"):
        raise BadAnswer("the list's next page is somewhere else")
    if not following.isprintable() or " " in following:
        raise BadAnswer("the address of the list's next page is malformed")
    # What stands behind a proxy that speaks TLS for it may write http.
    return f"{endpoint}{_LIST}?{parts.query}"
