"""A real Ceph cluster on loopback: a monitor, and a disk in memory.

The order and the settings are those of a cluster of one node; what is not said here is Ceph's
default.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "rbd")
START = 90.0  # seconds that each step may take on a busy machine; all of them take about 8
POOL = "one"


class Ceph:
    """A cluster in `root`, with the pool `one` and a user `nebfs` who may read it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "ceph.conf"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.monitor = f"127.0.0.1:{probe.getsockname()[1]}"
        self.fsid = str(uuid.uuid4())
        self.mon: subprocess.Popen[bytes] | None = None
        self.osd: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        for name in ("mon", "osd", "log"):
            (self.root / name).mkdir()
        monitor = f"[v2:{self.monitor}/0]"
        self.conf.write_text(CONF.format(fsid=self.fsid, monitor=monitor, root=self.root))
        keyring = self.root / "keyring"
        self.run("ceph-authtool", "--create-keyring", keyring)
        rights = [word for who in ("mon", "osd", "mgr") for word in ("--cap", who, "allow *")]
        for name in ("mon.", "client.admin", "osd.0"):
            self.run("ceph-authtool", keyring, "--gen-key", "-n", name, *rights)
        monmap = self.root / "monmap"
        self.run("monmaptool", "--create", "--addv", "a", monitor, "--fsid", self.fsid, monmap)
        of_monitor = ("-i", "a", "--monmap", monmap, "--keyring", keyring)
        self.run("ceph-mon", *self.with_conf, "--mkfs", *of_monitor)
        self.mon = self.begin("ceph-mon", "-i", "a")
        self.until(lambda: self.ceph("-s", check=False), "a monitor")
        disk = str(uuid.uuid4())
        self.ceph("osd", "new", disk)
        self.run("ceph-osd", *self.with_conf, "-i", "0", "--mkfs", "--osd-uuid", disk)
        self.osd = self.begin("ceph-osd", "-i", "0")
        self.until(lambda: "1 up" in self.ceph("osd", "stat", check=False), "a disk")
        self.ceph("osd", "pool", "create", POOL, "4")
        self.rbd("pool", "init", POOL)
        self.keyring = self.user("nebfs", *READING)

    def stop(self) -> None:
        started = [process for process in (self.osd, self.mon) if process is not None]
        for process in started:
            process.kill()  # there is nothing to be saved
        for process in started:
            process.wait(10)

    def user(self, name: str, *rights: str) -> Path:
        """Make a user; return the path of the keyring."""
        path = self.root / f"{name}.keyring"
        path.write_text(self.ceph("auth", "get-or-create", f"client.{name}", *rights))
        return path

    def door(self, **changes: str) -> dict[str, str]:
        """How nebfs enters."""
        usual = {"conf": str(self.conf), "keyring": str(self.keyring), "user": "nebfs"}
        return {name: text for name, text in {**usual, **changes}.items() if text}

    def put(self, name: str, data: bytes, *options: str) -> None:
        """Make an image of `data`; blocks of zeros are holes."""
        path = self.root / "import"
        path.write_bytes(data)
        self.rbd(
            "import", "--no-progress", "--sparse-size", "64K", *options, path, f"{POOL}/{name}"
        )

    def exported(self, name: str) -> bytes:
        """Return the image's bytes as Ceph's own tool has them."""
        path = self.root / "export"
        path.unlink(missing_ok=True)
        self.rbd("export", "--no-progress", f"{POOL}/{name}", path)
        return path.read_bytes()

    def rbd(self, *words: str | Path) -> str:
        return self.run("rbd", *self.with_conf, *words)

    def ceph(self, *words: str, check: bool = True) -> str:
        return self.run("ceph", "--connect-timeout", "5", *self.with_conf, *words, check=check)

    def run(self, program: str, *words: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, timeout=START, env=ENVIRONMENT
        )
        if check and done.returncode:
            raise AssertionError(f"{program} {words}: {done.stderr[-2000:]}")
        return done.stdout

    @property
    def with_conf(self) -> tuple[str | Path, ...]:
        return "-c", self.conf

    def begin(self, program: str, *words: str | Path) -> subprocess.Popen[bytes]:
        with (self.root / "log" / f"{program}.out").open("wb") as output:
            return subprocess.Popen(
                [program, *self.with_conf, *words, "-f"],
                stdout=output,
                stderr=output,
                env=ENVIRONMENT,
            )

    def until(
        self, condition: Callable[[], object], what: str, *also: subprocess.Popen[bytes]
    ) -> None:
        """Wait for what the cluster's processes, and `also` others, bring about."""
        end = time.monotonic() + START
        while not condition():
            for process in (self.mon, self.osd, *also):
                assert process is None or process.poll() is None, f"see {self.root}/log"
            assert time.monotonic() < end, f"{what} did not come: see {self.root}/log"
            time.sleep(0.1)


READING = ("mon", "profile rbd-read-only", "osd", f"profile rbd-read-only pool={POOL}")

# What starts it is not to tell it anything; the tools of Ceph are outside of some users' PATH.
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "HOME": "/"}

CONF = """\
[global]
fsid = {fsid}
mon_host = {monitor}
keyring = {root}/keyring
mon_data = {root}/mon
osd_data = {root}/osd
run_dir = {root}/log
admin_socket = {root}/log/$name.asok
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
mon_warn_on_pool_no_redundancy = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_allow_insecure_global_id_reclaim = false
rbd_mtime_update_interval = 1
"""


@contextlib.contextmanager
def running() -> Iterator[Ceph]:
    """Run one."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    assert not missing, f"{', '.join(missing)} missing: scripts/install-needs --tests"
    with tempfile.TemporaryDirectory(prefix="nebfs-ceph-") as root:
        cluster = Ceph(Path(root))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """The one of this run."""
    with running() as cluster:
        yield cluster
