"""Images and datastores on a real directory, and in a cluster that answers as a test says."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nebfs.fetcher.messages import CallAnswer
from nebfs.model import Datastore, DatastoreType, Image, ImageState, Template
from tests.datastores.devices_pool import fake_lvm, stored_in_lvm, stored_on_device  # noqa: F401
from tests.datastores.iscsi_pool import stored_on_iscsi  # noqa: F401 - a fixture
from tests.datastores.netapp_pool import netapp_array, ontap, stored_in_netapp  # noqa: F401
from tests.datastores.purefa_pool import purefa_array, purity, stored_in_purefa  # noqa: F401
from tests.datastores.restic_pool import stored_by_restic  # noqa: F401 - a fixture
from tests.datastores.rsync_pool import stored_by_rsync  # noqa: F401 - a fixture
from tests.datastores.vcenter_pool import stored_in_vcenter, vcenter, vsphere  # noqa: F401
from tests.datastores.virtiofs_pool import shared_directory  # noqa: F401 - a fixture


@pytest.fixture
def base(tmp_path) -> Path:
    """A datastore's directory on this machine."""
    directory = tmp_path / "datastores" / "1"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def datastore(base) -> Callable[..., Datastore]:
    def make(**changes: object) -> Datastore:
        facts: dict[str, object] = {
            "driver": "fs",
            "transfer": "local",
            "base_path": str(base),
            "type": DatastoreType.IMAGE,
            "template": Template((("LN_TARGET", "SYSTEM"),)),
        }
        return Datastore(1, "default", **{**facts, **changes})

    return make


@pytest.fixture
def image(base) -> Callable[..., Image]:
    def make(number: int = 1, **changes: object) -> Image:
        facts: dict[str, object] = {
            "datastore_id": 1,
            "datastore": "default",
            "state": ImageState.READY,
            "source": f"{base}/{number:032x}",
            "format": "raw",
            "size_mb": 1,
        }
        return Image(number, f"image {number}", **{**facts, **changes})

    return make


@pytest.fixture
def stored(base, image) -> Callable[..., Image]:
    """An image with a file behind it."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        (base / f"{number:032x}").write_bytes(data)
        return image(number, **changes)

    return make


class CephPool:
    """Answers a LOOK out of `images`: name -> what is said about it."""

    fsid = "eab8a1d0-12d7-4488-9bbf-6ba6551b9a09"

    def __init__(self) -> None:
        self.images = {}
        self.requests = []
        self.failure = None

    def put(self, name, size=5, modified=1_700_000_000):
        facts = {"size": size, "id": f"id-{name}", "modified": modified, "created": modified}
        facts["name"] = name.partition("@")[0]
        self.images[name] = facts

    @property
    def question(self):
        (request,) = self.requests
        return json.loads(request.body)

    async def __call__(self, request):
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        absent = {"errno": errno.ENOENT, "reason": "the pool has no such image"}
        question = json.loads(request.body)
        found = [self.images.get(name, absent) for name in question["images"]]
        names = ["@".join(one) for one in question["snapshots"]]
        snapshots = [self.images.get(name, absent) for name in names]
        facts = {"cluster": self.fsid, "images": found, "snapshots": snapshots}
        body = json.dumps(facts).encode()
        return CallAnswer(200, (), body)


@pytest.fixture
def ceph_pool() -> CephPool:
    return CephPool()


@pytest.fixture
def stored_in_ceph(ceph_pool, image) -> Callable[..., Image]:
    """An image with an RBD image behind it."""

    def make(number: int = 1, data: bytes = b"bytes", **changes: object) -> Image:
        ceph_pool.put(f"one-{number}", len(data))
        return image(number, **{"source": f"one/one-{number}", **changes})

    return make
