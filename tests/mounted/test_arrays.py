"""Datastores on storage arrays and in a vCenter, through the mount. What they log in to is faked:
no array and no vCenter could be had. Devices are loop devices, which stand for multipath's.
"""

from __future__ import annotations

import errno
import os
import random

import pytest

from nebfs.demo.records import DatastoreRecord, ImageRecord
from nebfs.model import ImageState, Template
from tests.disks import LoopDevice
from tests.fetcher import ontap_fake, purity_fake
from tests.fetcher.ontap_fake import OntapFake
from tests.fetcher.purity_fake import PurityFake
from tests.fetcher.service import Service, make_certificates
from tests.fetcher.tgt import Tgt
from tests.fetcher.vsphere_fake import VsphereFake

pytestmark = pytest.mark.mounted

SLOT = 128 << 10
MIB = 1 << 20
SIZE = 4 * MIB + 512
DIRECTORY = "mapper"


@pytest.fixture
def data():
    return random.Random(9).randbytes(SIZE)


@pytest.fixture
def serve(tmp_path):
    make_certificates(tmp_path)
    started = []

    def start(fake):
        started.append(Service(tmp_path, fake.respond).__enter__())
        return started[-1]

    yield start
    for service in started:
        service.__exit__()


@pytest.fixture
def device(tmp_path, data):
    """A block device with the data, known by two names: as one of either array."""
    loop = LoopDevice(tmp_path / "lun", data)
    directory = tmp_path / DIRECTORY
    directory.mkdir()
    os.symlink(loop.path, directory / ontap_fake.wwid_of(1))
    os.symlink(loop.path, directory / f"dm-uuid-mpath-{purity_fake.wwid_of(1)}")
    yield loop
    loop.close()


def add(cloud, number, name, template):
    """A datastore with the images `disk`, `in use` and `elsewhere`."""
    template = {"LN_TARGET": "NONE", "CLONE_TARGET": "SELF", **template}
    cloud.datastores[number] = DatastoreRecord(
        number,
        name,
        driver=name,
        transfer=name,
        disk_type=2,
        template=Template(tuple(template.items())),
    )
    for image, called in [(1, "disk"), (2, "in use"), (3, "elsewhere")]:
        cloud.images[number + image] = ImageRecord(
            number + image,
            called,
            datastore_id=number,
            datastore=name,
            source=f"one_{number}_{number + image}",
            format="raw",
            disk_type=2,
        )
    cloud.set_image_state(number + 2, ImageState.USED_PERS)


@pytest.fixture
def start(make_mount, servers, tmp_path):
    """Mount, with `known` in the file of credentials."""

    def start(known, **changes):
        config = tmp_path / "nebfs.toml"
        directories = [str(tmp_path / DIRECTORY)]
        initiator = changes.pop("initiator", "")
        config.write_text(
            f"[datastores]\narray_devices = {directories}\niscsi_initiator = '{initiator}'\n"
        )
        credentials = tmp_path / "credentials.toml"
        credentials.write_text(known)
        credentials.chmod(0o600)
        options = {"config": config, "credentials-file": credentials, "log-level": "debug"}
        options |= {"ca-file": tmp_path / "ca.pem", **changes}
        mount = make_mount(
            servers.frontend_url, "-o", ",".join(f"{k}={v}" for k, v in options.items())
        )
        mount.start()
        return mount

    return start


@pytest.fixture(params=["netapp", "purefa"])
def array(request, cloud, serve):
    """An array with the volumes of a datastore: its name and the entry about it."""
    fake = OntapFake() if request.param == "netapp" else PurityFake()
    fake.put("one_150_151", 1, SIZE)
    fake.put("one_150_153", 3, SIZE)
    service = serve(fake)
    if request.param == "netapp":
        template = {"NETAPP_HOST": service.host, "NETAPP_USER": "admin", "NETAPP_SVM": "svm1"}
        template["NETAPP_PASS"] = "3J1JqhWmVqLeXbxRTWzFcg=="
        known = f'["{service.url}"]\nuser = "{fake.user}"\npassword = "{fake.password}"\n'
    else:
        template = {"PUREFA_HOST": service.host, "PUREFA_API_TOKEN": "3J1JqhWmVqLeXbxRTWzFcg=="}
        known = f'["{service.url}"]\napi-token = "{fake.token}"\n'
    add(cloud, 150, request.param, template)
    return request.param, known


