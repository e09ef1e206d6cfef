"""Drivers whose images an administrator has said the place of: in place, over HTTP, over SFTP."""

from __future__ import annotations

import errno
import json
import os

import pytest

from nebfs.datastores import DatastoreDrivers
from nebfs.datastores import mapped as mapped_module
from nebfs.datastores.look import Looked
from nebfs.datastores.mapping import Place, Unfit
from nebfs.errors import Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer
from nebfs.model import Datastore, DatastoreType, Image, ImageState, ImageType, Template


def image(number=1, **changes):
    facts = {
        "name": "disk",
        "state": ImageState.READY,
        "source": "/dev/x/ONE-img-1",
        "format": "raw",
    }
    return Image(number, **{**facts, **changes})


STORE = Datastore(
    7,
    "fast",
    driver="storpool",
    type=DatastoreType.IMAGE,
    template=Template((("LN_TARGET", "SELF"),)),
)


async def mapped(mapping, *images, call=None, settings=None):
    drivers = DatastoreDrivers(mappings={"storpool": mapping}, call=call, settings=settings)
    return await drivers("storpool").holdings(STORE, images)


async def only(mapping, one, **kwargs):
    (holding,) = await mapped(mapping, one, **kwargs)
    return holding


# --- what can be written --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host/{id}", "write file:///path"),
        ("{source}", "absolute path"),
        ("relative/{id}", "absolute path"),
        ("file://host/dir/{id}", "absolute path"),
        ("file:///{id}", "begin with a directory"),
        ("file://{source}", "absolute path"),
        ("/{source}", "begin with a directory"),
        ("/x{source}", "begin with a directory"),
        ("/dir/{uuid}", "{uuid} is no placeholder; there are {id}, {name}"),
        ("/dir/{}", "{} is no placeholder"),
        ("/dir/{id", "brace"),
        ("/dir/id}", "brace"),
        ("/dir/{{id}}", "brace"),
        ("/dir/disk", "tells images apart"),
        ("/dir/{datastore}", "tells images apart"),
        ("/dir/../{id}", "component . or .."),
        ("/dir/{id}?x", "no ?"),
        ("http://{name}/x/{id}", "host must be named"),
        ("http:///{id}", "host must be named"),
        ("https://bob:canary@host/{id}", "without a password"),
        ("https://bob@host/{id}", "credentials_file"),
        ("sftp://bob:canary@host/dir/{id}", "without a password"),
        ("sftp://host/{id}", "begin with a directory"),
        ("https://host/{id}#x", "character"),
        ("/dir/\n{id}", "character"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused_in_words(text, words):
    with pytest.raises(ValueError) as caught:
        Place.of(text)
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "directory"),
    [
        ("/dev/storpool/{source_base}", "/dev/storpool"),
        ("file:///dev/storpool/{source_base}", "/dev/storpool"),
        ("/srv/{datastore}/{id}.img", "/srv"),
        ("sftp://me@host:22/srv/one-{id}/disk", "/srv"),
    ],
)
def test_the_directory_is_what_does_not_depend_on_an_image(text, directory):
    assert Place.of(text).directory == directory


@pytest.mark.parametrize(
    ("text", "changes", "path"),
    [
        ("/s/{source_base}", {}, "/s/ONE-img-1"),
        ("/s/{source}", {}, "/s/dev/x/ONE-img-1"),
        ("/s/{source}", {"source": "pool//a"}, "/s/pool/a"),
        ("/s/{datastore_id}/{datastore}-{id}.{name}", {}, "/s/7/fast-1.disk"),
        ("/s/{source_base}", {"source": "one-7"}, "/s/one-7"),
        ("/s/{name}", {"name": "%2e%2e"}, "/s/%2e%2e"),
        ("/s/{name}", {"name": "{id}"}, "/s/{id}"),
        ("/s/{name}", {"name": "..."}, "/s/..."),
    ],
)
def test_an_image_fills_the_placeholders(text, changes, path):
    assert Place.of(text).path_of(image(**changes), STORE) == path


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("/s/{source}", {"source": "../../etc/shadow"}),
        ("/s/{source}", {"source": "a/../../../etc/shadow"}),
        ("/s/{source}", {"source": "/./x"}),
        ("/s/{source_base}", {"source": "/dev/.."}),
        ("/s/{source_base}", {"source": "-"}),
        ("/s/{source_base}", {"source": ""}),
        ("/s/{source}", {"source": "/"}),
        ("/s/{name}", {"name": "a/b"}),
        ("/s/{name}", {"name": ".."}),
        ("/s/.{name}", {"name": "."}),
        ("/s/{name}", {"name": "a\0b"}),
        ("/s/{name}", {"name": "a\nb"}),
        ("/s/{name}", {"name": "a\ud800"}),
        ("/s/{source}", {"source": "a/" * 3000}),
        ("sftp://h/s/{name}", {"name": "a?b"}),
        ("sftp://h/s/{name}", {"name": "a#b"}),
    ],
)
def test_an_image_that_does_not_fit_has_no_path(text, changes):
    with pytest.raises(Unfit):
        Place.of(text).path_of(image(**changes), STORE)


