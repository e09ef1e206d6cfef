"""Marketplaces of container images: simplestreams and TurnKey Linux, over a real web server."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess

import pytest

from nebfs.demo.containers import (
    ALPINE,
    CONTAINERS,
    CORE,
    DEBIAN,
    MIRROR,
    TURNKEY,
    WORDPRESS,
    image_server,
    mirror,
)
from nebfs.model import Template
from tests.mounted.conftest import AROUND
from tests.nginx import Nginx

pytestmark = [pytest.mark.mounted, pytest.mark.nginx]

LXC, TURNKEY_NAME = "Linux Containers", "TurnKey Linux"


class Place:
    """nginx with both kinds' files behind a password, and what it sent of a file."""

    def __init__(self, port, home):
        self.origin = f"127.0.0.1:{port}"
        self.url = f"http://{self.origin}"
        self.home = home
        self.root = home / "www"

    def file(self, path):
        return self.root / path.lstrip("/")

    def sent(self, path):
        """Return how many bytes were sent for each range that was asked for."""
        lines = [line.split(" ") for line in (self.home / "access.log").read_text().splitlines()]
        return {
            asked: int(n) for where, asked, status, n in lines if (where, status) == (path, "206")
        }

    @contextlib.contextmanager
    def corrupted(self, path):
        """Other bytes for some time, without a change in what a server says about the file."""
        stored = self.file(path)
        times, original = stored.stat(), stored.read_bytes()
        try:
            self._write(
                stored, original[: 2 << 20] + bytes(100) + original[(2 << 20) + 100 :], times
            )
            yield
        finally:
            self._write(stored, original, times)

    @staticmethod
    def _write(stored, data, times):
        stored.write_bytes(data)
        os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(scope="module")
def published(cloud_root):
    """URL path to file, of both kinds; the page of the mirror is left to the web server."""
    from nebfs.demo.images import make_images

    disk = make_images(cloud_root / "images").qcow2.path
    directory = cloud_root / "published"
    files = {**image_server(directory, disk), **mirror(directory)}
    return {path: file for path, file in files.items() if path != MIRROR}


@pytest.fixture(scope="module")
def place(tmp_path_factory, published):
    home = tmp_path_factory.mktemp("place")
    for path, file in published.items():
        copy = home / "www" / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    crypt = subprocess.run(
        ["openssl", "passwd", "-apr1", "canary-password"], capture_output=True, text=True
    )
    (home / "passwords").write_text(f"bob:{crypt.stdout}")
    server = f"autoindex on; auth_basic private; auth_basic_user_file {home}/passwords;"
    with Nginx(home, server, log="$uri $http_range $status $body_bytes_sent") as nginx:
        yield Place(nginx.port, home)


def move(cloud, place):
    """Let the marketplaces of containers be at `place`; there is a secret in every record."""
    for number in (CONTAINERS, TURNKEY):
        market = cloud.marketplaces[number]
        address = f"http://bob:canary-password@{place.origin}" + "/" * (number == CONTAINERS)
        market.template = Template(
            (
                ("ENDPOINT", address),
                ("MARKET_MAD", market.driver),
                ("SECRET_ACCESS_KEY", "canary-market"),
            )
        )
    for app in cloud.apps.values():
        if app.marketplace_id in (CONTAINERS, TURNKEY):
            app.source = app.source.replace("{files}", place.url) + "&password=canary-query"
            app.template = Template((*app.template.items, ("API_TOKEN", "canary-template")))


@pytest.fixture
def fresh(make_mount, servers, cloud, place):
    """A mount of its own for one test."""
    move(cloud, place)
    mount = make_mount(servers.frontend_url, "-o", "log-level=debug")
    mount.start()
    return mount


@pytest.fixture(scope="module")
def mounted(shared, place):
    """One mount for all tests that only look."""
    move(shared.cloud, place)
    shared.mount.refresh()
    return shared.mount


def sha256(data):
    return hashlib.sha256(data).hexdigest()


FILES = [
    (LXC, "alpine_3.20", "alpine_3.20.rootfs.tar.xz", f"/{ALPINE}/rootfs.tar.xz"),
    (LXC, "alpine_3.20", "alpine_3.20.metadata.tar.xz", f"/{ALPINE}/incus.tar.xz"),
    (LXC, "alpine_3.20", "alpine_3.20.disk.qcow2", f"/{ALPINE}/disk.qcow2"),
    # Its recorded build has expired.
    (LXC, "debian_bookworm", "debian_bookworm.rootfs.tar.xz", f"/{DEBIAN}/rootfs.tar.xz"),
    (TURNKEY_NAME, "core - LXD", "core - LXD.tar.gz", MIRROR + CORE),
    # It was replaced by a newer one, and has no text of checksums.
    (TURNKEY_NAME, "wordpress - LXD", "wordpress - LXD.tar.gz", MIRROR + WORDPRESS),
]


@pytest.mark.parametrize(("market", "app", "name", "path"), FILES)
def test_a_copy_is_what_was_published(mounted, place, tools, tmp_path, market, app, name, path):
    tools.run("cp", mounted.app(app, market) / name, tmp_path / "copy")
    assert sha256((tmp_path / "copy").read_bytes()) == sha256(place.file(path).read_bytes())


