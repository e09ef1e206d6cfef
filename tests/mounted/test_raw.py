"""The raw face through the mount: what a hypervisor, a loop device or qemu-img reads there."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import subprocess

import pytest

from nebfs.demo.records import ImageRecord

pytestmark = pytest.mark.mounted

MIB = 1 << 20


def test_every_app_s_disk_reads_as_qemu_img_converts_what_is_published(mount, tools, tmp_path):
    compared = 0
    for published in sorted((mount.path / "marketplaces").glob("*/*/*.qcow2")):
        where = published.relative_to(mount.path).with_suffix(".raw")
        disk = mount.path / "raw" / where
        if not published.stat().st_size:
            assert disk.stat().st_size == 0
            continue
        flat = tmp_path / "flat"
        tools.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", published, flat)
        assert disk.stat().st_size == flat.stat().st_size
        assert disk.read_bytes() == flat.read_bytes()
        compared += 1
    assert compared


@pytest.fixture
def written(cloud):
    """An image of a datastore here, with compressed and other clusters, and what is inside."""
    base = cloud.datastores[1].base_path
    source = random.Random(4)
    content = source.randbytes(3 * MIB) + b"text" * (2 * MIB // 4) + bytes(3 * MIB)
    path = os.path.join(base, "f" * 32)
    with open(f"{path}.flat", "wb") as flat:
        flat.write(content)
    words = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", f"{path}.flat", path]
    subprocess.run(words, check=True)
    change = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 1m 64k", path]
    subprocess.run(change, check=True, capture_output=True)
    changed = content[:MIB] + b"\7" * 65536 + content[MIB + 65536 :]
    for number, name, file in [(390, "inside", path), (391, "layer", f"{path}.layer")]:
        cloud.images[number] = ImageRecord(
            number, name, datastore_id=1, datastore="default", source=file, format="qcow2"
        )
    layer = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", path, f"{path}.layer"]
    subprocess.run(layer, check=True)
    return changed


def test_a_datastore_s_image_on_both_sides(cloud, written, make_mount, servers, tools, tmp_path):
    mount = make_mount(servers.frontend_url)
    mount.start()
    disk = mount.path / "raw/datastores/default/inside.raw"
    assert disk.read_bytes() == written
    tools.run("cp", disk, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == written
    published = mount.path / "datastores/default/inside.qcow2"
    tools.run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", published, disk)
    with open(disk, "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, 4 * MIB + 7) == written[4 * MIB + 7 :][:100]
    assert published.stat().st_ino != disk.stat().st_ino


def test_an_image_that_names_another_file_has_no_raw_face(written, make_mount, servers, tools):
    mount = make_mount(servers.frontend_url)
    mount.start()
    disk = mount.path / "raw/datastores/default/layer.raw"
    assert (disk.stat().st_size, disk.stat().st_mode & 0o777) == (0, 0)
    assert "not followed" in tools.xattr(disk, "user.nebfs.trouble")
    with pytest.raises(OSError) as caught:
        disk.read_bytes()
    assert caught.value.errno == errno.EOPNOTSUPP
    assert (mount.path / "datastores/default/layer.qcow2").stat().st_size


AT_EMPTY_PATH, AT_STATX_DONT_SYNC, STATX_SIZE = 0x1000, 0x4000, 0x200
"""Of statx(2)."""

PACKERS = {
    "gz": ("gzip", "-c"),
    "bz2": ("bzip2", "-c"),
    "xz": ("xz", "-c", "-1", "-T2", "--block-size=1000000"),
    "zst": ("zstd", "-q", "-c"),
}


@pytest.fixture
def compressed(cloud, written):
    """Images of a datastore here that are compressed: raw disks, and a qcow2 image."""
    base = cloud.datastores[1].base_path
    qcow2 = os.path.join(base, "f" * 32)
    files = {f"raw-{name}": (f"{qcow2}.flat", words) for name, words in PACKERS.items()}
    files["qcow2-gz"] = (qcow2, PACKERS["gz"])
    for number, (name, (source, words)) in enumerate(files.items(), 400):
        path = os.path.join(base, name)
        with open(source, "rb") as unpacked, open(path, "wb") as packed:
            subprocess.run(words, stdin=unpacked, stdout=packed, check=True)
        cloud.images[number] = ImageRecord(
            number, name, datastore_id=1, datastore="default", source=path, format="raw"
        )
    return files


def test_a_compressed_image_is_a_disk_of_exact_length_or_none(
    cloud, compressed, written, make_mount, servers, tools, tmp_path
):
    mount = make_mount(servers.frontend_url)
    mount.start()
    raw = mount.path / "raw/datastores/default"
    shown = {
        name: (found.st_size, found.st_mode & 0o777)
        for name in compressed
        for found in [os.stat(raw / f"{name}.raw")]
    }
    size, unknown = (len(written), 0o444), (0, 0)
    assert shown == {
        "raw-gz": unknown,
        "raw-bz2": unknown,
        "raw-xz": size,
        "raw-zst": unknown,
        "qcow2-gz": size,
    }
    assert "decompress" in tools.xattr(raw / "raw-gz.raw", "user.nebfs.trouble")
    flat = os.path.join(cloud.datastores[1].base_path, "f" * 32) + ".flat"
    for name in compressed:
        original = "qcow2", flat.removesuffix(".flat")
        if name.startswith("raw"):
            original = "raw", flat
        disk = raw / f"{name}.raw"
        # What has no length yet has one when it is opened: by the same open(2).
        compare = ["qemu-img", "compare", "-f", original[0], "-F", "raw", original[1]]
        tools.run("cp", disk, tmp_path / "copy")
        tools.run(*compare, tmp_path / "copy")
        tools.run(*compare, disk)
        assert (disk.stat().st_size, disk.stat().st_mode & 0o777) == size
    assert sorted(os.listdir(raw)) == sorted(entry.name for entry in os.scandir(raw))
    mount.stop()
    mount.start()
    for name in compressed:
        disk = raw / f"{name}.raw"
        assert disk.stat().st_size == len(written)
    assert (raw / "qcow2-gz.raw").read_bytes() == written


def test_a_listing_from_before_a_length_was_known_does_not_end_the_file_for_readers(
    compressed, written, make_mount, servers
):
    mount = make_mount(servers.frontend_url)
    mount.start()
    raw = mount.path / "raw/datastores/default"
    listing = os.open(raw, os.O_RDONLY)
    fd = os.open(raw / "raw-gz.raw", os.O_RDONLY)
    assert os.fstat(fd).st_size == len(written)
    assert "raw-gz.raw" in os.listdir(listing)
    # What the kernel believes without asking is what ends a read(2) that is under way.
    found = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.statx(fd, b"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, found) == 0
    assert int.from_bytes(found.raw[40:48], "little") == len(written)
    os.close(listing)
    os.close(fd)


def test_a_compressed_image_that_is_cut_off_is_an_error(
    cloud, compressed, written, make_mount, servers, tools
):
    base = cloud.datastores[1].base_path
    for name in ("raw-gz", "qcow2-gz"):
        os.truncate(os.path.join(base, name), 2 * MIB)
    mount = make_mount(servers.frontend_url)
    mount.start()
    raw = mount.path / "raw/datastores/default"
    with pytest.raises(OSError) as caught:
        (raw / "raw-gz.raw").read_bytes()
    assert caught.value.errno == errno.EIO
    assert "cut off" in tools.xattr(raw / "raw-gz.raw", "user.nebfs.trouble")
    with pytest.raises(OSError) as caught:
        (raw / "qcow2-gz.raw").read_bytes()
    assert caught.value.errno == errno.EIO
