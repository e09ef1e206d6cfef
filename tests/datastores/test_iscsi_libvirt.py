"""iscsi_libvirt: where a unit is, by what OpenNebula says about the image and its datastore."""

from __future__ import annotations

import errno

import pytest

from nebfs.datastores import DatastoreDrivers
from nebfs.model import ImageState, Locator, Template
from tests.datastores.iscsi_pool import TARGET

STORE = (("ISCSI_HOST", "10.0.0.9"), ("LN_TARGET", "NONE"), ("CLONE_TARGET", "SELF"))


@pytest.fixture
def held(datastore, image):
    """What is held of an image with this record."""

    async def ask(template=(), *, store=STORE, settings=None, **changes):
        place = datastore(driver="iscsi_libvirt", template=Template(tuple(store)))
        record = image(
            1, **{"source": f"{TARGET}/1", "template": Template(tuple(template)), **changes}
        )
        driver = DatastoreDrivers(settings={"iscsi_libvirt": settings or {}})("iscsi_libvirt")
        (holding,) = await driver.holdings(place, [record])
        return holding

    return ask


async def test_a_unit_is_read_where_the_record_says_and_nothing_is_kept(held):
    content = (await held(regtime=7, modtime=8)).content
    assert content.locator == Locator("iscsi", f"iscsi://10.0.0.9:3260/{TARGET}/1")
    assert content.revision is None  # OpenNebula has 0: the target is asked
    assert content.volatile
    assert (content.format, content.media, content.version) == ("raw", "", "7.8")


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({"source": TARGET}, f"iscsi://10.0.0.9:3260/{TARGET}/0"),
        ({"source": f"{TARGET}/16383"}, f"iscsi://10.0.0.9:3260/{TARGET}/16383"),
        ({"source": f" {TARGET}/3\n"}, f"iscsi://10.0.0.9:3260/{TARGET}/3"),
        # As in OpenNebula's documentation, though no such name is allowed.
        (
            {"source": "iqn.2014.01.192.168.50.61:test:7cd2cc1e/0"},
            "iscsi://10.0.0.9:3260/iqn.2014.01.192.168.50.61:test:7cd2cc1e/0",
        ),
        ({"source": "eui.02004567A425678D/2"}, "iscsi://10.0.0.9:3260/eui.02004567A425678D/2"),
        ({"source": "iqn.x:a#b?c%d@e/2"}, "iscsi://10.0.0.9:3260/iqn.x:a%23b%3Fc%25d%40e/2"),
    ],
)
async def test_source_is_a_target_and_perhaps_a_lun(held, changes, address):
    assert (await held(**changes)).content.locator.address == address


@pytest.mark.parametrize(
    ("host", "portal"),
    [
        ("san", "san:3260"),
        ("san.example.org:3261", "san.example.org:3261"),
        ("[fd00::7]", "[fd00::7]:3260"),
        ("[fd00::7]:860", "[fd00::7]:860"),
    ],
)
async def test_the_host_may_have_a_port(held, host, portal):
    content = (await held(store=(("ISCSI_HOST", host),))).content
    assert content.locator.address == f"iscsi://{portal}/{TARGET}/1"


async def test_the_images_own_words_count_more_than_the_datastores(held):
    own = (
        ("ISCSI_HOST", "other:3261"),
        ("ISCSI_IQN", "iqn.2003-01.org.example:own/5"),
        ("ISCSI_USER", "bob"),
        ("ISCSI_USAGE", "b"),
    )
    store = (("ISCSI_HOST", "10.0.0.9"), ("ISCSI_USER", "alice"), ("ISCSI_USAGE", "a"))
    locator = (await held(own, store=store)).content.locator
    assert locator.address == "iscsi://other:3261/iqn.2003-01.org.example:own/5"
    assert dict(locator.options) == {"user": "bob"}
    locator = (await held(store=store)).content.locator
    assert dict(locator.options) == {"user": "alice"}


@pytest.mark.parametrize("alone", ["ISCSI_USER", "ISCSI_USAGE"])
async def test_chap_is_for_those_who_have_both_user_and_usage(held, alone):
    assert (await held(store=(*STORE, (alone, "one")))).content.locator.options == ()


async def test_the_initiators_name_is_nebfs_own(held):
    settings = {"initiator": "iqn.2026-01.org.example:nebfs"}
    content = (await held(settings=settings)).content
    assert dict(content.locator.options) == settings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store": ()}, "ISCSI_HOST"),
        *(
            ({"store": (("ISCSI_HOST", host),)}, "ISCSI_HOST is not")
            for host in (
                "a b",
                "a,b",
                "a/b",
                "u@h",
                "h:0",
                "h:65536",
                "h:p",
                "fd00::7",
                "[::1",
                "é",
            )
        ),
        *(
            ({"source": source}, "no name of an iSCSI target")
            for source in (
                "",
                "/etc/shadow",
                "iqn.x:y/1/2",
                "iqn.x:y/-1",
                "iqn.x:y/16384",
                "iqn.x:y/../z",
                "iqn.x:y z/1",
                "iqn.x:\x00/1",
                "iqn." + "x" * 300,
            )
        ),
        (
            {"store": (*STORE, ("ISCSI_USER", "a\nb"), ("ISCSI_USAGE", "x"))},
            "ISCSI_USER is not",
        ),
    ],
)
async def test_what_is_no_place_is_trouble(held, changes, words):
    trouble = (await held(**changes)).trouble
    assert trouble.errno == errno.EIO
    assert words in trouble.reason


async def test_an_image_that_a_vm_has_is_busy(held):
    trouble = (await held(state=ImageState.USED_PERS)).trouble
    assert trouble.errno == errno.EBUSY
