"""What the commands say and do about a disk of which it is kept what was unpacked."""

from __future__ import annotations

import json
import random

import pytest

from tests.mounted.conftest import commands_of, wait_until

pytestmark = pytest.mark.mounted

MIB = 1 << 20
NAME = "Alpine Linux 3.20"


@pytest.fixture
def nebfs(mount):
    """Run ``nebfs WORDS`` on the mount, and return what is printed."""
    run = commands_of(mount)
    return lambda *words: run(*words).stdout


@pytest.fixture
def data(cloud, tools, tmp_path):
    """An app's disk, whose image has compressed clusters."""
    chance = random.Random(1)
    data = b"".join(chance.randbytes(16) * 4 for _ in range(4 * MIB // 64))
    (tmp_path / "raw").write_bytes(data)
    packed = tmp_path / "packed.qcow2"
    tools.run("qemu-img", "convert", "-c", "-O", "qcow2", tmp_path / "raw", packed)
    (app,) = [app for app in cloud.apps.values() if app.name == NAME]
    cloud.replace_app_content(app.id, packed, "2")
    return data


def test_explain_and_the_cache_show_it_and_it_goes_with_its_file(data, mount, nebfs):
    published = mount.app(NAME) / f"{NAME}.qcow2"
    disk = mount.path / "raw" / published.relative_to(mount.path).with_suffix(".raw")
    said = json.loads(nebfs("explain", "--json", disk))
    assert said["unpacked"] is None
    nebfs("warm", published)

    def explained():
        return json.loads(nebfs("explain", "--json", disk))

    def all_kept():
        return explained()["unpacked"] is not None and explained()["unpacked"]["cached"] == size

    def idle():  # the kernel closes a file after who had it open has gone on
        return mount.status()["cache"]["open_objects"] == 0

    size = len(data)
    with disk.open("rb") as file:
        assert file.read() == data
        wait_until(all_kept)  # which nobody waits for
    said = explained()
    kept = said["unpacked"]
    assert (kept["size"], kept["cached"]) == (size, size)
    assert kept["source"] == f"{said['files'][0]['source']} (unpacked)"
    assert "unpacked    4.00 MiB of 4.00 MiB are kept" in nebfs("explain", disk)
    rows = [row for row in nebfs("cache", "list").splitlines() if row.endswith("(unpacked)")]
    assert [row.split()[1:6] for row in rows] == [["4.00", "MiB", "100", "%", "-"]]
    assert disk.read_bytes() == data
    wait_until(idle)
    dropped = nebfs("cache", "drop", published)
    assert "2 " in dropped
    assert "(unpacked)" not in nebfs("cache", "list")
    assert disk.read_bytes() == data