# --- files ----------------------------------------------------------------------------------


async def test_a_file_is_read_in_place(tmp_path):
    (tmp_path / "ONE-img-1").write_bytes(b"12345")
    facts = os.stat(tmp_path / "ONE-img-1")
    holding = await only(f"file://{tmp_path}/{{source_base}}", image(type=ImageType.CDROM))
    content = holding.content
    assert content.locator.transport == "file"
    assert content.locator.address == str(tmp_path / "ONE-img-1")
    assert content.revision.size == 5
    assert content.revision.etag == f"{facts.st_dev}:{facts.st_ino}"
    assert (content.format, content.media) == ("raw", "cdrom")


async def test_nothing_outside_of_the_mapping_s_directory_is_read(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    (inside / "ONE-img-1").symlink_to(tmp_path / "secret")
    (inside / "sub").symlink_to(tmp_path)
    holding = await only(f"{inside}/{{source_base}}", image())
    assert (holding.trouble.errno, holding.content) == (errno.EACCES, None)
    holding = await only(f"{inside}/{{source}}", image(source="sub/secret"))
    assert (holding.trouble.errno, holding.content) == (errno.EACCES, None)
    (inside / "real").write_bytes(b"ok")
    (inside / "ONE-img-1").unlink()
    (inside / "ONE-img-1").symlink_to("real")
    holding = await only(f"{inside}/{{source_base}}", image())
    assert holding.content.locator.address == str(inside / "real")


async def test_what_is_no_file_or_not_there_says_so(tmp_path):
    (tmp_path / "1").mkdir()
    os.mkfifo(tmp_path / "2")
    images = [image(1), image(2), image(3), image(4, name="")]
    one, two, three, _ = await mapped(f"{tmp_path}/{{id}}", *images)
    assert "it is a directory" in one.trouble.reason
    assert "it is a pipe" in two.trouble.reason
    assert (three.trouble.errno, three.content) == (errno.EIO, None)
    (nameless,) = await mapped(f"{tmp_path}/{{name}}", images[3])
    assert "has nothing for {name}" in nameless.trouble.reason


def device(path, *, outside=False):
    def look(_, paths):
        real = path or paths[0]
        return tuple(Looked(real, kind="block device", outside=outside) for _ in paths)

    return look


@pytest.mark.parametrize(
    ("mapping", "real", "outside", "allowed"),
    [
        ("/dev/storpool/{id}", "/dev/sp-0", True, True),
        ("/dev/storpool/{id}", "", False, True),
        ("/srv/devices/{id}", "", False, True),
        ("/srv/devices/{id}", "/dev/sda", True, False),
        ("/dev/storpool/{id}", "/srv/device", True, False),
    ],
)
async def test_a_block_device_is_read_as_one(monkeypatch, mapping, real, outside, allowed):
    monkeypatch.setattr(mapped_module, "look", device(real, outside=outside))
    holding = await only(mapping, image(regtime=1))
    if not allowed:
        assert (holding.trouble.errno, holding.content) == (errno.EACCES, None)
        return
    content = holding.content
    assert (content.locator.transport, content.locator.address) == ("device", mapping[:-4] + "1")
    assert (content.revision, content.volatile, content.version) == (None, True, "1.0")


async def test_two_images_at_one_place_show_neither(tmp_path):
    (tmp_path / "disk").write_bytes(b"whose?")
    holdings = await mapped(f"{tmp_path}/{{name}}", image(1), image(2))
    assert all("use {id}" in holding.trouble.reason for holding in holdings)


async def test_states_count_as_they_do_anywhere(tmp_path):
    (tmp_path / "1").write_bytes(b"x")
    place = f"{tmp_path}/{{id}}"
    assert (await only(place, image(state=ImageState.LOCKED))).trouble.errno == errno.EBUSY
    assert (await only(place, image(state=ImageState.USED_PERS))).content is not None
    assert await mapped(place, image(state=ImageState.DELETE)) == ()


async def test_a_disk_that_gives_errors_is_the_datastore_s_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(
        mapped_module, "look", lambda _, paths: tuple(Looked(path, errno.EIO) for path in paths)
    )
    with pytest.raises(Unreachable):
        await mapped(f"{tmp_path}/{{id}}", image())


async def test_a_mapping_goes_before_nebfs_s_own_driver(tmp_path):
    (tmp_path / "1").write_bytes(b"x")
    drivers = DatastoreDrivers(mappings={"ceph": f"{tmp_path}/{{id}}"})
    (holding,) = await drivers("ceph").holdings(STORE, [image()])
    assert holding.content.locator.address == str(tmp_path / "1")
    assert drivers("ceph") is drivers("ceph")


# --- elsewhere ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "changes", "url"),
    [
        ("https://gw.example/{id}", {}, "https://gw.example/1"),
        ("http://gw:81/a/{name}.img", {"name": "a b?#%"}, "http://gw:81/a/a%20b%3F%23%25.img"),
        ("http://gw/{source}", {"source": "/p q/é"}, "http://gw/p%20q/%C3%A9"),
        ("http://gw/x?of={source}&i={id}", {"source": "/a&b"}, "http://gw/x?of=%2Fa%26b&i=1"),
    ],
)
async def test_an_address_is_filled_in_encoded(text, changes, url):
    content = (await only(text, image(regtime=3, modtime=4, **changes))).content
    assert (content.locator.transport, content.locator.address) == ("http", url)
    assert (content.revision, content.version, content.format) == (None, "3.4", "raw")


