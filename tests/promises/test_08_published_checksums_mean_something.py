"""Promise 8: once every byte is known it is held to what was published; others are EIO and loud."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import trio

from nebfs.blocks import DiskStore, MemoryStore
from nebfs.content import Library, LibrarySettings
from nebfs.content.layers.verified import STRENGTH
from nebfs.errors import Damaged
from nebfs.model import Checksum, Content, Locator
from tests.content.conftest import Place

MIB = 1 << 20
DATA = bytes(range(256)) * (5 * MIB // 512) + b"and a part of a block"


# --- every kind of checksum, by itself ------------------------------------------------------------


@pytest.fixture
async def opened(tmp_path, nursery):
    """Open DATA, published with a checksum; `wrong`: the place has other bytes."""
    store = DiskStore.prepare(tmp_path / "cache", 64 * MIB, 0)
    await store.measure()

    async def opened(checksum, *, wrong):
        place = Place(DATA)
        place.corrupt = wrong
        library = Library(
            place, store, MemoryStore(MIB), nursery, LibrarySettings(),
            on_changed=lambda _: None, on_damaged=lambda _: None,
        )  # fmt: skip
        content = Content(Locator("http", "http://host/image"), checksums=(checksum,))
        return await library.open(content, place.revision)

    yield opened
    store.unlock()


async def whole(reader):
    parts = []
    for at in range(0, len(DATA), MIB):
        parts.append(bytes(await reader.pread(at, min(MIB, len(DATA) - at))))
    return b"".join(parts)


@pytest.mark.parametrize("algorithm", STRENGTH)
@pytest.mark.parametrize("upper", [False, True])
async def test_every_kind_of_checksum_is_compared(opened, algorithm, upper):
    digest = hashlib.new(algorithm, DATA).hexdigest()
    checksum = Checksum(algorithm, digest.upper() if upper else digest)
    reader = await opened(checksum, wrong=False)
    assert await whole(reader) == DATA
    assert reader.facts().verified == "yes"
    await reader.aclose()


@pytest.mark.parametrize("algorithm", STRENGTH)
async def test_every_kind_of_checksum_finds_other_bytes(opened, algorithm):
    digest = hashlib.new(algorithm, DATA).hexdigest()
    reader = await opened(Checksum(algorithm, digest), wrong=True)
    with pytest.raises(Damaged, match=f"published {algorithm}"):
        await whole(reader)
    with trio.fail_after(5), pytest.raises(Damaged):
        await reader.pread(0, 1)  # for every reader from now on, whatever is asked for
    assert reader.facts().verified == "mismatch"
    await reader.aclose()


# --- one mount, from the mismatch to the mended app -----------------------------------------------


ALPINE = "Alpine Linux 3.20"


def failing(read):
    with pytest.raises(OSError) as caught:
        read()
    return caught.value.errno


@pytest.mark.mounted
def test_a_mismatch_is_loud_stays_and_ends_with_a_new_version(
    mount, servers, cloud, cloud_root, tmp_path, tools
):
    path = mount.app(ALPINE) / f"{ALPINE}.qcow2"
    url = next(url for url in cloud.published if url.endswith("alpine.qcow2"))
    servers.files.switches(url).corrupt_at = 100_000
    assert mount.status()["reads"]["damaged"] == 0
    assert failing(lambda: shutil.copyfile(path, tmp_path / "copy")) == errno.EIO
    loud(mount, path, tools)
    assert "checksum_mismatch" in mount.log
    # Nothing of it is left, and nobody gets it from elsewhere: not by another name, nor later.
    with open(path, "rb") as file:
        assert tools.xattr(path, "user.nebfs.verified") == "mismatch"
        assert failing(lambda: os.pread(file.fileno(), 1, 0)) == errno.EIO
    view = mount.path / "raw" / path.relative_to(mount.path).parent / f"{ALPINE}.raw"
    assert failing(view.read_bytes) == errno.EIO
    published = (path.parent / "CHECKSUMS").read_text()
    assert hashlib.sha256(cloud.published[url].read_bytes()).hexdigest() in published

    mount.stop()
    servers.files.switches(url).corrupt_at = None
    sent = servers.files.statistics()[url].bytes
    mount.start()
    assert failing(path.read_bytes) == errno.EIO
    loud(mount, path, tools)
    assert servers.files.statistics()[url].bytes - sent < 2 * MIB, "it was fetched again"

    fresh = tmp_path / "fresh"
    fresh.write_bytes(cloud.published[url].read_bytes() + bytes(512))
    number = next(one.id for one in cloud.apps.values() if one.name == ALPINE)
    cloud.replace_app_content(number, fresh, "9.9")
    mount.refresh()
    assert path.read_bytes() == fresh.read_bytes()
    with open(path, "rb"):
        assert tools.xattr(path, "user.nebfs.verified") == "yes"
    done = tools.run("sha256sum", "-c", "CHECKSUMS", cwd=path.parent, check=False)
    assert f"{path.name}: OK" in done.stdout


def loud(mount, path, tools):
    """Whoever looks at the attribute, the status or the metrics finds it."""
    assert mount.status()["reads"]["damaged"] >= 1
    status = tools.run(
        *tools.nebfs, "status", mount.path, "--run-dir", mount.run_dir, check=False
    ).stdout
    assert "not what was published" in status
    explained = tools.run(*tools.nebfs, "explain", "--json", path, "--run-dir", mount.run_dir)
    assert json.loads(explained.stdout)["verified"] == "mismatch"
    assert Path(path).exists()
