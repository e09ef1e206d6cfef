"""Images in a vCenter: which file has the bytes, and which is never asked for.

No vCenter could be had: the fake answers as its published descriptions say.
"""

from __future__ import annotations

import errno
import random

import pytest

from nebfs.datastores.vcenter import VcenterDatastore
from nebfs.datastores.vmdk_descriptor import flat_extent
from nebfs.errors import Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer
from nebfs.model import ImageType, Template
from tests.datastores import vcenter_pool
from tests.fetcher.service import Told, as_call
from tests.fetcher.vsphere_fake import descriptor

FOLDER = "https://vcenter.example.org/folder/"
QUERY = "?dcPath=DC%201&dsName=nfs%2F%C3%A4"
PATH = "one/1/one-1.vmdk"
FLAT = "one/1/one-1-flat.vmdk"


@pytest.fixture
def look(datastore, vcenter):
    """Ask the driver about images; `template` changes attributes, None leaves one out."""

    async def look(*images, call=vcenter, **template):
        said = {
            k: v for k, v in {**dict(vcenter_pool.TEMPLATE), **template}.items() if v is not None
        }
        place = datastore(template=Template(tuple(said.items())))
        return await VcenterDatastore(paths={}, call=call).holdings(place, images)

    return look


@pytest.fixture
def only(look):
    async def only(image, **kwargs):
        (holding,) = await look(image, **kwargs)
        return holding

    return only


async def test_the_bytes_of_a_disk_are_beside_its_descriptor(only, image, vsphere):
    vsphere.put_disk(PATH, bytes(5120))
    content = (await only(image(1, source=PATH, format="vmdk"))).content
    assert content.locator.transport == "vsphere"
    assert content.locator.address == FOLDER + FLAT + QUERY
    assert content.format == "raw"
    assert content.revision is None
    assert not content.volatile
    assert "canary" not in repr(content)


async def test_a_file_that_is_no_descriptor_is_read_as_it_is(only, image, vsphere):
    for data in (b"", b"KDMV" + bytes(100), b"KDMV" + bytes(1 << 20)):
        vsphere.files[PATH] = data
        content = (await only(image(1, source=PATH, format="vmdk"))).content
        assert content.locator.address == FOLDER + PATH + QUERY
        assert content.format == "vmdk"


async def test_a_large_file_is_not_fetched_to_be_looked_at(only, image, vsphere):
    vsphere.files[PATH] = bytes(1 << 20)
    await only(image(1, source=PATH))
    assert [asked.method for asked in vsphere.requests] == ["HEAD"]


async def test_a_cd_is_an_iso_image_whatever_it_is_called(only, image, vsphere):
    vsphere.files["iso/a.iso"] = b"x"
    made = image(1, source="iso/a.iso", format="vmdk", type=ImageType.CDROM)
    content = (await only(made)).content
    assert (content.format, content.media) == ("raw", "cdrom")


async def test_spaces_are_written_as_opennebula_writes_them(only, image, vsphere):
    vsphere.files["my images/a b%.vmdk"] = b"x"
    content = (await only(image(1, source="my%20images/a b%.vmdk"))).content
    assert content.locator.address == FOLDER + "my%20images/a%20b%25.vmdk" + QUERY


async def test_a_disk_that_was_written_to_is_another_version(only, image, vsphere):
    seen = set()
    for content_id in ("fffffffe", "fffffffe", "0badcafe"):
        vsphere.put_disk(PATH, bytes(5120), content_id)
        seen.add((await only(image(1, source=PATH))).content.identity)
    vsphere.put_disk(PATH, bytes(10240), "0badcafe")
    seen.add((await only(image(1, source=PATH))).content.identity)
    assert len(seen) == 3


async def test_what_a_vm_may_write_to_is_not_kept(only, image, vsphere):
    vsphere.put_disk(PATH, bytes(5120))
    assert (await only(image(1, source=PATH, persistent=True))).content.volatile


