"""Images on storage arrays: how they are found, how they are reached, and what is never done.

No array could be had: the fakes answer as the published descriptions of their APIs say.
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager
from dataclasses import replace

import pytest

from nebfs.datastores.arrays import address_of
from nebfs.datastores.netapp import NetappDatastore
from nebfs.datastores.purefa import PurefaDatastore
from nebfs.datastores.rest import base_of, is_encrypted
from nebfs.errors import BadAnswer, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer
from nebfs.model import Locator, Template
from tests.datastores import netapp_pool, purefa_pool
from tests.disks import LoopDevice
from tests.fetcher import ontap_fake, purity_fake
from tests.fetcher.service import Told, as_call

INITIATOR = "iqn.2026-01.x:me"
MIB = 1 << 20


@contextmanager
def loop_device(tmp_path, size):
    """A block device of `size` bytes; stands for one that leads to an array."""
    device = LoopDevice(tmp_path / "backing", bytes(size))
    try:
        yield device.path
    finally:
        device.close()


class Kind:
    """One of the drivers, its fake, and their words."""

    def __init__(self, name, fake, call, directories):
        self.name = name
        self.fake = fake
        self.call = call
        self.directories = directories
        pool, self.make, self.wwid_of = {
            "netapp": (netapp_pool, NetappDatastore, ontap_fake.wwid_of),
            "purefa": (purefa_pool, PurefaDatastore, purity_fake.wwid_of),
        }[name]
        self.template = dict(pool.TEMPLATE)
        self.prefix = name.upper()

    async def holding(self, datastore, image, call=None, initiator=INITIATOR, **template):
        """What the driver says; `template` changes attributes, None leaves one out."""
        changes = {f"{self.prefix}_{name}": text for name, text in template.items()}
        said = {k: v for k, v in {**self.template, **changes}.items() if v is not None}
        place = datastore(template=Template(tuple(said.items())))
        settings = {"initiator": initiator, "directories": self.directories}
        driver = self.make(paths={}, call=call or self.call, settings=settings)
        (holding,) = await driver.holdings(place, [image])
        return holding


@pytest.fixture(params=["netapp", "purefa"])
def kind(request, tmp_path):
    fake, call = {"netapp": ("ontap", "netapp_array"), "purefa": ("purity", "purefa_array")}[
        request.param
    ]
    directory = tmp_path / "mapper"
    directory.mkdir()
    return Kind(
        request.param,
        request.getfixturevalue(fake),
        request.getfixturevalue(call),
        (str(directory),),
    )


# --- finding --------------------------------------------------------------------------------------


async def test_a_unit_that_the_initiator_may_see_is_read_by_iscsi(kind, datastore, image):
    kind.fake.put("one_1_1", 1, MIB, mapped=7)
    content = (await kind.holding(datastore, image(1))).content
    host = "10.0.0.7" if kind.name == "netapp" else "10.0.0.9"
    address = f"iscsi://{host}:3260/{kind.fake.target}/7"
    assert content.locator == Locator("iscsi", address, (("initiator", INITIATOR),))
    assert content.revision is None
    assert not content.volatile


async def test_what_a_vm_may_write_to_is_not_kept(kind, datastore, image):
    kind.fake.put("one_1_1", 1, MIB, mapped=7)
    assert (await kind.holding(datastore, image(1, persistent=True))).content.volatile


async def test_a_volume_that_was_made_anew_is_another_version(kind, datastore, image):
    kind.fake.put("one_1_1", 1, MIB, mapped=7)
    first = (await kind.holding(datastore, image(1))).content
    again = (await kind.holding(datastore, image(1))).content
    assert first.identity == again.identity
    made = {"create_time": "2026-07-01T00:00:00+00:00", "created": 5}
    (kind.fake.luns if kind.name == "netapp" else kind.fake.volumes)[0] |= made
    assert (await kind.holding(datastore, image(1))).content.identity != first.identity


async def test_a_suffix_belongs_to_the_name(kind, datastore, image):
    kind.fake.put("one_1_1_b", 1, MIB, mapped=1)
    assert (await kind.holding(datastore, image(1), SUFFIX="_b")).content
    assert "no such volume" in (await kind.holding(datastore, image(1))).trouble.reason
    for bad in ("*", "'", "a b", "x" * 100, "../"):
        trouble = (await kind.holding(datastore, image(1), SUFFIX=bad)).trouble
        assert trouble.errno == errno.EIO
        assert "suffix" in trouble.reason


async def test_another_images_volume_is_not_taken(kind, datastore, image):
    for name in ("one_1_11", "one_11_1", "one_1_1x", "one_1_disk_1", "x_one_1_1"):
        kind.fake.put(name, 1, MIB, mapped=1)
    trouble = (await kind.holding(datastore, image(1))).trouble
    assert (trouble.errno, "no such volume" in trouble.reason) == (errno.EIO, True)


async def test_thousands_of_volumes_come_in_pages(kind, datastore, image):
    kind.fake.page = 3
    for number in range(1, 12):
        kind.fake.put(f"one_1_{number}", number, MIB, mapped=number)
    content = (await kind.holding(datastore, image(11))).content
    assert content.locator.address.endswith("/11")


async def test_nothing_is_asked_about_images_that_cannot_be_read(kind, datastore, image):
    holding = await kind.holding(datastore, image(1, unreadable="an emoji"))
    assert holding.trouble.reason == "an emoji"
    assert kind.fake.requests == []


async def test_only_lists_are_asked_for(kind, datastore, image):
    kind.fake.put("one_1_1", 1, MIB, mapped=7)
    kind.fake.put("one_1_2", 2, MIB)
    await kind.holding(datastore, image(1))
    await kind.holding(datastore, image(2))
    assert {asked.method for asked in kind.fake.requests} == {"GET"}


# --- reaching -------------------------------------------------------------------------------------


async def test_a_unit_that_is_a_device_here_is_read_in_place(kind, datastore, image, tmp_path):
    kind.fake.put("one_1_1", 1, MIB, mapped=7)
    with loop_device(tmp_path, MIB) as device:
        wwid = kind.wwid_of(1)
        for name in (wwid, f"dm-uuid-mpath-{wwid}", f"wwn-0x{wwid[1:]}", f"scsi-{wwid}"):
            link = os.path.join(kind.directories[0], name)
            os.symlink(device, link)
            content = (await kind.holding(datastore, image(1), initiator="")).content
            # By this name: loop1, or dm-1, may be something else tomorrow.
            assert content.locator == Locator("device", link)
            assert content.volatile
            assert content.format == "raw"
            os.unlink(link)


async def test_a_device_that_is_there_is_enough(kind, datastore, image, tmp_path):
    kind.fake.put("one_1_1", 1, MIB, mapped=7)
    with loop_device(tmp_path, MIB) as device:
        os.symlink(device, os.path.join(kind.directories[0], kind.wwid_of(1)))
        await kind.holding(datastore, image(1))
    assert len(kind.fake.requests) == 1


async def test_a_device_of_another_length_is_not_believed(kind, datastore, image, tmp_path):
    kind.fake.put("one_1_1", 1, 2 * MIB)
    with loop_device(tmp_path, MIB) as device:
        os.symlink(device, os.path.join(kind.directories[0], kind.wwid_of(1)))
        trouble = (await kind.holding(datastore, image(1))).trouble
    assert trouble.errno == errno.EIO
    assert "1048576 bytes" in trouble.reason
    assert "2097152" in trouble.reason


async def test_a_file_with_a_devices_name_is_none(kind, datastore, image):
    kind.fake.put("one_1_1", 1, MIB)
    with open(os.path.join(kind.directories[0], kind.wwid_of(1)), "wb") as file:
        file.truncate(MIB)
    assert (await kind.holding(datastore, image(1))).trouble.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize(
    ("initiator", "words"), [(INITIATOR, f"let {INITIATOR} in"), ("", "iscsi_initiator")]
)
async def test_a_unit_that_cannot_be_reached_says_what_to_do(
    kind, datastore, image, initiator, words
):
    kind.fake.put("one_1_1", 1, MIB)
    trouble = (await kind.holding(datastore, image(1), initiator=initiator)).trouble
    assert trouble.errno == errno.EOPNOTSUPP
    assert kind.wwid_of(1) in trouble.reason
    assert words in trouble.reason


async def test_an_initiator_that_nobody_knows_sees_nothing(kind, datastore, image):
    kind.fake.put("one_1_1", 1, MIB, mapped=7)
    holding = await kind.holding(datastore, image(1), initiator="iqn.2026-01.x:other")
    assert holding.trouble.errno == errno.EOPNOTSUPP


# --- logging in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, "", "3J1JqhWmVqLeXbxRTWzFcg==", "A" * 64])
async def test_without_a_usable_secret_the_remedy_is_said(kind, datastore, image, secret):
    attribute = {"netapp": "PASS", "purefa": "API_TOKEN"}[kind.name]

    async def call(request):
        shown = {"Authorization", "api-token"} & {name for name, _ in request.headers}
        assert not shown
        raise Refused("no login is known for this place", url="x", login="none")

    trouble = (await kind.holding(datastore, image(1), call, **{attribute: secret})).trouble
    assert trouble.errno == errno.EACCES
    assert f'["https://{kind.template[kind.prefix + "_HOST"]}"]' in trouble.reason
    assert "credentials_file" in trouble.reason
    assert ("encrypted" in trouble.reason) == bool(secret)
    assert not secret or secret not in trouble.reason


async def test_a_secret_that_the_array_refuses_fails_the_whole_place(kind, datastore, image):
    async def call(_):
        raise Refused("the array refuses it", url="x", login="refused")

    with pytest.raises(Refused):
        await kind.holding(datastore, image(1), call)


async def test_what_is_missing_here_is_said_at_every_image(kind, datastore, image):
    async def call(_):
        raise Unsupported("the file of certificate authorities cannot be used")

    trouble = (await kind.holding(datastore, image(1), call)).trouble
    assert (trouble.errno, "authorities" in trouble.reason) == (errno.EOPNOTSUPP, True)


@pytest.mark.parametrize(
    "host", [None, "", "http://10.0.0.1", "user@host", "a b", "host/x", "host:0", "-x", "h:99999"]
)
async def test_a_host_that_is_none_is_never_asked(kind, datastore, image, host):
    trouble = (await kind.holding(datastore, image(1), HOST=host)).trouble
    assert trouble.errno == errno.EIO
    assert f"{kind.prefix}_HOST" in trouble.reason
    assert kind.fake.requests == []


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "failure"),
    [
        (Told(401), Refused),
        (Told(403), Refused),
        (Told(429), Unreachable),
        (Told(500), Unreachable),
        (Told(404), BadAnswer),
        (Told(200, b"<html>"), BadAnswer),
        (Told(200, b"[" * 100_000), BadAnswer),
        (Told(200, b"[]"), BadAnswer),
        (Told(200, b"{}"), BadAnswer),
        (Told(200, b'{"records": {}, "items": "x"}'), BadAnswer),
    ],
)
async def test_an_answer_that_is_none_is_not_an_empty_array(kind, datastore, image, told, failure):
    with pytest.raises(failure):
        await kind.holding(datastore, image(1), as_call(lambda _: told))


async def test_pages_without_an_end_have_one(kind, datastore, image):
    endless = {
        "records": [],
        "_links": {"next": {"href": "/api/storage/luns?start.index=1"}},
        "items": [],
        "more_items_remaining": True,
        "continuation_token": "again",
    }
    asked = []

    async def call(request):
        asked.append(request)
        return CallAnswer(200, (), json.dumps(endless).encode())

    with pytest.raises(BadAnswer):
        await kind.holding(datastore, image(1), call)
    assert len(asked) <= 200


async def test_a_broken_record_is_that_images_trouble(kind, datastore, image):
    hostile = [
        {"serial_number": "../../../sda1/", "serial": "../../sda"},
        {"serial_number": "tooshort", "serial": "g" * 24},
        {"serial_number": None, "serial": 5},
        {"space": {"size": -1}, "provisioned": -1},
        {"space": {"size": True}, "provisioned": True},
        {"space": {"size": "1"}, "provisioned": 1 << 70},
        {"space": None, "provisioned": None},
    ]
    for number, changes in enumerate(hostile):
        kind.fake.put(f"one_1_{number}", number, MIB, mapped=1, **changes)
    kind.fake.put("one_1_100", 100, MIB, mapped=3)
    for number in range(len(hostile)):
        trouble = (await kind.holding(datastore, image(number))).trouble
        assert (trouble.errno, "not understood" in trouble.reason) == (errno.EIO, True)
    assert (await kind.holding(datastore, image(100))).content


# --- ONTAP alone ----------------------------------------------------------------------------------


@pytest.fixture
def netapp(ontap, netapp_array, tmp_path):
    return Kind("netapp", ontap, netapp_array, (str(tmp_path),))


async def test_a_lun_that_is_offline_says_so(netapp, datastore, image):
    for number, status in enumerate(
        [
            {"state": "offline", "container_state": "online"},
            {"state": "online", "container_state": "aggregate_offline"},
        ]
    ):
        netapp.fake.put(f"one_1_{number}", number, MIB, mapped=1, status=status)
        trouble = (await netapp.holding(datastore, image(number))).trouble
        assert (trouble.errno, "offline" in trouble.reason) == (errno.EIO, True)


async def test_the_svm_is_named_by_its_uuid_or_its_name(netapp, datastore, image):
    netapp.fake.put("one_1_1", 1, MIB, mapped=1)
    for svm in (ontap_fake.SVM, "svm1", None):
        assert (await netapp.holding(datastore, image(1), SVM=svm)).content
    assert (await netapp.holding(datastore, image(1), SVM="svm2")).trouble.errno == errno.EIO


async def test_a_volume_of_two_svms_is_neither(netapp, datastore, image):
    netapp.fake.put("one_1_1", 1, MIB, mapped=1)
    netapp.fake.put("one_1_1", 2, MIB, mapped=2, svm={"uuid": "other", "name": "svm2"})
    trouble = (await netapp.holding(datastore, image(1), SVM=None)).trouble
    assert "NETAPP_SVM" in trouble.reason
    assert (await netapp.holding(datastore, image(1))).content


async def test_the_interface_of_the_luns_own_node_is_taken(netapp, datastore, image):
    near = {**netapp.fake.interfaces[0], "location": {"node": {"name": "node2"}}}
    netapp.fake.interfaces.append({**near, "ip": {"address": "fd00::7"}})
    netapp.fake.interfaces.append({**near, "ip": {"address": "10.0.0.2"}, "services": ["data_nfs"]})
    netapp.fake.put("one_1_1", 1, MIB, mapped=5)
    netapp.fake.luns[0]["location"]["node"]["name"] = "node2"
    content = (await netapp.holding(datastore, image(1))).content
    assert content.locator.address == f"iscsi://[fd00::7]:3260/{ontap_fake.TARGET}/5"


async def test_a_user_who_may_not_see_interfaces_still_has_his_devices(
    netapp, datastore, image, tmp_path
):
    netapp.fake.forbidden = ("/api/network/ip/interfaces",)
    netapp.fake.put("one_1_1", 1, MIB, mapped=5)
    trouble = (await netapp.holding(datastore, image(1))).trouble
    assert trouble.errno == errno.EOPNOTSUPP
    assert "does not show this to the user" in trouble.reason
    with loop_device(tmp_path, MIB) as device:
        os.symlink(device, tmp_path / netapp.wwid_of(1))
        assert (await netapp.holding(datastore, image(1))).content


@pytest.mark.parametrize("following", ["https://evil/api/storage/luns", "//evil/x", "/api/other"])
async def test_the_next_page_is_of_the_same_list(netapp, datastore, image, following):
    asked = []

    async def call(request):
        asked.append(request.url)
        answer = {"records": [], "_links": {"next": {"href": following}}}
        return CallAnswer(200, (), json.dumps(answer).encode())

    with pytest.raises(BadAnswer):
        await netapp.holding(datastore, image(1), call)
    assert len(asked) == 1


# --- Purity alone ---------------------------------------------------------------------------------


@pytest.fixture
def purefa(purity, purefa_array, tmp_path):
    return Kind("purefa", purity, purefa_array, (str(tmp_path),))


async def test_a_destroyed_volume_is_not_there(purefa, datastore, image):
    purefa.fake.put("one_1_1", 1, MIB, mapped=1, destroyed=True)
    assert "no such volume" in (await purefa.holding(datastore, image(1))).trouble.reason


async def test_the_target_of_the_template_is_preferred(purefa, datastore, image):
    other = {**purefa.fake.ports[1], "iqn": "iqn.2010-06.x:b", "portal": "10.0.0.1:3260"}
    purefa.fake.ports.append(other)
    purefa.fake.put("one_1_1", 1, MIB, mapped=4)
    for target, host in (("", "10.0.0.1"), (purity_fake.TARGET, "10.0.0.9"), ("x", "10.0.0.1")):
        content = (await purefa.holding(datastore, image(1), TARGET=target)).content
        assert content.locator.address.startswith(f"iscsi://{host}:3260/")


@pytest.mark.parametrize("version", ["1.19", "2", "2.x", "../2.9", "2.9/x"])
async def test_a_version_that_is_none_of_rest_2(purefa, datastore, image, version):
    trouble = (await purefa.holding(datastore, image(1), VERSION=version)).trouble
    assert "PUREFA_VERSION" in trouble.reason
    assert purefa.fake.requests == []


async def test_a_lun_behind_a_protocol_endpoint_is_not_one_to_read(purefa, datastore, image):
    purefa.fake.put("one_1_1", 1, MIB, mapped=(30 << 32) + 2)
    assert (await purefa.holding(datastore, image(1))).trouble.errno == errno.EOPNOTSUPP


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("portal", "target", "lun"),
    [
        ("", ontap_fake.TARGET, 1),
        ("a/b", ontap_fake.TARGET, 1),
        ("u:p@host", ontap_fake.TARGET, 1),
        ("host:0", ontap_fake.TARGET, 1),
        ("host", "", 1),
        ("host", "iqn.2026-01.x:a/../b", 1),
        ("host", "iqn.2026-01.x:a?b", 1),
        ("host", ontap_fake.TARGET, -1),
        ("host", ontap_fake.TARGET, "1"),
        ("host", ontap_fake.TARGET, None),
        ("host", ontap_fake.TARGET, True),
        ("host", ontap_fake.TARGET, 1 << 20),
    ],
)
def test_what_an_array_says_cannot_be_another_address(portal, target, lun):
    assert address_of(portal, target, lun) == ""


@pytest.mark.parametrize(
    ("host", "port", "base"),
    [
        ("10.0.0.1", "", "https://10.0.0.1"),
        (" array.example.org ", "", "https://array.example.org"),
        ("https://array:8443/", "", "https://array:8443"),
        ("array", "443", "https://array:443"),
        ("[fd00::1]:8443", "", "https://[fd00::1]:8443"),
        ("array", "x", ""),
        ("array?x", "", ""),
    ],
)
def test_where_an_array_is(host, port, base):
    assert base_of(host, port) == base


@pytest.mark.parametrize(
    ("secret", "encrypted"),
    [
        ("3J1JqhWmVqLeXbxRTWzFcg==", True),
        ("3J1JqhWmVqLe\nXbxRTWzFcg==", True),
        ("password", False),
        ("secret!", False),
        ("0f2e2884-9486-c6c2-438c-f50418f2aac3", False),
        ("", False),
    ],
)
def test_what_is_shown_of_an_encrypted_secret_is_told_from_a_secret(secret, encrypted):
    assert is_encrypted(secret) is encrypted


def test_no_secret_is_shown(ontap, netapp_array, datastore, tmp_path):
    login = netapp_pool.TEMPLATE
    place = datastore(template=Template(login))
    driver = NetappDatastore(paths={}, call=netapp_array, settings={})
    array = driver._array(replace(place))
    assert "canary" not in repr(array.login) + repr(place)
