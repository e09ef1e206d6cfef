"""The raw face of disks in other formats than qcow2, through one mount for all of them."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import types
from pathlib import Path

import pytest

from nebfs.demo.demonstration import PRIVATE_HTTP, demonstration_cloud
from nebfs.demo.records import AppRecord, ImageRecord
from nebfs.demo.server import serve
from tests.mounted.conftest import Mounts

pytestmark = pytest.mark.mounted

MIB = 1 << 20

APPS = {
    "vmdk": ("vmdk", "vmdk", ""),
    "vmdk-stream": ("vmdk", "vmdk", "subformat=streamOptimized"),
    "vdi": ("vdi", "vdi", ""),
    "vdi-static": ("vdi", "vdi", "static=on"),
    "vhd": ("vpc", "vhd", ""),
    "vhd-fixed": ("vpc", "vhd", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx", "vhdx", ""),
}
"""The name of each app: QEMU's name for its format, what is claimed, options."""


def _run(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def _made(home: Path) -> dict[str, Path]:
    source = random.Random(6)
    flat = home / "flat"
    pieces = [source.randbytes(3 * MIB), b"text" * (2 * MIB // 4), bytes(3 * MIB), b"\1" * 512]
    flat.write_bytes(b"".join(pieces))
    made = {}
    for name, (kind, _, options) in APPS.items():
        made[name] = home / f"{name}.image"
        words = ["-o", options] if options else []
        _run("qemu-img", "convert", "-f", "raw", "-O", kind, *words, flat, made[name])
    (home / "a.ovf").write_text("<Envelope/>")
    os.link(made["vmdk-stream"], home / "a.vmdk")
    os.link(made["vmdk-stream"], home / "b.vmdk")
    for name, files in [
        ("ova", ["a.ovf", "a.vmdk"]),
        ("ova-two", ["a.ovf", "a.vmdk", "b.vmdk"]),
        ("tar", ["a.ovf"]),
    ]:
        made[name] = home / name
        _run("tar", "-C", home, "--hard-dereference", "-cf", made[name], *files)
    made["differing"] = home / "differing"
    words = ["-b", made["vmdk"], "-F", "vmdk", made["differing"]]
    _run("qemu-img", "create", "-f", "vmdk", *words)
    return made


@pytest.fixture(scope="module")
def formats(cloud_root, tmp_path_factory):
    made = _made(tmp_path_factory.mktemp("formats"))
    cloud = demonstration_cloud(cloud_root)
    for number, (name, path) in enumerate(made.items(), 500):
        claim = APPS[name][1] if name in APPS else "ova" if name.startswith("ova") else "raw"
        cloud.published[f"/market/{name}"] = path
        cloud.add_app(
            AppRecord(
                number,
                name,
                marketplace_id=PRIVATE_HTTP,
                source=f"{{files}}/market/{name}",
                size_mb=9,
                format=claim,
            )
        )
    here = Path(cloud.datastores[1].base_path) / ("e" * 32)
    here.write_bytes(made["vhdx"].read_bytes())
    cloud.images[600] = ImageRecord(
        600, "here", datastore_id=1, datastore="default", source=str(here), format="raw"
    )
    with tempfile.TemporaryDirectory(prefix="nebfs-") as home, serve(cloud) as servers:
        mounts = Mounts(Path(home))
        mount = mounts(servers.frontend_url)
        mount.start()
        try:
            yield types.SimpleNamespace(mount=mount, made=made)
        finally:
            mounts.stop()
    assert servers.failures() == []


def entries(formats, name):
    """The directories of an app on both sides."""
    app = Path("marketplaces/Private HTTP") / name
    return formats.mount.path / app, formats.mount.path / "raw" / app


@pytest.mark.parametrize("name", [*APPS, "ova"])
def test_the_disk_of_an_app_reads_as_qemu_img_converts_what_is_published(formats, name, tmp_path):
    kind, published = APPS.get(name, ("vmdk", ""))[0], formats.made[name]
    flat = tmp_path / "flat"
    inside = formats.made["vmdk-stream"] if name == "ova" else published
    _run("qemu-img", "convert", "-f", kind, "-O", "raw", inside, flat)
    app, disk = entries(formats, name)
    assert sorted(os.listdir(disk)) == [f"{name}.raw"]
    extension = APPS[name][1] if name in APPS else "ova"
    assert (app / f"{name}.{extension}").read_bytes() == published.read_bytes()
    raw = disk / f"{name}.raw"
    assert raw.stat().st_size == flat.stat().st_size
    assert raw.read_bytes() == flat.read_bytes()
    if name != "ova":
        face = app / f"{name}.{extension}"
        _run("qemu-img", "compare", "-f", kind, "-F", "raw", face, raw)


def test_an_image_of_a_datastore_whose_format_is_not_claimed(formats, tmp_path):
    flat = tmp_path / "flat"
    _run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", formats.made["vhdx"], flat)
    raw = formats.mount.path / "raw/datastores/default/here.raw"
    assert raw.read_bytes() == flat.read_bytes()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tar", "it is an archive of files, not a disk"),
        ("ova-two", "an archive with 2 disks"),
        ("differing", "only the changes to another image"),
    ],
)
def test_what_has_no_raw_view_says_why(formats, tools, name, words):
    _, raw = entries(formats, name)
    disk = raw / f"{name}.raw"
    assert (disk.stat().st_size, disk.stat().st_mode & 0o777) == (0, 0)
    assert words in tools.xattr(disk, "user.nebfs.trouble")
