"""Private ``http`` and ``one`` marketplaces as companies have them: a real nginx with TLS of an own
authority, and a password.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess

import pytest

from nebfs.model import Template
from tests.mounted.conftest import AROUND
from tests.nginx import Nginx

pytestmark = [pytest.mark.mounted, pytest.mark.nginx]

PRIVATE = 100


@pytest.fixture
def place(tmp_path):
    """nginx over TLS behind a password: its URL, its root, and what it sent of a file."""
    script = """
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
    openssl req -newkey rsa:2048 -nodes -subj /CN=place -keyout key.pem -out place.csr
    echo subjectAltName=DNS:localhost > place.ext
    openssl x509 -req -in place.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
      -extfile place.ext -out place.pem
    printf 'bob:%s\\n' "$(openssl passwd -apr1 canary-password)" > passwords
    """
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, capture_output=True)
    server = (
        f"ssl_certificate {tmp_path}/place.pem; ssl_certificate_key {tmp_path}/key.pem;"
        "location = /appliance { default_type application/json; try_files /list.json =404; }"
        "location ~ ^/appliance/[a-z0-9]+/download/([01])$ { return 302 /file$1; }"
        f"auth_basic private; auth_basic_user_file {tmp_path}/passwords;"
    )
    with Nginx(tmp_path, server, listen="ssl") as nginx:
        yield Place(f"https://localhost:{nginx.port}", tmp_path)


class Place:
    def __init__(self, url, home):
        self.url = url
        self.home = home
        self.root = home / "www"

    def sent(self):
        """The lengths of the parts that were asked for until now."""
        lines = [line.split() for line in (self.home / "access.log").read_text().splitlines()]
        return [int(count) for _, status, count in lines if status == "206"]

    def credentials(self):
        path = self.home / "credentials.toml"
        path.write_text(
            f'["{self.url}"]\nuser = "bob"\npassword = "canary-password"\nca-file = "ca.pem"\n'
            '["https://other.example.org"]\nbearer-token = "canary-token"\n'
        )
        path.chmod(0o600)
        return path


@pytest.fixture
def image(place, cloud):
    """8 MiB that app 20 of the private marketplace leads to."""
    data = os.urandom(8 << 20)
    (place.root / "image").write_bytes(data)
    app = cloud.apps[20]
    app.source, app.md5 = f"{place.url}/image", hashlib.md5(data).hexdigest()
    app.format = "raw"
    app.template = Template((*app.template.items, ("API_TOKEN", "canary-template")))
    market = cloud.marketplaces[PRIVATE]
    market.template = Template((*market.template.items, ("SECRET_ACCESS_KEY", "canary-market")))
    return data


@pytest.fixture
def path(make_mount, servers, place, image):
    mount = make_mount(
        servers.frontend_url, "-o", f"credentials-file={place.credentials()},log-level=debug"
    )
    mount.start()
    return mount.app("tiny raw app", "Private HTTP") / "tiny raw app.raw"


def test_its_bytes_are_read_and_held_to_their_checksum(path, place, image, tools, tmp_path):
    tools.run("cp", path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == image
    done = tools.run("md5sum", "-c", "CHECKSUMS", cwd=path.parent)
    assert done.stdout == "tiny raw app.raw: OK\n"
    with open(path, "rb"):
        assert tools.xattr(path, "user.nebfs.verified") == "yes"


def test_64_kib_in_the_middle_fetch_one_block(path, place, image, tools):
    assert path.stat().st_size == len(image)
    before = len(place.sent())
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(fd, 64 << 10, 4 << 20) == image[4 << 20 :][: 64 << 10]
    os.close(fd)
    # One block. On a machine so busy that the place seems far away, what is around it as well.
    parts = place.sent()[before:]
    assert 128 << 10 in parts
    assert sum(parts) <= AROUND


def test_an_object_that_was_corrupted_is_an_error(path, place, image, tools):
    stored = place.root / "image"
    times = stored.stat()
    with open(stored, "r+b") as file:
        file.seek(5 << 20)
        file.write(b"not what was published")
    os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))  # so its ETag stays
    done = tools.run("cp", path, "/dev/null", check=False)
    assert "Input/output error" in done.stderr
    with open(path, "rb") as file:
        assert tools.xattr(path, "user.nebfs.verified") == "mismatch"
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4096, 0)
        assert caught.value.errno == errno.EIO


def test_no_secret_is_seen_anywhere(path, tools):
    mount = path.parents[3]
    path.read_bytes()
    text = tools.everything_shown(mount)
    assert "fetcher started" in text  # the log is one with every detail
    assert "tiny raw app" in text
    assert "canary" not in text


def test_a_wrong_password_is_said_without_it(make_mount, servers, place, image, tools):
    wrong = place.credentials()
    wrong.write_text(wrong.read_text().replace("canary-password", "canary-wrong"))
    mount = make_mount(servers.frontend_url, "-o", f"credentials-file={wrong}")
    mount.start()
    path = mount.app("tiny raw app", "Private HTTP") / "tiny raw app.raw"
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (0, 0)
    trouble = tools.xattr(path, "user.nebfs.trouble")
    assert "refuses access" in trouble
    assert "canary" not in trouble + mount.log


def test_a_file_of_credentials_that_is_wrong_is_said_at_once(make_mount, servers, place, image):
    path = place.credentials()
    path.chmod(0o644)
    done = make_mount(servers.frontend_url, "-o", f"credentials-file={path}").start(check=False)
    assert done.returncode != 0
    assert "chmod o=" in done.stderr
    path.write_text('["https://host"]\npasswort = "canary"\n')
    path.chmod(0o600)
    done = make_mount(servers.frontend_url, "-o", f"credentials-file={path}").start(check=False)
    assert "did you mean password?" in done.stderr
    assert "canary" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tls_server_of_an_unknown_authority_is_not_believed(
    make_mount, servers, place, image, tools
):
    mount = make_mount(servers.frontend_url)
    mount.start()
    path = mount.app("tiny raw app", "Private HTTP") / "tiny raw app.raw"
    assert "certificate is not trusted" in tools.xattr(path, "user.nebfs.trouble")
    assert json.loads((path.parent / "app.json").read_text())["id"] == 20


# --- an appliance service -------------------------------------------------------------------------


@pytest.fixture
def appliance(place):
    """An appliance of two files in a service of its own, and the files' bytes."""
    files = [os.urandom(5 << 20), os.urandom(300_000)]
    entry = {
        "_id": {"$oid": "a1"},
        "name": "Two Files",
        "version": "1.0",
        "opennebula_version": "7.4",
        "files": [
            {
                "name": f"file{number}",
                "url": f"{place.url}/file{number}",
                "type": "OS",
                "size": len(data),
                "format": "raw",
                "checksum": {
                    "md5": hashlib.md5(data).hexdigest(),
                    "sha256": hashlib.sha256(data).hexdigest(),
                },
            }
            for number, data in enumerate(files)
        ],
    }
    for number, data in enumerate(files):
        (place.root / f"file{number}").write_bytes(data)
    (place.root / "list.json").write_text(json.dumps({"sEcho": 1, "appliances": [entry]}))
    return files