@pytest.mark.parametrize(
    "source",
    [
        "/vmfs/volumes/x/disk.vmdk",
        "../other/disk.vmdk",
        "one/../../disk.vmdk",
        "one/./disk.vmdk",
        "one//disk.vmdk",
        "one/disk.vmdk/",
        "[other] one/disk.vmdk",
        "one\\disk.vmdk",
        "%20/../x",
    ],
)
async def test_a_path_that_leads_elsewhere_is_refused(only, image, vsphere, source):
    trouble = (await only(image(1, source=source))).trouble
    assert trouble.errno == errno.EACCES
    assert vsphere.requests == []


@pytest.mark.parametrize("source", ["", "a\nb", "a\0b"])
async def test_a_source_that_is_no_path(only, image, vsphere, source):
    trouble = (await only(image(1, source=source))).trouble
    assert trouble.errno == errno.EIO
    assert vsphere.requests == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flat": "../one-2-flat.vmdk"}, "beside"),
        ({"flat": "/etc/shadow"}, "beside"),
        ({"flat": ".."}, "beside"),
        ({"flat": ""}, "beside"),
        ({"flat": "a\\b"}, "beside"),
        ({"flat": "[ds] x"}, "not beside its descriptor"),
        ({"flat": "gone-flat.vmdk"}, "not beside its descriptor"),
        ({"kind": "VMFSSPARSE"}, "VMFSSPARSE"),
        ({"kind": "SESPARSE"}, "SESPARSE"),
        ({"kind": "VMFSRDM"}, "VMFSRDM"),
        ({"kind": "FLAT"}, "FLAT"),
        ({"access": "NOACCESS"}, "VMFS"),
        ({"parent": "0badcafe"}, "difference"),
        ({"size": 10240}, "5120"),
    ],
)
async def test_a_descriptor_of_something_else_says_so(only, image, vsphere, changes, words):
    vsphere.put_disk(PATH, bytes(5120))
    said = {"size": 5120, "flat": "one-1-flat.vmdk", **changes}
    vsphere.files[PATH] = descriptor(**said)
    trouble = (await only(image(1, source=PATH))).trouble
    assert trouble.errno in (errno.EIO, errno.EOPNOTSUPP)
    assert words in trouble.reason
    asked = {request.path for request in vsphere.requests}
    assert all(path.startswith("/folder/one/1/") for path in asked)


def test_the_descriptor_of_one_flat_file():
    extent = flat_extent(descriptor(5120, "a b-flat.vmdk"))
    assert (extent.name, extent.size, extent.content_id) == ("a b-flat.vmdk", 5120, "fffffffe")
    flat = descriptor(5120, "x-flat.vmdk", kind="FLAT").replace(b'vmdk"\n', b'vmdk" 0\n')
    assert flat_extent(flat).name == "x-flat.vmdk"
    with pytest.raises(ValueError, match="FLAT"):
        flat_extent(flat.replace(b'vmdk" 0', b'vmdk" 63'))
    with pytest.raises(ValueError, match="VMFS"):
        flat_extent(descriptor(5120, "x").replace(b'"x"', b'"x" 63'))


@pytest.mark.parametrize("count", [0, 2])
def test_a_disk_of_several_files_is_not_read(count):
    text = descriptor(5120, "x")
    line = b'RW 10 VMFS "x"\n'
    with pytest.raises(ValueError, match=f"{count} files"):
        flat_extent(text.replace(line, line * count))


