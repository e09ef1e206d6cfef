"""What is particular to VHD: the length of a disk, footers, and differencing images."""

from __future__ import annotations

import struct

import pytest

from nebfs.content.layers.vhd import FOOTER, parse_footer
from nebfs.errors import Damaged
from tests.content.disk_images import FORMATS, flaw, make, opened, oracle
from tests.content.qcow2 import raw, run

MIB = 1 << 20


def footed(data: bytes, at: int, **changes) -> bytes:
    """Change fields of the footer at `at`, and its checksum."""
    fields = {"creator": (28, "4s"), "size": (48, "Q"), "chs": (56, "HBB"), "type": (60, "I")}
    footer = bytearray(data[at : at + FOOTER])
    for name, value in changes.items():
        where, kind = fields[name]
        struct.pack_into(f">{kind}", footer, where, *(value if name == "chs" else [value]))
    struct.pack_into(">I", footer, 64, 0)
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFFFFFF)
    return data[:at] + bytes(footer) + data[at + FOOTER :]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"disk" * (5 * MIB // 4))
    return path


CREATORS = [b"vpc ", b"qemu", b"qem2", b"win ", b"d2v ", b"tap\0", b"CTXS", b"vbox", b"vs  "]


@pytest.mark.parametrize("creator", CREATORS)
@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
async def test_the_length_is_that_which_its_creator_means(source, tmp_path, kind, creator):
    path = make("vhd", source, tmp_path / "image", f"subformat={kind},force_size=on")
    data = path.read_bytes()
    at = 0 if kind == "dynamic" else len(data) - FOOTER
    chs = (140, 4, 17)  # a little less
    path.write_bytes(footed(data, at, creator=creator, chs=chs))
    expected = oracle("vhd", path)
    file = await raw(path)
    assert (await FORMATS["vhd"].look(file)).size == len(expected)
    await file.aclose()
    reader = await opened("vhd", path)
    assert await reader.pread(0, reader.size) == expected
    await reader.aclose()


@pytest.mark.parametrize(
    "size", ["0", "1M", "100M", "1G", "126G", "127G", "137G", "1000G", "2040G"]
)
@pytest.mark.parametrize("options", ["force_size=off", "force_size=on"])
async def test_the_length_is_what_qemu_img_says(tmp_path, size, options):
    path = tmp_path / "image"
    made = ["qemu-img", "create", "-f", "vpc", "-o", options, path, size]
    if size == "2040G" and options == "force_size=off":
        made[-1] = "2000G"
    run(*made)
    flat = tmp_path / "flat"
    run("qemu-img", "convert", "-f", "vpc", "-O", "raw", path, flat)
    file = await raw(path)
    assert (await FORMATS["vhd"].look(file)).size == flat.stat().st_size
    await file.aclose()


def test_azure_means_bytes(source, tmp_path):
    """QEMU knows since 10.0, later than the one here."""
    path = make("vhd", source, tmp_path / "image", "subformat=fixed,force_size=on")
    data = path.read_bytes()
    at = len(data) - FOOTER
    changed = footed(data, at, creator=b"wa\0\0", chs=(1, 1, 1))
    assert parse_footer(changed[at:]).size == 5 * MIB


async def test_a_differencing_image_is_refused(source, tmp_path):
    path = make("vhd", source, tmp_path / "image")
    path.write_bytes(footed(path.read_bytes(), 0, type=4))
    assert "differencing" in await flaw("vhd", path)


async def test_a_fixed_image_that_was_cut_off_is_none(source, tmp_path):
    path = make("vhd", source, tmp_path / "image", "subformat=fixed")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "no vhd image" in await flaw("vhd", path)
    path.write_bytes(whole[MIB:])
    assert "shorter than its disk" in await flaw("vhd", path)


async def test_damage_is_found_by_checksums(source, tmp_path):
    path = make("vhd", source, tmp_path / "image")
    whole = path.read_bytes()
    for at in (50, 512 + 30):
        path.write_bytes(whole[:at] + b"\x55" + whole[at + 1 :])
        assert "damaged" in await flaw("vhd", path)


async def test_entries_that_lead_to_the_tables_are_damage(source, tmp_path):
    path = make("vhd", source, tmp_path / "image")
    data = bytearray(path.read_bytes())
    table = struct.unpack_from(">Q", data, 512 + 16)[0]
    for value in (0, 1, table // 512, 0x7FFFFFFF):
        struct.pack_into(">I", data, table, value)
        path.write_bytes(data)
        reader = await opened("vhd", path)
        with pytest.raises(Damaged):
            await reader.pread(0, 512)
        assert await reader.pread(2 * MIB, 8) == b"diskdisk"
        await reader.aclose()
