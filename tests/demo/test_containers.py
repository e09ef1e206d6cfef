"""The marketplaces of containers on the demonstration's file server, as their clients see them."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import tarfile
from urllib.parse import quote, urlsplit

import pytest

from nebfs.demo import demonstration_cloud
from nebfs.demo.archives import make_archives
from nebfs.demo.containers import CONTAINERS, CORE, MIRROR, TURNKEY, WORDPRESS


@pytest.fixture
def get(servers):
    def ask(path: str) -> bytes:
        connection = http.client.HTTPConnection(urlsplit(servers.files_url).netloc, timeout=10)
        try:
            connection.request("GET", quote(path))
            answer = connection.getresponse()
            assert answer.status == 200, path
            return answer.read()
        finally:
            connection.close()

    return ask


def test_the_index_leads_to_every_file_and_tells_its_digest(get):
    index = json.loads(get("/streams/v1/index.json"))
    (entry,) = index["index"].values()
    assert entry["datatype"] == "image-downloads"
    images = json.loads(get(f"/{entry['path']}"))
    assert images["format"] == "products:1.0"
    assert sorted(images["products"]) == sorted(entry["products"])
    files = 0
    for key, product in images["products"].items():
        assert key.split(":")[1:] == [product["release"], product["arch"], product["variant"]]
        for version in product["versions"].values():
            for item in version["items"].values():
                data = get(f"/{item['path']}")
                assert len(data) == item["size"]
                assert hashlib.sha256(data).hexdigest() == item["sha256"]
                files += 1
                if item["ftype"] == "disk-kvm.img":
                    assert data.startswith(b"QFI\xfb")
                elif item["ftype"] == "squashfs":
                    assert data.startswith(b"hsqs")
                else:
                    assert tarfile.open(fileobj=io.BytesIO(data)).getnames()
    assert files >= 5


def test_a_root_filesystem_is_an_archive_of_one(get, cloud):
    source = cloud.app(40).source
    path = source.removeprefix("lxd://{files}").partition("?")[0]
    archive = tarfile.open(fileobj=io.BytesIO(get(path)))
    assert archive.extractfile("etc/hostname").read() == b"alpine\n"


def test_the_mirror_lists_its_archives_and_the_texts_beside_them(get):
    links = re.findall('href="([^"]+)"', get(MIRROR).decode())
    assert sorted(links) == sorted([CORE, f"{CORE}.hash", WORDPRESS])
    core = get(MIRROR + CORE)
    text = get(f"{MIRROR}{CORE}.hash").decode()
    assert f"{hashlib.sha256(core).hexdigest()}  {CORE}\n" in text
    assert f"{hashlib.sha512(core).hexdigest()}  {CORE}\n" in text
    assert tarfile.open(fileobj=io.BytesIO(get(MIRROR + WORDPRESS))).getnames()


def test_the_records_are_older_than_the_places(cloud):
    published = cloud.published

    def there(number):
        path = cloud.app(number).source.removeprefix("lxd://{files}").partition("?")[0]
        return re.sub("/+", "/", path) in published

    assert [there(number) for number in (40, 41, 42)] == [True, False, False]
    assert [there(number) for number in (60, 61)] == [True, False]
    assert cloud.app_ids(CONTAINERS) == [40, 41, 42]
    assert cloud.app_ids(TURNKEY) == [60, 61]


def test_files_that_were_made_are_left_as_they_are(cloud_root, cloud):
    before = {path: file.stat().st_mtime_ns for path, file in cloud.published.items()}
    again = demonstration_cloud(cloud_root).published
    assert {path: file.stat().st_mtime_ns for path, file in again.items()} == before


def test_a_squashfs_is_a_real_one(cloud_root, cloud):
    file = cloud_root / "containers" / "archives" / "alpine.squashfs"
    assert file.read_bytes()[:4] == b"hsqs"


def test_archives_are_the_same_every_time(tmp_path):
    first, second = make_archives(tmp_path / "first"), make_archives(tmp_path / "second")
    for file in first.glob("*.tar.*"):
        assert file.read_bytes() == (second / file.name).read_bytes()
        assert file.name == "incus.tar.xz" or file.stat().st_size > 3 << 20
