"""A real object store: Ceph's radosgw on loopback, over the cluster of ceph.py.

It checks signatures of both versions as Amazon does.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import URLError
from urllib.request import urlopen

import botocore.config
import botocore.session
import pytest

from tests.fetcher.ceph import ENVIRONMENT, Ceph

REGION = "us-east-1"
PART = 5 << 20  # the smallest that a part but the last may be


@dataclass(frozen=True)
class User:
    access_key_id: str
    secret_access_key: str


class RadosGateway:
    """A gateway of `cluster`, with a user `owner` and a bucket `images`."""

    def __init__(self, cluster: Ceph) -> None:
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        data = self._cluster.root / "rgw"
        data.mkdir()
        keyring = self._cluster.user(
            "rgw", *(w for who in ("mon", "osd") for w in (who, "allow *"))
        )
        self._process = self._cluster.begin(
            "radosgw",
            *("-n", "client.rgw", "--keyring", keyring, "--rgw-data", data),
            *("--rgw-dns-name", "store.test"),
            *("--rgw-frontends", f"beast endpoint=127.0.0.1:{self.port}"),
        )
        self._cluster.until(self._answers, "the gateway", self._process)
        self.owner = self.user("owner")
        with self.client(self.owner) as client:
            client.create_bucket(Bucket="images")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # there is nothing to be saved
            self._process.wait(10)

    def user(self, name: str) -> User:
        """Make a user; return its keys."""
        text = self._cluster.run(
            "radosgw-admin",
            *self._cluster.with_conf,
            "user",
            "create",
            f"--uid={name}",
            f"--display-name={name}",
        )
        (keys,) = json.loads(text)["keys"]
        return User(keys["access_key"], keys["secret_key"])

    @contextlib.contextmanager
    def client(self, user: User) -> Iterator:
        """A client of Amazon's own library."""
        session = botocore.session.Session()
        config = botocore.config.Config(
            s3={"addressing_style": "path"}, retries={"max_attempts": 1}
        )
        client = session.create_client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=user.access_key_id,
            aws_secret_access_key=user.secret_access_key,
            config=config,
        )
        try:
            yield client
        finally:
            client.close()

    def put(self, key: str, data: bytes, *, public: bool = False) -> None:
        """Put an object into `images`, in one piece."""
        with self.client(self.owner) as client:
            acl = "public-read" if public else "private"
            client.put_object(Bucket="images", Key=key, Body=data, ACL=acl)

    def put_in_parts(self, key: str, data: bytes) -> str:
        """Put an object into `images` as OpenNebula does; return its ETag."""
        with self.client(self.owner) as client:
            of = {"Bucket": "images", "Key": key}
            upload = client.create_multipart_upload(**of)["UploadId"]
            parts = []
            for number, start in enumerate(range(0, len(data), PART), 1):
                body = data[start : start + PART]
                made = client.upload_part(**of, PartNumber=number, UploadId=upload, Body=body)
                parts.append({"PartNumber": number, "ETag": made["ETag"]})
            client.complete_multipart_upload(
                **of, UploadId=upload, MultipartUpload={"Parts": parts}
            )
            return client.head_object(**of)["ETag"]

    def _answers(self) -> bool:
        try:
            with urlopen(self.url, timeout=2) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False


@pytest.fixture(scope="session")
def radosgw(ceph: Ceph) -> Iterator[RadosGateway]:
    """The one of this run, of its one cluster."""
    assert shutil.which("radosgw", path=ENVIRONMENT["PATH"]), "scripts/install-needs --tests"
    gateway = RadosGateway(ceph)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()
