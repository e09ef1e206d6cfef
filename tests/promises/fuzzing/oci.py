"""What a registry of container images answers. The first byte says which answer, and its type."""

from __future__ import annotations

from nebfs.marketplaces import docker_registry, dockerhub, oci
from nebfs.marketplaces.oci_names import name_in

TYPES = (
    "",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
)


def one(data: bytes) -> None:
    """What is read names blobs by digests that can be checked, and nothing else."""
    if not data:
        return
    which, body = data[0] % 6, data[1:]
    if which < len(TYPES):
        _manifest(body, TYPES[which])
    elif which == 3:
        repr(docker_registry._names(body)).encode()
    elif which == 4:
        listed, following = dockerhub._page(body)
        repr(listed).encode()
        url = "https://hub.docker.com/v2/repositories/library"
        dockerhub._next(following, url, "https://hub.docker.com")
    else:
        try:
            name = name_in(body.decode("utf-8", "replace"), "registry.example.org")
        except ValueError as exc:  # which its callers know
            str(exc).encode()
            return
        repr(name).encode()


def _manifest(body: bytes, content_type: str) -> None:
    found = oci.read(body, content_type)
    if isinstance(found, oci.Index):
        assert oci.is_digest(oci.chosen(found, oci.Platform("linux", "amd64")))
        return
    for blob in (*found.layers, *filter(None, [found.config])):
        assert oci.is_digest(blob.digest)
        assert blob.format in {"", "tar", "json"}
        repr(blob.checksum).encode()