@pytest.mark.parametrize(
    ("market", "app", "tool", "count"),
    [
        (LXC, "alpine_3.20", "sha256sum", 3),
        (LXC, "debian_bookworm", "sha256sum", 2),
        (TURNKEY_NAME, "core - LXD", "sha256sum", 1),
        (TURNKEY_NAME, "core - LXD", "sha512sum", 1),
    ],
)
def test_the_published_checksums_verify(mounted, tools, market, app, tool, count):
    directory = mounted.app(app, market)
    done = tools.run(tool, "--ignore-missing", "-c", "CHECKSUMS", cwd=directory)
    lines = done.stdout.splitlines()
    assert len(lines) >= count  # one more where mksquashfs is installed
    assert all(line.endswith(": OK") for line in lines)
    largest = max(directory.iterdir(), key=lambda path: path.stat().st_size)
    with open(largest, "rb"):
        # The last block may be served before its digest is compared.
        tools.wait_until(lambda: tools.xattr(largest, "user.nebfs.verified") == "yes")


@pytest.mark.parametrize(("market", "app", "name", "path"), [FILES[0], FILES[4]])
def test_64_kib_in_the_middle_fetch_one_block(fresh, place, tools, market, app, name, path):
    file = fresh.app(app, market) / name
    original = place.file(path).read_bytes()
    (place.home / "access.log").write_text("")
    fd = os.open(file, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(fd, 64 << 10, 1 << 20) == original[1 << 20 :][: 64 << 10]
    os.close(fd)
    block = f"bytes={1 << 20}-{(1 << 20) + (128 << 10) - 1}"
    # nginx writes a line when an answer is over, which its reader may know before.
    tools.wait_until(lambda: block in place.sent(path))
    # On a machine that is busy the place seems far away: then neighbours come along, unasked. Its
    # first KiB was asked for to see what it is.
    assert sum(place.sent(path).values()) <= AROUND + 1024 < len(original)


@pytest.mark.parametrize(("market", "app", "name", "path"), [FILES[0], FILES[4]])
def test_a_file_that_was_corrupted_is_an_error(fresh, place, tools, market, app, name, path):
    file = fresh.app(app, market) / name
    assert file.stat().st_size > 3 << 20
    with place.corrupted(path):
        done = tools.run("cp", file, "/dev/null", check=False)
        assert "Input/output error" in done.stderr
        with open(file, "rb") as stream:
            assert tools.xattr(file, "user.nebfs.verified") == "mismatch"

            def refused():
                try:
                    os.pread(stream.fileno(), 4096, 0)
                except OSError as error:
                    assert error.errno == errno.EIO
                    return True
                return False

            # The kernel is told to drop its pages when the verdict is known, by a thread.
            tools.wait_until(refused)


def test_an_image_that_is_gone_is_seen_with_the_reason(mounted, tools):
    directory = mounted.app("debian_jessie", LXC)
    file = next(directory.glob("debian*"))
    assert (file.stat().st_size, file.stat().st_mode & 0o777) == (0, 0)
    assert "any more" in tools.xattr(file, "user.nebfs.trouble")
    assert "any more" in json.loads((directory / "app.json").read_text())["trouble"]


def test_the_definition_says_what_the_index_does(mounted):
    app = json.loads((mounted.app("debian_bookworm", LXC) / "app.json").read_text())
    assert app["published"]["product"] == "debian:bookworm:amd64:default"
    assert app["published"]["serial"] == "20260103_05:24"


def test_qemu_reads_the_disk_of_a_container_image(mounted, tools):
    disk = mounted.app("alpine_3.20", LXC) / "alpine_3.20.disk.qcow2"
    assert "file format: qcow2" in tools.run("qemu-img", "info", disk).stdout
    assert "No errors" in tools.run("qemu-img", "check", disk).stdout


def test_tar_unpacks_from_the_mount(mounted, tools):
    archive = mounted.app("core - LXD", TURNKEY_NAME) / "core - LXD.tar.gz"
    assert tools.run("tar", "-xOf", archive, "etc/hostname").stdout == "core\n"


def test_no_secret_is_seen_anywhere(fresh, place, tools):
    directory = fresh.app("alpine_3.20", LXC)
    (directory / "alpine_3.20.rootfs.tar.xz").read_bytes()
    text = tools.everything_shown(fresh.path)
    assert "fetcher started" in text  # the log is one with every detail
    assert "alpine_3.20" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    ("kind", "name", "file"),
    [
        ("linuxcontainers", "debian_bookworm", "debian_bookworm.rootfs.tar.xz"),
        ("turnkeylinux", "core (Debian 12)", "core (Debian 12).tar.gz"),
    ],
)
def test_a_marketplace_without_a_cloud(make_mount, place, tools, kind, name, file):
    address = f"{kind}+http://bob:canary-password@{place.origin}"
    mount = make_mount(None, "--marketplace", address, "-o", "platform=linux/amd64")
    mount.start()
    (market,) = (mount.path / "marketplaces").iterdir()
    assert market.name == place.origin
    tools.run("sha256sum", "--ignore-missing", "-c", "CHECKSUMS", cwd=market / name)
    assert (market / name / file).stat().st_size > 3 << 20
    assert "canary" not in mount.log + (market / name / "app.json").read_text()
