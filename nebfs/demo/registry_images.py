"""The container images of the demonstration, and the two marketplaces that show them.

An image of several platforms with an attestation, one in Docker's own words, one with the same
layer twice. Published as a registry names them: by repository, and by tag or digest.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import shutil
import tarfile
from pathlib import Path

from nebfs.demo.catalogue import attributes, base64_text
from nebfs.demo.cloud import Cloud, JsonObject
from nebfs.demo.images import EPOCH
from nebfs.demo.records import SHARED, AppRecord, MarketplaceRecord
from nebfs.units import KIB, MIB

DOCKER_HUB, REGISTRY = 102, 103
"""The marketplaces' ids."""

RECIPE = "1"
"""Counts changes of what is made: images of another recipe are made again."""

LAYER_SIZE = 6 * MIB
"""Of the largest layer's content, which does not compress."""

_OCI = "application/vnd.oci.image."
_DOCKER = "application/vnd.docker."
_WORDS = {
    _OCI: ("manifest.v1+json", "config.v1+json", "layer.v1.tar+gzip"),
    _DOCKER: (
        "distribution.manifest.v2+json",
        "container.image.v1+json",
        "image.rootfs.diff.tar.gzip",
    ),
}
_MADE = "made.json"


def add_registries(cloud: Cloud, directory: Path) -> None:
    """Add both marketplaces, their apps and their images; files are made in `directory`."""
    for path, file in make_container_images(directory).items():
        cloud.published[path] = file
    for number, name, driver, place in (
        (DOCKER_HUB, "Docker Hub", "dockerhub", "ENDPOINT"),
        (REGISTRY, "Container Registry", "docker_registry", "BASE_URL"),
    ):
        cloud.marketplaces[number] = MarketplaceRecord(
            number,
            name,
            driver=driver,
            template=attributes(MARKET_MAD=driver, **{place: "{registry}"}),
        )
    for number, name, market, image in (
        (70, "alpine", DOCKER_HUB, "alpine"),
        (71, "busybox", DOCKER_HUB, "busybox"),
        (72, "removed from the hub", DOCKER_HUB, "removed"),
        (80, "rescue tools", REGISTRY, "{registry_host}/tools/rescue"),
        (81, "rescue tools 1.0", REGISTRY, "{registry_host}/tools/rescue"),
    ):
        tag = "&tag=1.0" if name.endswith("1.0") else ""
        definition = base64_text('DRIVER="raw"\nTYPE="OS"\n')
        cloud.add_app(
            AppRecord(
                number,
                name,
                permissions=SHARED,
                marketplace_id=market,
                regtime=EPOCH,
                source=f"docker://{image}?size=2048&filesystem=ext4&format=raw{tag}",
                # OpenNebula's driver made one up: it is of nothing that can be fetched.
                md5=hashlib.md5(image.encode(), usedforsecurity=False).hexdigest(),
                size_mb=2048,
                format="raw",
                version="1.0",
                app_template64=definition,
                template=attributes(APPTEMPLATE64=definition, IMPORT_ID="-1", VERSION="1.0"),
            )
        )


def make_container_images(directory: Path) -> dict[str, Path]:
    """Make all images in `directory`, or find them there; return the files by URL path."""
    mark = directory / _MADE
    try:
        made = json.loads(mark.read_bytes())
        if made["recipe"] == RECIPE:
            return {path: directory / name for path, name in made["files"].items()}
    except (OSError, ValueError, KeyError):
        pass  # nothing there, or the leavings of a broken run
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shelf = _Shelf(directory)
    shelf.add_index("library/alpine", {"amd64": _layer("alpine", 2 * MIB), "arm64": _layer("arm")})
    shelf.add_image("library/busybox", "latest", [_layer("busybox")], _DOCKER)
    base, tools = _layer("base", LAYER_SIZE), _layer("tools")
    shelf.add_image("tools/rescue", "latest", [base, tools, tools])
    shelf.add_image("tools/rescue", "1.0", [base])
    mark.write_text(json.dumps({"recipe": RECIPE, "files": shelf.files}))
    return {path: directory / name for path, name in shelf.files.items()}


class _Shelf:
    """Keeps files by their digests, and under which paths a registry shows them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.files: dict[str, str] = {}

    def _put(self, path: str, body: bytes) -> str:
        digest = hashlib.sha256(body).hexdigest()
        (self._directory / digest).write_bytes(body)
        self.files[path.format(f"sha256:{digest}")] = digest
        return f"sha256:{digest}"

    def _described(self, name: str, kind: str, body: bytes) -> JsonObject:
        digest = self._put(f"/v2/{name}/blobs/{{}}", body)
        return {"mediaType": kind, "digest": digest, "size": len(body)}

    def add_image(
        self,
        name: str,
        tag: str,
        layers: list[bytes],
        family: str = _OCI,
        architecture: str = "amd64",
    ) -> JsonObject:
        """Add an image of one platform; return what an index says of it."""
        manifest, configuration, layer = (family + word for word in _WORDS[family])
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "created": "2026-01-01T00:00:00Z",
                "config": {"Cmd": ["/bin/sh"]},
                "rootfs": {"type": "layers", "diff_ids": [_diff_id(one) for one in layers]},
            }
        )
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": manifest,
                "config": self._described(name, configuration, config.encode()),
                "layers": [self._described(name, layer, one) for one in layers],
            }
        ).encode()
        digest = self._put(f"/v2/{name}/manifests/{{}}", body)
        if tag:
            self._put(f"/v2/{name}/manifests/{tag}", body)
        platform = {"os": "linux", "architecture": architecture}
        return {"mediaType": manifest, "digest": digest, "size": len(body), "platform": platform}

    def add_index(self, name: str, layers: dict[str, bytes]) -> None:
        """Add the tag ``latest`` with an image of one layer for each architecture."""
        images = [
            self.add_image(name, "", [layer], architecture=architecture)
            for architecture, layer in layers.items()
        ]
        # What build tools put beside an image: it only describes it.
        attestation = self.add_image(name, "", [_layer("attestation")], architecture="unknown")
        attestation["platform"] = {"os": "unknown", "architecture": "unknown"}
        notes = {"vnd.docker.reference.type": "attestation-manifest"}
        document = {
            "schemaVersion": 2,
            "mediaType": f"{_OCI}index.v1+json",
            "manifests": [*images, {**attestation, "annotations": notes}],
        }
        self._put(f"/v2/{name}/manifests/latest", json.dumps(document).encode())


def _layer(name: str, size: int = 64 * KIB) -> bytes:
    """Return an archive with one file of `size` bytes of noise, the same every time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        entry = tarfile.TarInfo(f"srv/{name}.bin")
        entry.size, entry.mtime = size, EPOCH
        noise = random.Random(name).randbytes(size)  # noqa: S311 - nobody is to be kept from it
        archive.addfile(entry, io.BytesIO(noise))
    return gzip.compress(raw.getvalue(), compresslevel=1, mtime=EPOCH)


def _diff_id(layer: bytes) -> str:
    return f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}"
