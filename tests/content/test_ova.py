"""The disk in an OVA: archives as GNU tar and Python's tarfile make them, and as nobody should."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from nebfs.content import ova
from nebfs.errors import Damaged, NebfsError, Unsupported
from nebfs.model import Revision
from tests.content.disk_images import make, oracle
from tests.content.qcow2 import Slow, raw, run
from tests.content.test_qcow2 import check, content
from tests.content.test_qcow2_hostile import Bytes

MIB = 1 << 20


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk as products of VMware export it, and what is on it."""
    home = tmp_path_factory.mktemp("ova")
    source = home / "source"
    source.write_bytes(content(2, 3 * MIB))
    path = make("vmdk", source, home / "product-disk1.vmdk", "subformat=streamOptimized")
    (home / "product.ovf").write_text("<Envelope/>\n" * 500)
    (home / "product.mf").write_text("SHA256(product.ovf)= 00\n")
    return path, oracle("vmdk", path)


NAMES = ("product.ovf", "product.mf", "product-disk1.vmdk")


async def flaw(data: bytes) -> str:
    return (await ova.look(Bytes(data))).flaw


@pytest.mark.parametrize("form", ["ustar", "gnu", "posix", "pax", "oldgnu"])
@pytest.mark.parametrize("order", [NAMES, NAMES[::-1]])
async def test_archives_of_gnu_tar(disk, tmp_path, form, order):
    path, expected = disk
    archive = tmp_path / "product.ova"
    run("tar", "-C", path.parent, f"--format={form}", "-cf", archive, *order)
    for wrap in (lambda reader: reader, Slow):
        file = wrap(await raw(archive))
        found = await ova.look(file)
        assert (found.size, found.flaw) == (len(expected), "")
        reader = await ova.open_disk(file, None, Revision(0))
        await check(reader, expected)
        await reader.aclose()


async def test_few_bytes_are_read_to_find_the_disk(disk, tmp_path):
    path, _ = disk
    archive = tmp_path / "product.ova"
    run("tar", "-C", path.parent, "-cf", archive, *NAMES)
    file = Slow(await raw(archive))
    await ova.look(file)
    assert len(file.reads) <= 8
    assert sum(length for _, length in file.reads) <= 32 << 10
    await file.aclose()


def archive(*members, form=tarfile.PAX_FORMAT, **headers) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, pax_headers=headers) as tar:
        for name, data, *kind in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if kind:
                info.type = kind[0]
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
async def test_long_names(disk, form):
    path, expected = disk
    name = "x" * 300 + ".vmdk"
    data = archive(("a.ovf", b"x"), (name, path.read_bytes()), form=form)
    reader = await ova.open_disk(Bytes(data), None, Revision(0))
    assert await reader.pread(0, reader.size) == expected
    found = [member async for member in ova.members(Bytes(data))]
    assert [member.name for member in found] == ["a.ovf", name]


async def test_archives_without_a_disk_or_with_several(disk):
    path, _ = disk
    data = path.read_bytes()
    root = [(f"{number}", b"x") for number in range(30)]
    assert await flaw(archive(*root)) == "it is an archive of files, not a disk"
    assert await flaw(archive(*root * 100)) == "it is an archive of files, not a disk"
    assert await flaw(archive()) == "it is an archive of files, not a disk"
    two = archive(("a.ovf", b""), ("a.vmdk", data), ("b.vmdk", data))
    assert "2 disks" in await flaw(two)
    with pytest.raises(Unsupported, match="2 disks"):
        await ova.open_disk(Bytes(two), None, Revision(0))
    in_pieces = archive(("a.ovf", b""), ("a.vmdk.000000000", data), ("a.vmdk.000000001", data))
    assert "archive of files" in await flaw(in_pieces)


async def test_a_disk_that_is_none_is_said_to_be_none():
    data = archive(("a.ovf", b"x"), ("a.vmdk", b"# Disk DescriptorFile\n" + bytes(1000)))
    assert "other files" in await flaw(data)
    link = archive(("a.ovf", b"x"), ("a.vmdk", b"", tarfile.SYMTYPE))
    assert "archive of files" in await flaw(link)


async def test_the_root_of_a_system_is_left_after_some_headers():
    root = archive(*[(f"usr/bin/{number}", b"x" * 600) for number in range(5000)])
    file = Slow(Bytes(root))
    assert "archive of files" in (await ova.look(file)).flaw
    assert len(file.reads) <= 65


async def test_archives_that_are_cut_off(disk):
    path, _ = disk
    data = archive(("a.ovf", b"x" * 600), ("a.vmdk", path.read_bytes()))
    for length in (512 + 100, 512 + 1024 + 100, 512 + 1024 + 512 + 5000):
        assert "cut off" in await flaw(data[:length])
    file = Bytes(data[:10_000])
    with pytest.raises(Damaged):
        await ova.open_disk(file, None, Revision(0))
    assert file.closed


async def test_holes_and_damaged_headers_are_refused(disk, tmp_path):
    path, _ = disk
    with (tmp_path / "a.vmdk").open("wb") as file:
        file.truncate(MIB)
        file.write(b"x")
    for form in ("posix", "gnu"):
        where = tmp_path / form
        run("tar", "-C", tmp_path, f"--format={form}", "-S", "-cf", where, "a.vmdk")
        assert await flaw(where.read_bytes())
    data = bytearray(archive(("a.vmdk", path.read_bytes()), form=tarfile.USTAR_FORMAT))
    data[130] ^= 1
    assert "damaged" in await flaw(bytes(data))


async def test_made_up_archives_end_in_our_errors(disk):
    path, _ = disk
    whole = archive(
        ("a.ovf", b"x" * 600), ("y" * 200 + ".vmdk", path.read_bytes()), comment="z" * 50
    )
    source = random.Random(8)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(source.choice([1, 1, 3])):
            at = source.randrange(8) * 512
            at += source.choice([source.randrange(512), 124 + source.randrange(12), 156, 0])
            data[at] = source.choice([0, 0x80, 0xFF, 0x30, 0x37, source.randrange(256)])
            at -= at % 512
            if source.random() < 0.8:
                total = sum(data[at : at + 512]) - sum(data[at + 148 : at + 156]) + 256
                data[at + 148 : at + 156] = b"%06o\0 " % total
        file = Bytes(bytes(data))
        try:
            reader = await ova.open_disk(file, None, Revision(0))
            if reader.size:
                await reader.pread(0, min(4096, reader.size))
        except NebfsError:
            continue
        assert file.most <= MIB
