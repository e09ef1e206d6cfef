"""Marketplaces of container registries: a real one behind tokens, and the demonstration's."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os

import pytest

from nebfs.demo.registry_images import DOCKER_HUB, REGISTRY
from nebfs.model import Template
from tests.fetcher.registry import PASSWORD, USER, Registry, digest, make_layer
from tests.mounted.conftest import AROUND

pytestmark = [pytest.mark.mounted]

SLOT = 128 << 10
NAME = "Container Registry"
APP = "rescue tools"
BIG = make_layer(1, 6 << 20)
LAYERS = [BIG, make_layer(2, 5000), make_layer(2, 5000)]


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Registry(tmp_path_factory.mktemp("registry"), "token").running() as made:
        made.push("tools/rescue", "latest", LAYERS)
        made.push("tools/rescue", "1.0", LAYERS[1:])
        yield made


@contextlib.contextmanager
def corrupted(registry, blob: bytes):
    """Let the registry store other bytes for some time, of the same length and age."""
    name = digest(blob).partition(":")[2]
    (stored,) = (registry.root / "storage").glob(f"**/blobs/sha256/*/{name}/data")
    times = stored.stat()

    def write(data):
        stored.write_bytes(data)
        os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))

    write(blob[: 3 << 20] + bytes(100) + blob[(3 << 20) + 100 :])
    try:
        yield
    finally:
        write(blob)


def move(cloud, registry):
    """Let the private registry be the real one; there is a secret in every record."""
    host = registry.url.partition("://")[2]
    market = cloud.marketplaces[REGISTRY]
    market.template = Template(
        (
            ("BASE_URL", f"http://{USER}:{PASSWORD}@{host}"),
            ("MARKET_MAD", "docker_registry"),
            ("SECRET_ACCESS_KEY", "canary-market"),
        )
    )
    for app in cloud.apps.values():
        if app.marketplace_id == REGISTRY:
            app.source = app.source.replace("{registry_host}", host) + "&password=canary-query"
            app.template = Template((*app.template.items, ("API_TOKEN", "canary-template")))


@pytest.fixture
def app(make_mount, servers, cloud, registry):
    """The app's directory."""
    move(cloud, registry)
    mount = make_mount(servers.frontend_url, "-o", "log-level=debug,platform=linux/amd64")
    mount.start()
    return mount.app(APP, NAME)


def test_an_image_is_its_files_and_each_is_what_its_digest_says(app, tools, tmp_path):
    assert sorted(os.listdir(app)) == [
        "CHECKSUMS",
        "app.json",
        "image.tmpl",
        f"{APP}.config.json",
        f"{APP}.layer-00.tar.gz",
        f"{APP}.layer-01.tar.gz",
        f"{APP}.layer-02.tar.gz",
        f"{APP}.manifest.json",
    ]
    tools.run("cp", "-r", app, tmp_path / "copy")
    done = tools.run("sha256sum", "-c", "CHECKSUMS", cwd=tmp_path / "copy")
    assert done.stdout.count(": OK") == 5
    for number, layer in enumerate(LAYERS):
        copied = (tmp_path / "copy" / f"{APP}.layer-{number:02}.tar.gz").read_bytes()
        assert copied == layer
    document = json.loads((app / f"{APP}.manifest.json").read_bytes())
    assert [one["digest"] for one in document["layers"]] == [digest(one) for one in LAYERS]
    tools.run("tar", "-xzf", app / f"{APP}.layer-00.tar.gz", "-C", tmp_path)
    assert (tmp_path / "data-1").stat().st_size == 6 << 20
    with open(app / f"{APP}.layer-00.tar.gz", "rb") as file:
        os.fsync(file.fileno())
        assert tools.xattr(file.name, "user.nebfs.verified") == "yes"
    older = app.parent / f"{APP} 1.0"
    assert len([name for name in os.listdir(older) if "layer" in name]) == 2


def test_64_kib_in_the_middle_fetch_a_block_and_at_most_what_is_around(app, registry, tools):
    path = app / f"{APP}.layer-00.tar.gz"
    assert path.stat().st_size == len(BIG)
    blob = f"/v2/tools/rescue/blobs/{digest(BIG)}"
    before = len(registry.sent(blob))
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(fd, 64 << 10, 4 << 20) == BIG[4 << 20 :][: 64 << 10]
    os.close(fd)
    # It writes its log after it has answered.
    tools.wait_until(lambda: sum(n for _, n in registry.sent(blob)[before:]) >= SLOT)
    sent = registry.sent(blob)[before:]
    # A registry that takes over 2 ms to look at a token counts as far away.
    assert sum(length for _, length in sent) <= AROUND


