"""Asking a container registry: its answers judged, and the files that an image consists of.

What `dockerhub` and `docker_registry` share. An image is shown as what the registry keeps of it,
blob by blob; OpenNebula's own way, to build a disk out of them as root, gives another disk each
time. Everything goes by the transport ``oci``, which knows a registry's tokens.
Source: the OCI distribution specification 1.1.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from nebfs.errors import BadAnswer
from nebfs.fetcher.messages import CallRequest
from nebfs.marketplaces.answers import decoded, judge
from nebfs.marketplaces.driver import Call
from nebfs.marketplaces.oci import (
    ACCEPTED,
    Descriptor,
    Manifest,
    Platform,
    check,
    chosen,
    digest_of,
    is_digest,
    read,
)
from nebfs.marketplaces.oci_names import ImageName, name_in
from nebfs.marketplaces.record import is_template, trouble_of
from nebfs.model import App, Checksum, Content, Locator, Offer, Trouble, without_credentials
from nebfs.units import MIB

SOURCES = frozenset({"docker"})
"""The schemes of SOURCE that these marketplaces read; ``dockerfile`` would have to be built."""

DEFAULT_PLATFORM = "linux/amd64"

# What registries have to take, and most do not take more.
_MAX_MANIFEST = 4 * MIB
# A tag, an index, and an index in an index: nobody makes more.
_MAX_STEPS = 3


def offers_of(apps: Sequence[App], registry: str, hub: str) -> tuple[Offer, ...]:
    """Return each app with the promise of its files, or with what its record alone says against."""
    return tuple(_offer(app, registry, hub) for app in sorted(apps, key=lambda app: app.id))


def _offer(app: App, registry: str, hub: str) -> Offer:
    trouble = trouble_of(app, SOURCES)
    if trouble is None and not is_template(app):
        try:
            name_in(app.source, registry, hub)
        except ValueError as exc:
            trouble = Trouble(errno.EIO, f"the app's SOURCE is not the name of an image: {exc}")
    return Offer(app, trouble=trouble, deferred=trouble is None and not is_template(app))


async def files_of(
    call: Call, app: App, registry: str, hub: str, platform: str
) -> tuple[Content, ...]:
    """Return the files of an app's image: ``manifest``, ``config``, and ``layer-00`` and so on.

    `registry` and `hub` are those of `offers_of`. Raises Missing (no such image, tag or platform),
    Refused, Unreachable, BadAnswer or Unsupported (a manifest of a kind that is not read).
    """
    try:
        name = name_in(app.source, registry, hub)
    except ValueError as exc:
        raise BadAnswer("the app's SOURCE is not the name of an image", id=app.id) from exc
    wanted = Platform.of(platform or DEFAULT_PLATFORM)
    reference = name.tag
    for _ in range(_MAX_STEPS):
        digest, body, content_type = await _manifest(call, name, reference)
        found = await decoded(read, body, content_type)
        if isinstance(found, Manifest):
            return tuple(_files(name, found, digest))
        reference = chosen(found, wanted)
    raise BadAnswer("the image is an index of indexes of indexes", image=name.repository)


async def _manifest(call: Call, name: ImageName, reference: str) -> tuple[str, bytes, str]:
    """Return its digest, it, and the type that the registry gives it."""
    url = _manifest_url(name, reference)
    answer = await call(
        CallRequest("GET", url, (("Accept", ACCEPTED),), max_body=_MAX_MANIFEST, transport="oci")
    )
    judge(answer, without_credentials(url), what="image", who="registry")
    digest = reference
    if not is_digest(digest):
        announced = answer.header("Docker-Content-Digest")
        digest = announced if is_digest(announced) else digest_of(answer.body)
    check(answer.body, digest)
    return digest, answer.body, answer.header("Content-Type")


def _files(name: ImageName, manifest: Manifest, digest: str) -> Iterator[Content]:
    # An own Accept: without it a registry may answer with another document than the digest's.
    accept = (("header:Accept", ACCEPTED),)
    algorithm, _, digits = digest.partition(":")
    yield Content(
        locator=Locator("oci", _manifest_url(name, digest), accept),
        label="manifest",
        format="json",
        checksums=(Checksum(algorithm, digits),),
        version=digest,
    )
    if manifest.config is not None:
        yield _blob(name, manifest.config, "config")
    width = max(2, len(str(len(manifest.layers) - 1)))
    for place, layer in enumerate(manifest.layers):
        yield _blob(name, layer, f"layer-{place:0{width}}")


def _blob(name: ImageName, blob: Descriptor, label: str) -> Content:
    return Content(
        locator=Locator("oci", f"{name.registry}/v2/{name.repository}/blobs/{blob.digest}"),
        label=label,
        format=blob.format,
        checksums=(blob.checksum,),
        # Its own, and not the image's: the next version's layers are mostly the same, and cached.
        version=blob.digest,
    )


def _manifest_url(name: ImageName, reference: str) -> str:
    return f"{name.registry}/v2/{name.repository}/manifests/{reference}"
