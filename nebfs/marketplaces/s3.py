"""``s3``: a private marketplace, objects in one bucket of an object store.

OpenNebula's database is the only index: the bucket knows keys such as ``marketapp-12`` and no
names. SOURCE is ``s3://BUCKET/KEY``; where that is in HTTP's words is said by the marketplace's
template, in the rules of its own drivers: with ENDPOINT the bucket is a part of the path there,
without it the bucket is a host of Amazon's. The template's keys go with each locator; whose keys
count is decided by the transport. An object's ETag is no checksum: OpenNebula uploads in parts.
Source: OpenNebula's marketplace driver of this name (7.4), and its downloader.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from nebfs.errors import Unsupported
from nebfs.marketplaces.answers import http_parts
from nebfs.marketplaces.driver import Call
from nebfs.marketplaces.record import is_template, recorded_content, trouble_of
from nebfs.model import App, Locator, Marketplace, Offer, Trouble

DEFAULT_REGION = "us-east-1"

_SCHEMES = frozenset({"s3"})
_REGION = re.compile(r"[A-Za-z0-9_-]{1,64}")
# A bucket of any other name cannot be a part of a host's name; one with dots would be, but no
# certificate is for it.
_HOST_PART = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class _Store:
    """What a marketplace's template says about its object store."""

    endpoint: str
    """Its address without a slash at the end."""
    region: str
    signature: str
    """SIGNATURE_VERSION: ``s3`` is version 2, ``v4`` is version 4, or nothing was said."""
    as_host: bool
    """Whether buckets are to be hosts below the endpoint's."""
    access_key_id: str = field(default="", repr=False)
    secret_access_key: str = field(default="", repr=False)

    def base(self, bucket: str) -> str:
        """Return the address of everything in `bucket`, with a slash at the end."""
        if self.as_host and _HOST_PART.fullmatch(bucket):
            scheme, _, rest = self.endpoint.partition("://")
            return f"{scheme}://{bucket}.{rest}/"
        return f"{self.endpoint}/{quote(bucket, safe='')}/"

    def locator(self, bucket: str, key: str) -> Locator:
        """Return where an object is."""
        base = self.base(bucket)
        options = {
            "base": base,
            "bucket": bucket,
            "region": self.region,
            "signature": self.signature,
            "access-key-id": self.access_key_id,
            "secret-access-key": self.secret_access_key,
        }
        # Signatures are over the very characters that are sent: all but these are encoded.
        address = base + quote(key, safe="/-_.~")
        return Locator("s3", address, tuple((k, v) for k, v in options.items() if v))


class S3Marketplace:
    """Offers each app's SOURCE. It asks nobody: what there is to know is in two records."""

    def __init__(self, *, call: Call, version: str, platform: str = "") -> None:
        """They are every driver's; this one needs none."""

    async def offers(
        self, marketplace: Marketplace, apps: Sequence[App] | None
    ) -> tuple[Offer, ...]:
        """See MarketplaceDriver. Raises Unsupported without a front-end, or when the template says
        no usable address.
        """
        if apps is None:
            raise Unsupported(
                "a marketplace of type 's3' has no list of its own: mount it through OpenNebula",
                marketplace=marketplace.name,
            )
        store = _store_of(marketplace)
        return tuple(_offer(app, store) for app in sorted(apps, key=lambda app: app.id))


def _store_of(marketplace: Marketplace) -> _Store:
    def said(key: str) -> str:
        return marketplace.template.get(key).strip()

    region = said("REGION") or DEFAULT_REGION
    if not _REGION.fullmatch(region):
        raise Unsupported("the marketplace's REGION is not a region's name", id=marketplace.id)
    endpoint, by_path, amazon = said("ENDPOINT"), said("FORCE_PATH_STYLE"), said("AWS")
    if not endpoint:
        china = ".cn" if region.startswith("cn-") else ""
        endpoint = f"https://s3.{region}.amazonaws.com{china}"
        as_host = by_path.upper() != "YES"
    else:
        endpoint, host = _usable(endpoint, marketplace)
        wanted = by_path.upper() == "NO" or (amazon.upper() == "YES" and by_path.upper() != "YES")
        as_host = wanted and not _is_address(host)
    signature = said("SIGNATURE_VERSION").lower()
    return _Store(
        endpoint,
        region,
        signature if signature in {"s3", "v4"} else "",
        as_host,
        said("ACCESS_KEY_ID"),
        said("SECRET_ACCESS_KEY"),
    )


def _usable(endpoint: str, marketplace: Marketplace) -> tuple[str, str]:
    """Return an ENDPOINT that is an HTTP address, without what does not belong into it, and its
    host.
    """
    parts = http_parts(endpoint)
    host = parts.hostname if parts is not None else None
    if parts is None or not host or parts.query:
        raise Unsupported("the marketplace's ENDPOINT is not an HTTP address", id=marketplace.id)
    place = parts.netloc.rpartition("@")[2]  # an object store knows keys, and no users
    return f"{parts.scheme.lower()}://{place}{parts.path.rstrip('/')}", host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _offer(app: App, store: _Store) -> Offer:
    trouble = trouble_of(app, _SCHEMES)
    if trouble is not None or is_template(app):
        return Offer(app, trouble=trouble)
    # By hand and not by urlsplit: a key may hold any character, and is written as it is.
    bucket, _, key = app.source.partition("://")[2].partition("/")
    if not key or set("@:?#") & set(bucket):
        return Offer(app, trouble=Trouble(errno.EIO, "the app's SOURCE names no object"))
    if {".", ".."} & set(key.split("/")):
        # Whatever is between here and the object store would take it for a way through folders.
        return Offer(app, trouble=Trouble(errno.EIO, "the app's SOURCE cannot be asked for"))
    return Offer(app, (replace(recorded_content(app), locator=store.locator(bucket, key)),))