def test_a_unit_that_is_a_device_here_is_read_in_place(array, device, start, data, tools):
    name, known = array
    mount = start(known)
    path = mount.image("disk.raw", name)
    assert path.stat().st_size == SIZE
    assert path.read_bytes() == data
    with open(path, "rb", buffering=0) as file:
        device.write_behind(MIB, b"written by another machine")
        assert os.pread(file.fileno(), 26, MIB) == b"written by another machine"
    assert not any((mount.cache / "objects").rglob("*.dat"))
    for image, number, words in [
        ("in use.raw", errno.EBUSY, "a VM writes to it"),
        ("elsewhere.raw", errno.EOPNOTSUPP, "no device of this machine"),
    ]:
        path = mount.image(image, name)
        with pytest.raises(OSError) as caught:
            path.read_bytes()
        assert caught.value.errno == number
        assert words in tools.xattr(path, "user.nebfs.trouble")
    assert "canary" not in tools.everything_shown(mount.path)


def test_a_secret_that_only_an_administrator_can_read_names_the_remedy(array, device, start, tools):
    name, _ = array
    path = start("").image("disk.raw", name)
    with pytest.raises(OSError) as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EACCES
    trouble = tools.xattr(path, "user.nebfs.trouble")
    assert "is encrypted" in trouble
    assert "credentials_file" in trouble


INITIATOR = "iqn.2026-01.x:me"
PORTAL = "127.0.0.77"
"""Of the iSCSI interface: arrays have it at port 3260, and so this machine's own loopback may."""


@pytest.fixture
def target(tmp_path, data):
    """A real target with the data in its unit 1, for the one initiator."""
    root = tmp_path / "tgt"
    root.mkdir()
    server = Tgt(root, PORTAL)
    server.port = 3260
    server.start()
    name = server.target("array", initiator=INITIATOR)
    server.unit(1, data)
    yield name
    server.kill()


def test_a_unit_that_the_initiator_may_see_is_read_by_iscsi(
    target, cloud, serve, start, data, tmp_path
):
    """The API is a fake's; the unit that it leads to is a real target's."""
    fake = OntapFake(portal=PORTAL, target=target)
    fake.put("one_150_151", 1, SIZE, mapped=1)
    service = serve(fake)
    template = {"NETAPP_HOST": service.host, "NETAPP_SVM": "svm1"}
    add(cloud, 150, "netapp", template)
    known = f'["{service.url}"]\nuser = "{fake.user}"\npassword = "{fake.password}"\n'
    (tmp_path / DIRECTORY).mkdir()
    mount = start(known, initiator=INITIATOR)
    path = mount.image("disk.raw", "netapp")
    assert path.stat().st_size == SIZE
    assert path.read_bytes() == data


@pytest.fixture
def vcenter(cloud, serve, data):
    fake = VsphereFake()
    fake.put_disk("one/251/one-251.vmdk", data)
    service = serve(fake)
    template = {
        "VCENTER_HOST": service.host,
        "VCENTER_DC_NAME": fake.centre,
        "VCENTER_DS_NAME": fake.store,
        "VCENTER_USER": fake.user,
        "VCENTER_PASSWORD": fake.password,
    }
    add(cloud, 250, "vcenter", template)
    for image in (251, 252, 253):
        cloud.images[image].source = f"one/{image}/one-{image}.vmdk"
        cloud.images[image].format = "vmdk"
    return fake


def test_bytes_of_a_vcenter_equal_those_of_the_flat_file(vcenter, start, data, tools, tmp_path):
    mount = start("")
    path = mount.image("disk.raw", "vcenter")
    assert path.stat().st_size == SIZE
    tools.run("cp", path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert "canary" not in tools.everything_shown(mount.path)
    with pytest.raises(OSError) as caught:
        mount.image("elsewhere.vmdk", "vcenter").read_bytes()
    assert caught.value.errno == errno.EIO


def test_4_kib_in_the_middle_of_a_vcenters_file_fetch_one_block(vcenter, start, data, tools):
    path = start("", **{"read-ahead": 0}).image("disk.raw", "vcenter")
    assert path.stat().st_size == SIZE
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    at = 9 * SLOT + 60_000
    assert os.pread(fd, 4096, at) == data[at : at + 4096]
    # The read is answered before what it fetched is put into the cache.
    tools.wait_until(lambda: tools.xattr(path, "user.nebfs.cached") != "0")
    # On a machine that is busy the place seems far away: then neighbours come along, unasked.
    assert SLOT <= int(tools.xattr(path, "user.nebfs.cached")) <= MIB
    # And after the session has ended, as it does when nobody asks for half an hour.
    vcenter.sessions.clear()
    assert os.pread(fd, SLOT, 2 * MIB) == data[2 * MIB :][:SLOT]
    assert vcenter.logins == 2
    os.close(fd)
