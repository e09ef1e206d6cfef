"""Documents to model objects: exact text, tolerant of everything that versions and users do."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.model import (
    AppState,
    AppType,
    DatastoreType,
    ImageState,
    ImageType,
    Lock,
    Permissions,
    Snapshot,
    Template,
    Zone,
)
from nebfs.opennebula import (
    MalformedDocument,
    decode_apps,
    decode_datastores,
    decode_images,
    decode_marketplaces,
    decode_user,
    decode_zones,
)
from nebfs.opennebula.decode_apps import decode_template64

# The recording's label and the name that was given to the real front-end.
IMAGE_NAMES = {
    "128": "n" * 128,
    "42x3": "\u65e5" * 42,
    "case1": "Case Test",
    "case2": "case test",
    "dash": "-rf",
    "dot": ".",
    "dotdot": "..",
    "fullwidth": "a\uff0fb",
    "hidden": ".hidden",
    "nfc": "\u00fcn nfc",
    "nfd": "u\u0308n nfd",
    "number": "0",
    "padded": " padded ",
    "percent": "a%2Fb",
    "rtl": "a\u202ebidi",
    "spaces": "   ",
    "unicode": "\u00fcn\u00efc\u00f6d\u00e9 \u65e5\u672c\u8a9e",
}


@pytest.mark.parametrize("label", IMAGE_NAMES)
def test_a_hostile_image_name_is_decoded_exactly(kit, label):
    (image,) = decode_images(kit.document(f"image.info-name-{label}"))
    assert image.name == IMAGE_NAMES[label]


def test_hostile_image_names_are_the_same_in_the_pool(kit):
    names = {image.name for image in decode_images(kit.document("imagepool.info-oneadmin"))}
    assert set(IMAGE_NAMES.values()) <= names


def test_hostile_app_names_are_decoded_exactly(kit):
    apps = {app.id: app.name for app in decode_apps(kit.document("marketapppool.info-oneadmin"))}
    assert apps[7] == ".."
    assert apps[8] == "."
    assert apps[6] == "Colon: in name"
    assert apps[11] == "Slash/in name"
    assert apps[9] == " leading and trailing "
    assert apps[5] == "\u00dcn\u00efc\u00f6d\u00e9 \u65e5\u672c\u8a9e app"
    assert apps[10] == "x" * 128
    assert apps[35] == "y" * 129
    assert len(apps) == 36


def test_an_app_of_a_public_marketplace_is_read_whole(kit):
    (app,) = decode_apps(kit.document("marketapp.info-m0-0-Alpine_Linux_3.22"))
    assert (app.id, app.name, app.uname, app.gname) == (
        0,
        "Alpine Linux 3.22",
        "oneadmin",
        "oneadmin",
    )
    assert (app.marketplace_id, app.marketplace) == (0, "OpenNebula Public")
    assert (app.state, app.type) == (AppState.READY, AppType.IMAGE)
    assert app.source == ("http://127.0.0.1:8911/appliance/05fdb700000000000000000e/download/0")
    assert (app.md5, app.size_mb, app.format) == ("642d62918c29d88468b830f154eb33fa", 64, "qcow2")
    assert (app.version, app.regtime) == ("7.2.0-1-20260115", 1768485600)
    assert app.description == "Alpine Linux 3.22 image for KVM and LXC hosts"
    assert (app.origin_id, app.zone_id, app.lock, app.unreadable) == (-1, 0, None, "")
    assert app.app_template == 'DEV_PREFIX="vd"\nTYPE="OS"\n'
    assert app.permissions.octal == "644"
    assert app.template.get("PUBLISHER") == "OpenNebula Systems"


def test_marketplaces_are_read_whole(kit):
    public, containers, *private = decode_marketplaces(kit.document("marketpool.info-oneadmin"))
    assert (public.name, public.driver, public.enabled) == ("OpenNebula Public", "one", True)
    assert public.permissions == Permissions(7, 4, 4)
    assert public.app_ids == (*range(22), 35)
    assert public.template.get("ENDPOINT") == "http://127.0.0.1:8911/"
    assert containers.driver == "linuxcontainers"
    assert [market.id for market in private] == [100, 101]


def test_datastores_are_read_whole(kit):
    stores = {one.id: one for one in decode_datastores(kit.document("datastorepool.info-oneadmin"))}
    assert sorted(stores) == [0, 1, 2, 100, 101, 102, 103]
    assert [stores[number].type for number in (0, 1, 2)] == [
        DatastoreType.SYSTEM,
        DatastoreType.IMAGE,
        DatastoreType.FILE,
    ]
    assert stores[0].driver == "-"
    assert stores[1].base_path == "/var/lib/one//datastores/1"
    assert stores[1].driver == "fs"
    assert stores[1].total_mb >= stores[1].free_mb > 0
    assert len(stores[1].image_ids) > 20


def test_images_are_read_whole(kit):
    (clone,) = decode_images(kit.document("image.info-clone"))
    assert (clone.id, clone.name, clone.state) == (95, "clone of tiny raw", ImageState.READY)
    assert clone.source == "/var/lib/one//datastores/1/ade747b35bf780d5ad77388dc5056e3c"
    assert (clone.datastore_id, clone.datastore, clone.format) == (1, "default", "raw")
    assert (clone.regtime, clone.modtime, clone.running_vms) == (1795436518, 1795436518, 0)
    (cdrom,) = decode_images(kit.document("image.info-iso"))
    assert cdrom.type == ImageType.CDROM
    (bad,) = decode_images(kit.document("image.info-badmd5"))
    assert (bad.state, bad.source) == (ImageState.ERROR, "")
    assert bad.template.get("ERROR")
    locks = [one.lock for one in decode_images(kit.document("imagepool.info-oneadmin")) if one.lock]
    assert Lock(1, 0, 1795435940) in locks


def test_a_user_never_carries_the_secrets_of_its_document(kit):
    document = kit.document("user.info-self-alice")
    user = decode_user(document)
    assert (user.id, user.name, user.gid, user.gname, user.groups) == (2, "alice", 1, "users", (1,))
    tokens = [part.partition("<")[0] for part in document.split("<TOKEN>")[1:]]
    assert tokens
    assert not any(token in repr(user) for token in tokens)
    assert "0000" not in repr(user)


def test_zones_are_read(kit):
    expected = Zone(0, "OpenNebula", "http://localhost:2633/RPC2", enabled=True)
    assert decode_zones(kit.document("zonepool.info-oneadmin")) == (expected,)
    assert decode_zones(kit.document("zone.info-0-carol")) == (expected,)


def test_empty_pools_are_empty(kit):
    assert decode_apps(kit.document("marketapppool.info-range-beyond")) == ()
    assert decode_images(kit.document("imagepool.info-range-beyond")) == ()
    assert decode_datastores(kit.document("datastorepool.info-carol")) == ()


def test_documents_of_older_versions_and_newer_numbers_are_tolerated():
    (market,) = decode_marketplaces("<MARKETPLACE><ID>7</ID></MARKETPLACE>")
    assert (market.name, market.enabled, market.app_ids) == ("", True, ())
    (app,) = decode_apps(
        "<MARKETPLACEAPP><ID>7</ID><STATE>99</STATE><TYPE/><SIZE>many</SIZE><NEW><X/></NEW>"
        f"<REGTIME>{'9' * 30}</REGTIME></MARKETPLACEAPP>"
    )
    assert (app.state, app.type, app.size_mb) == (AppState.UNKNOWN, AppType.UNKNOWN, 0)
    assert (app.regtime, app.origin_id, app.marketplace_id) == (0, -1, -1)
    (image,) = decode_images("<IMAGE><ID>7</ID><TYPE>42</TYPE></IMAGE>")
    assert (image.type, image.state) == (ImageType.UNKNOWN, ImageState.UNKNOWN)
    assert (image.modtime, image.snapshots, image.permissions.octal) == (0, (), "000")
    (store,) = decode_datastores("<DATASTORE><ID>7</ID><CLUSTER_ID>0</CLUSTER_ID></DATASTORE>")
    assert (store.type, store.enabled) == (DatastoreType.UNKNOWN, True)


@pytest.mark.parametrize(
    ("elements", "format_", "filesystem"),
    [
        ("<FORMAT>raw</FORMAT><FS>ext4</FS>", "raw", "ext4"),
        ("<FORMAT/><FS/><TEMPLATE><DRIVER>qcow2</DRIVER></TEMPLATE>", "", ""),
        ("<FSTYPE>ext3</FSTYPE><TEMPLATE><DRIVER>qcow2</DRIVER></TEMPLATE>", "qcow2", "ext3"),
        ("<FSTYPE>qcow2</FSTYPE>", "qcow2", ""),
        ("<FSTYPE>ext3</FSTYPE>", "", "ext3"),
    ],
)
def test_the_format_of_an_image_is_found_in_every_version(elements, format_, filesystem):
    (image,) = decode_images(f"<IMAGE><ID>1</ID>{elements}</IMAGE>")
    assert (image.format, image.filesystem) == (format_, filesystem)


def test_snapshots_are_read_in_order():
    (image,) = decode_images(
        "<IMAGE><ID>1</ID><SNAPSHOTS><NEXT_SNAPSHOT>3</NEXT_SNAPSHOT>"
        "<SNAPSHOT><ID>2</ID><NAME>after</NAME><DATE>20</DATE><SIZE>64</SIZE><PARENT>0</PARENT>"
        "<ACTIVE>YES</ACTIVE></SNAPSHOT>"
        "<SNAPSHOT><ID>0</ID><DATE>10</DATE><SIZE>64</SIZE><PARENT>-1</PARENT></SNAPSHOT>"
        "</SNAPSHOTS></IMAGE>"
    )
    assert image.snapshots == (
        Snapshot(0, "", 10, 64, -1, active=False),
        Snapshot(2, "after", 20, 64, 0, active=True),
    )


def test_a_template_keeps_order_repeats_and_vectors():
    (app,) = decode_apps(
        "<MARKETPLACEAPP><ID>1</ID><TEMPLATE><B>2</B><DISK><NAME>a</NAME><APP>x</APP></DISK>"
        "<A>1</A><DISK><NAME>b</NAME></DISK><B/></TEMPLATE></MARKETPLACEAPP>"
    )
    first = Template((("NAME", "a"), ("APP", "x")))
    second = Template((("NAME", "b"),))
    assert app.template.items == (
        ("B", "2"),
        ("DISK", first),
        ("A", "1"),
        ("DISK", second),
        ("B", ""),
    )


def test_a_vm_template_app_lists_its_disks_in_order(kit):
    (app,) = decode_apps(kit.document("marketapp.info-m0-20-Service_demo_VM_template"))
    assert app.type == AppType.VMTEMPLATE
    disks = app.template.all("DISK")
    assert disks
    assert all(isinstance(disk, Template) for disk in disks)


def test_control_characters_in_a_template_do_not_hide_a_pool():
    (image,) = decode_images(
        "<IMAGE_POOL><IMAGE><ID>1</ID><TEMPLATE><D><![CDATA[a\x07\x1b[31mb\ufffe]]></D>"
        "</TEMPLATE></IMAGE></IMAGE_POOL>"
    )
    assert image.template.get("D") == "a[31mb"


def test_cdata_that_the_front_end_split_is_one_text():
    (image,) = decode_images("<IMAGE><ID>1</ID><PATH><![CDATA[a]]]]><![CDATA[>b]]></PATH></IMAGE>")
    assert image.path == "a]]>b"


@pytest.mark.parametrize(
    "document",
    [
        "",
        "text",
        "<IMAGE><ID>1</ID>",
        "<IMAGE></IMAGE>",
        "<IMAGE><ID>x</ID></IMAGE>",
        "<IMAGE><ID>-1</ID></IMAGE>",
        "<IMAGE_POOL><IMAGE><ID>1</ID></IMAGE><IMAGE/></IMAGE_POOL>",
        "<VM_POOL></VM_POOL>",
        "<DATASTORE><ID>1</ID></DATASTORE>",
        "<IMAGE><ID>\ud800<",
    ],
)
def test_what_is_no_such_document_is_refused(document):
    with pytest.raises(MalformedDocument):
        decode_images(document)


def test_xml_bombs_are_refused_in_bounded_time():
    laughs = "".join(f'<!ENTITY a{i} "&a{i - 1};&a{i - 1};">' for i in range(1, 41))
    bombs = (
        f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]><IMAGE><ID>1</ID><NAME>&a40;</NAME></IMAGE>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><IMAGE><NAME>&a;</NAME></IMAGE>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/"><IMAGE><ID>1</ID></IMAGE>',
    )
    started = time.perf_counter()
    for bomb in bombs:
        with pytest.raises(MalformedDocument, match="document type"):
            decode_images(bomb)
    assert time.perf_counter() - started < 1


def test_a_template_nested_beyond_reason_does_not_overflow_the_stack():
    depth = 50_000
    nested = "<V>" * depth + "</V>" * depth
    (image,) = decode_images(f"<IMAGE><ID>1</ID><TEMPLATE>{nested}</TEMPLATE></IMAGE>")
    assert image.template.items[0][0] == "V"


@settings(derandomize=True, database=None, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))), cut=st.integers(0, 3))
def test_a_template64_is_decoded_with_any_padding_and_line_breaks(text, cut):
    packed = base64.b64encode(text.encode()).decode()
    assert decode_template64(packed) == text
    assert decode_template64(packed.rstrip("=")) == text
    assert decode_template64("\n ".join(packed)) == text
    decode_template64(packed[: len(packed) - cut])  # damaged: anything but an exception


def test_a_damaged_template64_is_no_reason_to_lose_the_app():
    assert decode_template64("\xe9\xe9") == ""
    assert decode_template64("A!!!") == ""
    assert decode_template64("/w==") == "\ufffd"
    (app,) = decode_apps(
        "<MARKETPLACEAPP><ID>1</ID><APPTEMPLATE64>A</APPTEMPLATE64></MARKETPLACEAPP>"
    )
    assert app.app_template == ""


def test_a_template64_that_is_only_in_the_template_is_found():
    (app,) = decode_apps(
        "<MARKETPLACEAPP><ID>1</ID><TEMPLATE><APPTEMPLATE64>QT0x</APPTEMPLATE64></TEMPLATE>"
        "</MARKETPLACEAPP>"
    )
    assert app.app_template == "A=1"


def test_no_network_library_is_imported_by_name_in_the_room():
    room = Path(__file__).parents[2] / "nebfs" / "opennebula"
    sources = "\n".join(path.read_text() for path in room.glob("*.py"))
    assert "import aiohttp" not in sources
    assert "monkey_patch()" not in sources
