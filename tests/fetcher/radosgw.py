"""A real object store: Ceph's radosgw, with a monitor and a disk in memory, on loopback.

It checks signatures of both versions as Amazon does. The order and the settings are those of a
cluster of one node; what is not said here is Ceph's default.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import botocore.config
import botocore.session
import pytest

REGION = "us-east-1"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw")
PART = 5 << 20  # the smallest that a part but the last may be
START = 90.0  # seconds that each step may take on a busy machine; all of them take about 15


@dataclass(frozen=True)
class User:
    access_key_id: str
    secret_access_key: str


class RadosGateway:
    """A cluster in `root`, with a user `owner` and a bucket `images`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.configuration = root / "ceph.conf"
        self._processes: list[subprocess.Popen[bytes]] = []
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "vvg"]
            self._first, self._second, self.port = (p.getsockname()[1] for p in probes)
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        fsid = str(uuid.uuid4())
        monitor = f"[v2:127.0.0.1:{self._first}/0,v1:127.0.0.1:{self._second}/0]"
        keyring = self.root / "keyring"
        for name in ("mon", "osd", "rgw", "log"):
            (self.root / name).mkdir()
        self.configuration.write_text(
            CONFIGURATION.format(
                fsid=fsid, monitor=monitor, keyring=keyring, root=self.root, port=self.port
            )
        )
        self._run("ceph-authtool", "--create-keyring", keyring)
        rights = [word for who in ("mon", "osd", "mgr") for word in ("--cap", who, "allow *")]
        for name in ("mon.", "client.admin", "client.rgw", "osd.0"):
            self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *rights)
        monmap = self.root / "monmap"
        self._run("monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, monmap)
        of_monitor = ("-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._run("ceph-mon", *self._with_configuration, "--mkfs", *of_monitor)
        self._begin("ceph-mon", "-i", "a")
        self._until(lambda: self._ceph("-s", check=False), "a monitor")
        disk = str(uuid.uuid4())
        self._ceph("osd", "create", disk)
        self._run("ceph-osd", *self._with_configuration, "-i", "0", "--mkfs", "--osd-uuid", disk)
        place = ("root=default", "host=localhost")
        self._ceph("osd", "crush", "add", "osd.0", "1.0", *place)
        self._begin("ceph-osd", "-i", "0")
        self._until(lambda: "1 up" in self._ceph("osd", "stat", check=False), "a disk")
        self._begin("radosgw", "-n", "client.rgw")
        self._until(self._answers, "the gateway")
        self.owner = self.user("owner")
        with self.client(self.owner) as client:
            client.create_bucket(Bucket="images")

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()  # there is nothing to be saved
        for process in self._processes:
            process.wait(10)

    def user(self, name: str) -> User:
        """Make a user; return its keys."""
        text = self._run(
            "radosgw-admin",
            *self._with_configuration,
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

    @property
    def _with_configuration(self) -> tuple[str | Path, ...]:
        return "-c", self.configuration

    def _run(self, program: str, *words: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, timeout=START, env=ENVIRONMENT
        )
        if check and done.returncode:
            raise AssertionError(f"{program}: {done.stderr[-2000:]}")
        return done.stdout

    def _ceph(self, *words: str, check: bool = True) -> str:
        """Ask the cluster."""
        options = ("--connect-timeout", "5", *self._with_configuration)
        return self._run("ceph", *options, *words, check=check)

    def _begin(self, program: str, *words: str) -> None:
        with (self.root / "log" / f"{program}.out").open("wb") as output:
            argv: Sequence[str | Path] = [program, *self._with_configuration, *words, "-f"]
            self._processes.append(
                subprocess.Popen(argv, stdout=output, stderr=output, env=ENVIRONMENT)
            )

    def _answers(self) -> bool:
        try:
            with urlopen(self.url, timeout=2) as answer:
                return answer.status == 200
        except (URLError, OSError):
            return False

    def _until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + START
        while not condition():
            for process in self._processes:
                assert process.poll() is None, f"{process.args} ended: see {self.root}/log"
            assert time.monotonic() < end, f"{what} did not come: see {self.root}/log"
            time.sleep(0.1)


# What starts it is not to tell it anything; the tools of Ceph are outside of some users' PATH.
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "HOME": "/"}

CONFIGURATION = """\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = {monitor}
keyring = {keyring}
mon_data = {root}/mon
osd_data = {root}/osd
run_dir = {root}/log
admin_socket =
log_file = {root}/log/$name.log
osd_objectstore = memstore
memstore_device_bytes = 2147483648
osd_pool_default_size = 1
osd_pool_default_min_size = 1
mon_allow_pool_size_one = true
osd_crush_chooseleaf_type = 0
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 1000
[osd]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
[client.rgw]
rgw_data = {root}/rgw
rgw_dns_name = store.test
rgw_frontends = beast endpoint=127.0.0.1:{port}
"""


@pytest.fixture(scope="session")
def radosgw() -> Iterator[RadosGateway]:
    """The one of this run."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    assert not missing, f"{', '.join(missing)} missing: scripts/install-needs --tests"
    with tempfile.TemporaryDirectory(prefix="nebfs-radosgw-") as root:
        gateway = RadosGateway(Path(root))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()
