"""Images in a vCenter that answers as a test says, without a network or a login between."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from nebfs.model import Image
from tests.datastores.far import Far
from tests.fetcher.service import Asked, Told, as_call
from tests.fetcher.vsphere_fake import VsphereFake

TEMPLATE = (
    ("VCENTER_HOST", "vcenter.example.org"),
    ("VCENTER_USER", "reader@vsphere.local"),
    ("VCENTER_PASSWORD", "canary-<pass>&word"),
    ("VCENTER_DC_NAME", "DC 1"),
    ("VCENTER_DS_NAME", "nfs/ä"),
)

FAR = Far("vcenter", TEMPLATE)


@pytest.fixture
def vsphere() -> VsphereFake:
    return VsphereFake()


@pytest.fixture
def vcenter(vsphere):
    vsphere.sessions.add("session")

    def respond(asked: Asked) -> Told:
        # The fetcher logs in with this once, and then shows a session.
        pair = base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")).decode()
        assert pair == f"{vsphere.user}:{vsphere.password}"
        headers = {**asked.headers, "cookie": "session"}
        return vsphere.respond(Asked(asked.method, asked.path, asked.query, headers))

    return as_call(respond, transport="vsphere")


@pytest.fixture
def stored_in_vcenter(vsphere, image) -> Callable[..., Image]:
    """An image with a file behind it."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        path = f"one/{number}/one-{number}.vmdk"
        vsphere.files[path] = data
        return image(number, **{"source": path, **changes})

    return make
