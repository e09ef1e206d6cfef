"""Names of container images: what an app's SOURCE, or a registry's list, may call one.

``docker://[HOST[:PORT]/]NAME?tag=TAG`` and options that say how OpenNebula would build a disk of
it. Names become parts of URLs: nothing that is not spelled as a name gets that far.
Source: the OCI distribution specification 1.1 (names and tags), Docker's rule which first part of
a name is a host, and the SOURCE of OpenNebula's ``dockerhub`` and ``docker_registry`` apps (6.8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlencode, urlsplit

from nebfs.errors import Unsupported
from nebfs.marketplaces.answers import http_parts
from nebfs.model import Marketplace

DOCKER_HUB = "https://registry-1.docker.io"
"""Where Docker Hub keeps the bytes."""

_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(r"(?:[a-z0-9]+(?:[._-]+[a-z0-9]+)*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_HUBS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_MAX_REPOSITORY = 255
_DEFAULTS = {"IMAGE_SIZE_MB": "2048", "FILESYSTEM": "ext4", "FORMAT": "raw"}


@dataclass(frozen=True, slots=True)
class ImageName:
    """An image: where its registry is (an URL without a path), its repository, its tag."""

    registry: str
    repository: str
    tag: str = "latest"


def is_repository(text: str) -> bool:
    """Whether a registry may have a repository of this name."""
    return len(text) <= _MAX_REPOSITORY and _REPOSITORY.fullmatch(text) is not None


def name_in(source: str, registry: str, hub: str = DOCKER_HUB) -> ImageName:
    """Read an app's SOURCE. Raises ValueError when it is not the name of an image.

    `registry` is the address of the marketplace's own registry, which is asked for every name that
    begins with its host; `hub` is asked for names without a host, as Docker would ask Docker Hub.
    Any other host is asked by https.
    """
    parts = urlsplit(source)
    if parts.scheme.lower() != "docker":
        raise ValueError("it does not begin with docker://")
    first, _, rest = (parts.netloc + parts.path).partition("/")
    own = _shown_host(registry)
    tag = parse_qs(parts.query, max_num_fields=100).get("tag", ["latest"])[0]
    if not _TAG.fullmatch(tag):
        raise ValueError("its tag is not one")
    if first.lower() == own and rest:
        return _checked(registry, rest, tag)
    if "." not in first and ":" not in first and first != "localhost":
        name = f"{first}/{rest}" if rest else f"library/{first}"
        return _checked(hub, name, tag)
    host = first.lower()
    if not _HOST.fullmatch(host):
        raise ValueError("its host is not one")
    if host in _HUBS:
        return _checked(hub, rest if "/" in rest else f"library/{rest}", tag)
    return _checked(f"https://{host}", rest, tag)


def source_of(name: str, marketplace: Marketplace) -> str:
    """Return the SOURCE that OpenNebula would record for the image `name` (host included)."""
    options = {
        key: marketplace.template.get(attribute).strip() or _DEFAULTS[attribute]
        for key, attribute in (
            ("size", "IMAGE_SIZE_MB"),
            ("filesystem", "FILESYSTEM"),
            ("format", "FORMAT"),
        )
    }
    return f"docker://{name}?{urlencode(options)}"


def registry_at(address: str, attribute: str, marketplace: Marketplace) -> str:
    """Return a registry's address, of the marketplace's `attribute`, without a slash at its end.

    Raises Unsupported when it is not an HTTP address, or has a path (a registry has none).
    """
    parts = http_parts(address)
    if parts is None or parts.port == 0:
        raise Unsupported(
            f"the marketplace's {attribute} is not an HTTP address", id=marketplace.id
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise Unsupported(
            f"the marketplace's {attribute} is more than the address of a registry",
            id=marketplace.id,
        )
    return f"{parts.scheme.lower()}://{parts.netloc}"


def _shown_host(address: str) -> str:
    return urlsplit(address).netloc.rpartition("@")[2].lower()


def _checked(registry: str, repository: str, tag: str) -> ImageName:
    if not is_repository(repository):
        raise ValueError("its name is not one")
    return ImageName(registry, repository, tag)