@pytest.mark.parametrize("name", ["..", "a/b", ".", "", "a\rb"])
async def test_an_address_never_leads_elsewhere(name):
    holding = await only("https://gw.example/x/{name}", image(name=name))
    assert (holding.trouble.errno, holding.content) == (errno.EIO, None)


class Far:
    """The other machine, which has `files`."""

    def __init__(self, *files, failure=None):
        self.files, self.failure, self.asked = files, failure, []

    async def __call__(self, request):
        if self.failure is not None:
            raise self.failure
        asked = json.loads(request.body)
        self.asked.append((request.url, asked))
        facts = [
            [0 if path in self.files else errno.ENOENT, "file", False, False, 5, 10**9, path]
            for path in asked["paths"]
        ]
        return CallAnswer(200, (), json.dumps(facts).encode())


async def test_files_on_another_machine_are_looked_at_and_read_there():
    far = Far("/srv/1")
    settings = {"fs": {"user": "backup", "identity": "/key"}}
    images = [image(1), image(2)]
    one, two = await mapped("sftp://host:2/srv/{id}", *images, call=far, settings=settings)
    assert one.content.locator.transport == "sftp"
    assert one.content.locator.address == "sftp://host:2/srv/1"
    assert dict(one.content.locator.options) == {"bridges": "backup@host:2", "identity": "/key"}
    assert one.content.revision.size == 5
    assert "host:2 has no file" in two.trouble.reason
    ((url, asked),) = far.asked
    assert (url, asked["base"], asked["paths"]) == (
        "sftp://host:2/srv",
        "/srv",
        ["/srv/1", "/srv/2"],
    )


async def test_a_machine_that_is_away_is_the_datastore_s_trouble():
    with pytest.raises(Unreachable):
        await mapped("sftp://host/srv/{id}", image(), call=Far(failure=Unreachable("down")))
    holding = await only("sftp://host/srv/{id}", image(), call=Far(failure=Unsupported("no ssh")))
    assert (holding.trouble.errno, holding.trouble.reason) == (errno.EOPNOTSUPP, "no ssh")
    holding = await only("sftp://host/srv/{id}", image())
    assert holding.trouble.errno == errno.EOPNOTSUPP


# --- nobody's -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ("dummy", "nothing behind them"),
        ("interactive", "keep no bytes"),
        ("linstor", "[datastores.mappings]"),
    ],
)
async def test_what_nobody_can_read_says_why(driver, words):
    (holding,) = await DatastoreDrivers()(driver).holdings(STORE, [image()])
    assert holding.trouble.errno == errno.EOPNOTSUPP
    assert words in holding.trouble.reason
    assert repr(driver) in holding.trouble.reason