def test_a_layer_that_was_corrupted_is_an_error(app, registry, tools):
    path = app / f"{APP}.layer-00.tar.gz"
    with corrupted(registry, BIG):
        done = tools.run("cp", path, "/dev/null", check=False)
    assert "Input/output error" in done.stderr
    with open(path, "rb") as file:
        assert tools.xattr(path, "user.nebfs.verified") == "mismatch"
        with pytest.raises(OSError) as caught:
            os.pread(file.fileno(), 4096, 0)
        assert caught.value.errno == errno.EIO


def test_no_secret_and_no_token_is_seen_anywhere(app, tools, registry):
    mount = app.parents[2]
    for path in app.iterdir():
        path.read_bytes()
    text = tools.everything_shown(mount)
    assert APP in text
    assert "canary" not in text
    assert "eyJ" not in text  # how every JSON web token begins


def test_a_wrong_password_is_said_without_it(make_mount, servers, cloud, registry, tools):
    move(cloud, registry)
    market = cloud.marketplaces[REGISTRY]
    address = market.template.get("BASE_URL").replace(PASSWORD, "canary-wrong")
    market.template = Template((("BASE_URL", address), ("MARKET_MAD", "docker_registry")))
    mount = make_mount(servers.frontend_url)
    mount.start()
    (blocked,) = mount.app(APP, NAME).glob(f"{APP}*")
    assert (blocked.stat().st_size, blocked.stat().st_mode & 0o777) == (0, 0)
    trouble = tools.xattr(blocked, "user.nebfs.trouble")
    assert "refuses the user or the password" in trouble
    assert "canary" not in trouble + mount.log


def test_a_registry_without_a_front_end(make_mount, registry, tools, home):
    credentials = home / "credentials.toml"
    credentials.write_text(f'["{registry.url}"]\nuser = "{USER}"\npassword = "{PASSWORD}"\n')
    credentials.chmod(0o600)
    mount = make_mount(
        None,
        *("--marketplace", f"docker-registry+{registry.url}"),
        *("-o", f"credentials-file={credentials},platform=linux/amd64"),
    )
    mount.start()
    (place,) = (mount.path / "marketplaces").iterdir()
    (image,) = place.iterdir()
    assert image.name == "tools%2Frescue"
    (layer,) = image.glob("*layer-00*")
    assert hashlib.sha256(layer.read_bytes()).hexdigest() == digest(BIG).partition(":")[2]
    assert "canary" not in mount.log


# --- the demonstration's ---


def test_the_hubs_images_come_from_where_its_registry_leads(mount, servers, cloud, tools, tmp_path):
    folder = mount.app("alpine", "Docker Hub")
    tools.run("cp", "-r", folder, tmp_path / "copy")
    done = tools.run("sha256sum", "-c", "CHECKSUMS", cwd=tmp_path / "copy")
    assert done.stdout.count(": OK") == 3
    document = json.loads((folder / "alpine.manifest.json").read_bytes())
    layer = document["layers"][0]["digest"]
    # One token for the repository, and none where the blob is.
    assert servers.registry.requests["/token"] == 1
    assert f"/v2/library/alpine/blobs/{layer}" in servers.files.statistics()
    gone = next(mount.app("removed from the hub", "Docker Hub").glob("removed*"))
    assert (gone.stat().st_size, gone.stat().st_mode & 0o777) == (0, 0)
    assert "no such image" in tools.xattr(gone, "user.nebfs.trouble")
    assert cloud.marketplaces[DOCKER_HUB].name == "Docker Hub"


def test_tokens_that_were_taken_back_are_had_anew_in_the_middle_of_a_file(
    mount, servers, cloud, tools
):
    path = mount.app(APP, NAME) / f"{APP}.layer-00.tar.gz"
    name = json.loads((path.parent / f"{APP}.manifest.json").read_bytes())["layers"][0]["digest"]
    expected = cloud.published[f"/v2/tools/rescue/blobs/{name}"].read_bytes()
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(fd, 4096, 0) == expected[:4096]
        servers.registry.revoke()
        # What the redirect led to is not there any more: the registry is asked again.
        servers.files.switches(f"/v2/tools/rescue/blobs/{name}").fail_next = 1
        servers.files.switches(f"/v2/tools/rescue/blobs/{name}").fail_status = 403
        assert os.pread(fd, 4096, 4 << 20) == expected[4 << 20 :][:4096]
    finally:
        os.close(fd)
    # What was being brought around the first read may have met the refusal, and asks just now.
    tools.wait_until(lambda: servers.registry.requests["/token"] == 2)
