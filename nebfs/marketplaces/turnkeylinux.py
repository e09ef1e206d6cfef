"""``turnkeylinux``: archives of root filesystems on a web server that lists its directory.

OpenNebula (until 6.8) built a disk of the archive at import: its MD5 verifies nothing. Here the
archive is offered as published. Its checksums are in a file beside it, which is asked for when the
app is opened. An archive that was replaced stands for the newest of the same application.
Source: OpenNebula's marketplace driver of this name (6.8).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote

import structlog

from nebfs.errors import BadAnswer, Missing
from nebfs.marketplaces.answers import decoded, document, endpoint_of
from nebfs.marketplaces.container_app import app_of_archive
from nebfs.marketplaces.driver import Call
from nebfs.marketplaces.identity import numbered
from nebfs.marketplaces.record import is_template, trouble_of
from nebfs.marketplaces.turnkey_index import (
    DIRECTORY,
    Archive,
    archive_named,
    newest,
    read_hashes,
    read_listing,
    successor,
)
from nebfs.model import (
    App,
    Checksum,
    Content,
    Locator,
    Marketplace,
    Offer,
    Trouble,
    without_credentials,
)
from nebfs.units import KIB, MIB

log = structlog.get_logger()

DEFAULT_ENDPOINT = "http://mirror.turnkeylinux.org"
SCHEMES = frozenset({"lxd"})

# The page has some hundred links. A text of checksums has about 2 KiB.
_MAX_PAGE = 8 * MIB
_MAX_HASHES = 64 * KIB
# OpenNebula passes over what is for older releases: its hosts do not start them.
_OLDEST_DEBIAN = 9


class TurnkeyLinuxMarketplace:
    """Reads the page of the archives; an app's checksums when the app is opened."""

    def __init__(
        self,
        *,
        call: Call,
        version: str,  # noqa: ARG002 - of every driver, as is the platform
        platform: str = "",  # noqa: ARG002
    ) -> None:
        """All archives are for amd64, and the same for every version of OpenNebula."""
        self._call = call

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """See MarketplaceDriver. Raises Unsupported when ENDPOINT is not an HTTP address."""
        base = endpoint_of(marketplace, DEFAULT_ENDPOINT)
        archives = await self._archives(base)
        if apps is None:
            apps = _own_apps(archives, marketplace, base)
        return tuple(_offer(app, archives) for app in sorted(apps, key=lambda app: app.id))

    async def contents(self, marketplace: Marketplace, app: App) -> tuple[Content, ...]:
        """See DeferringDriver. Raises Missing when neither the archive nor a newer one is there."""
        base = endpoint_of(marketplace, DEFAULT_ENDPOINT)
        archive = _chosen(app, await self._archives(base))
        if archive is None:
            raise Missing("the marketplace does not list this archive any more")
        url = f"{base}{DIRECTORY}{quote(archive.name)}"
        content = Content(
            locator=Locator("http", url),
            format="tar",
            checksums=await self._checksums(url, archive),
            version=archive.version,
        )
        return (content,)

    async def _archives(self, base: str) -> Mapping[str, Archive]:
        url = base + DIRECTORY
        body = await document(self._call, url, accept="text/html", max_body=_MAX_PAGE)
        archives = await decoded(read_listing, body, without_credentials(url))
        if not archives:
            # A page for people, a login, an empty mirror: nothing of it says that apps are gone.
            raise BadAnswer("the marketplace's page has no archives", length=len(body))
        return archives

    async def _checksums(self, url: str, archive: Archive) -> tuple[Checksum, ...]:
        try:
            body = await document(
                self._call, f"{url}.hash", accept="text/plain", max_body=_MAX_HASHES
            )
        except Missing:
            log.info("turnkeylinux.no_checksums", archive=archive.name)
            return ()
        found = read_hashes(body, archive.name)
        if not found:
            log.warning("turnkeylinux.no_usable_checksums", archive=archive.name)
        return found


def _own_apps(archives: Mapping[str, Archive], marketplace: Marketplace, base: str) -> list[App]:
    shown = {
        f"debian-{one.debian}-turnkey-{one.app}": one
        for one in newest(archives.values())
        if one.debian >= _OLDEST_DEBIAN
    }
    numbers = numbered(shown)
    return [app_of_archive(one, numbers[key], marketplace, base) for key, one in shown.items()]


def _offer(app: App, archives: Mapping[str, Archive]) -> Offer:
    trouble = trouble_of(app, SCHEMES)
    if trouble is not None or is_template(app):
        return Offer(app, trouble=trouble)
    if _recorded(app) is None:
        reason = "the app's SOURCE names no archive of TurnKey Linux"
        return Offer(app, trouble=Trouble(errno.EIO, reason))
    if _chosen(app, archives) is None:
        reason = "the marketplace does not list this archive any more"
        return Offer(app, trouble=Trouble(errno.EIO, reason))
    return Offer(app, deferred=True)


def _recorded(app: App) -> Archive | None:
    """Return the archive that SOURCE names: ``lxd://http://host//directory//file?options``."""
    path = app.source.partition("://")[2].partition("?")[0]
    return archive_named(unquote(path.rstrip("/").rpartition("/")[2]))


def _chosen(app: App, archives: Mapping[str, Archive]) -> Archive | None:
    """Return the recorded archive, or the one that stands for it."""
    recorded = _recorded(app)
    if recorded is None:
        return None
    return archives.get(recorded.name) or successor(recorded, archives.values())