def test_any_text_is_a_descriptor_or_none():
    source = random.Random(1)
    text = descriptor(5120, "x-flat.vmdk")
    for _ in range(500):
        broken = bytearray(text)
        for _ in range(source.randrange(1, 9)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        try:
            extent = flat_extent(bytes(broken))
        except ValueError:
            continue
        assert "/" not in extent.name
        assert extent.name not in ("", ".", "..")
        assert extent.size >= 0


@pytest.mark.parametrize("name", ["VCENTER_HOST", "VCENTER_DC_NAME", "VCENTER_DS_NAME"])
async def test_a_datastore_that_does_not_say_where_it_is(only, image, vsphere, name):
    for value in (None, "", " "):
        trouble = (await only(image(1, source=PATH), **{name: value})).trouble
        assert trouble.errno == errno.EIO
        assert name in trouble.reason
    assert vsphere.requests == []


async def test_a_port_of_its_own(only, image, vsphere):
    vsphere.files[PATH] = b"x"
    content = (await only(image(1, source=PATH), VCENTER_PORT="8443")).content
    assert content.locator.address.startswith("https://vcenter.example.org:8443/folder/")


async def test_a_file_that_is_gone_is_that_images_trouble(look, image, vsphere):
    vsphere.files[PATH] = b"x"
    gone, there = await look(image(1, source="gone.vmdk"), image(2, source=PATH))
    assert (gone.trouble.errno, "no such file" in gone.trouble.reason) == (errno.EIO, True)
    assert there.content


@pytest.mark.parametrize(
    ("told", "number"),
    [
        (Told(500), errno.EIO),
        (Told(403), errno.EACCES),
        (Told(418), errno.EIO),
        (Told(200, headers={"Content-Length": "-1"}), errno.EOPNOTSUPP),
        (Told(200, headers={"Content-Length": "9" * 30}), errno.EOPNOTSUPP),
        (Told(200, headers={"Content-Length": ""}), errno.EOPNOTSUPP),
    ],
)
async def test_an_answer_about_one_file_is_that_images_trouble(look, image, vsphere, told, number):
    vsphere.files[PATH] = b"x"
    vsphere.broken["bad.vmdk"] = told
    bad, there = await look(image(1, source="bad.vmdk"), image(2, source=PATH))
    assert bad.trouble.errno == number
    assert there.content


@pytest.mark.parametrize(("status", "failure"), [(503, Unreachable), (403, Refused)])
async def test_when_every_file_fails_nothing_is_known(look, image, status, failure):
    images = [image(number, source=PATH) for number in range(3)]
    with pytest.raises(failure):
        await look(*images, call=as_call(lambda _: Told(status)))


async def test_a_vcenter_that_is_silent_is_asked_once_or_so(look, image):
    asked = []

    async def call(request):
        asked.append(request)
        raise Unreachable("could not connect")

    images = [image(number, source=PATH) for number in range(100)]
    with pytest.raises(Unreachable):
        await look(*images, call=call)
    assert len(asked) <= 4


@pytest.mark.parametrize(
    ("login", "words"),
    [
        ({"VCENTER_PASSWORD": "3J1JqhWmVqLeXbxRTWzFcg=="}, "encrypted"),
        ({"VCENTER_PASSWORD": None}, "no VCENTER_PASSWORD"),
        ({"VCENTER_USER": ""}, "credentials_file"),
    ],
)
async def test_without_a_usable_login_the_remedy_is_said(look, image, login, words):
    async def call(request):
        assert "Authorization" not in dict(request.headers)
        raise Refused("no login is known for this place", url="x", login="none")

    images = [image(number, source=PATH) for number in range(9)]
    for holding in await look(*images, call=call, **login):
        assert holding.trouble.errno == errno.EACCES
        assert words in holding.trouble.reason
        assert '["https://vcenter.example.org"]' in holding.trouble.reason


async def test_a_login_that_is_refused_fails_the_whole_place(look, image):
    async def call(_):
        raise Refused("vCenter refuses it", url="x", login="refused")

    with pytest.raises(Refused):
        await look(image(1, source=PATH), image(2, source=PATH), call=call)


async def test_what_is_missing_here_is_said_at_every_image(look, image):
    async def call(_):
        raise Unsupported("the file of certificate authorities cannot be used")

    for holding in await look(image(1, source=PATH), image(2, source=PATH), call=call):
        assert holding.trouble.errno == errno.EOPNOTSUPP
        assert "authorities" in holding.trouble.reason


async def test_a_descriptor_that_grows_meanwhile_is_not_taken(only, image):
    async def call(request):
        if request.method == "HEAD":
            return CallAnswer(200, (("Content-Length", "500"),), b"")
        assert request.max_body <= 64 << 10
        return CallAnswer(206, (), b"x")

    trouble = (await only(image(1, source=PATH), call=call)).trouble
    assert trouble.errno == errno.EIO