@pytest.fixture
def service(make_mount, place, appliance):
    mount = make_mount(
        None, "--marketplace", place.url, "-o", f"credentials-file={place.credentials()}"
    )
    mount.start()
    (market,) = (mount.path / "marketplaces").iterdir()
    return market / "Two Files"


def test_every_file_of_an_appliance_is_read_without_a_front_end(
    service, place, appliance, tools, tmp_path
):
    disks = sorted(service.glob("*.raw"))
    assert [disk.name for disk in disks] == ["Two Files.file1.raw", "Two Files.raw"]
    for disk, data in zip(disks, reversed(appliance), strict=True):
        tools.run("cp", disk, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
    for tool in ("md5sum", "sha256sum"):
        assert tools.run(tool, "-c", "CHECKSUMS", cwd=service).stdout.count(": OK") == 2
    assert "canary" not in (service / "app.json").read_text()


def test_a_redirected_read_in_the_middle_fetches_one_block(service, place, appliance):
    disk = service / "Two Files.raw"
    assert disk.stat().st_size == len(appliance[0])
    before = len(place.sent())
    fd = os.open(disk, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(fd, 64 << 10, 2 << 20) == appliance[0][2 << 20 :][: 64 << 10]
    os.close(fd)
    parts = place.sent()[before:]
    assert 128 << 10 in parts
    assert sum(parts) <= AROUND


def test_a_corrupted_file_of_an_appliance_is_an_error(service, place, appliance, tools):
    disk = service / "Two Files.file1.raw"
    stored = place.root / "file1"
    times = stored.stat()
    stored.write_bytes(appliance[1][:-1] + bytes([appliance[1][-1] ^ 1]))
    os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = tools.run("cp", disk, "/dev/null", check=False)
    assert "Input/output error" in done.stderr
    with open(disk, "rb"):
        assert tools.xattr(disk, "user.nebfs.verified") == "mismatch"
