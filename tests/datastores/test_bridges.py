"""Images of ``fs`` datastores that are on another machine: which host, which path, what is said."""

from __future__ import annotations

import errno
import json

import pytest

from nebfs.config import load
from nebfs.datastores.bridges import Elsewhere, written
from nebfs.datastores.filesystem import FilesystemDatastore
from nebfs.datastores.places import PathMap
from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported, UserError
from nebfs.fetcher.messages import CallAnswer
from nebfs.model import ImageState, Revision, Template

BASE = "/nonexistent/one/datastores/1"
A_FILE = [0, "file", False, False, 5, 7 * 10**9, ""]


class Far:
    """Answers a LOOK out of `files`: path -> what is there."""

    def __init__(self):
        self.files = {}
        self.failure = None
        self.requests = []

    @property
    def asked(self):
        (request,) = self.requests
        return json.loads(request.body)

    async def __call__(self, request):
        self.requests.append(request)
        assert (request.method, request.transport) == ("LOOK", "sftp")
        if self.failure is not None:
            raise self.failure
        paths = json.loads(request.body)["paths"]
        absent = [errno.ENOENT, "", False, False, 0, 0]
        found = [[*self.files.get(path, absent)[:6], path] for path in paths]
        return CallAnswer(200, (), json.dumps(found).encode())


@pytest.fixture
def far():
    return Far()


@pytest.fixture
def make(far):
    def make(paths=None, settings=None):
        return FilesystemDatastore(paths=paths or {}, call=far, settings=settings)

    return make


@pytest.fixture
def bridged(datastore):
    def make(bridges="node1 node2 node3", base=BASE, **more):
        return datastore(
            base_path=base, template=Template((("BRIDGE_LIST", bridges), *more.items()))
        )

    return make


@pytest.fixture
def there(far, image):
    """An image whose file is only on the bridges."""

    def make(number=1, facts=A_FILE, **changes):
        path = f"{BASE}/{number:032x}"
        far.files[path] = facts
        return image(number, source=path, **changes)

    return make


async def only(driver, datastore, image):
    (holding,) = await driver.holdings(datastore, [image])
    return holding


async def test_a_file_on_a_bridge_is_located_there(make, bridged, there, far):
    content = (await only(make(), bridged(), there(1, format="qcow2"))).content
    assert content.locator.transport == "sftp"
    assert content.locator.address == f"sftp://node1,node2,node3{BASE}/{1:032x}"
    assert content.revision == Revision(5, modified=str(7 * 10**9))
    assert content.format == "qcow2"
    assert content.allocated is None
    assert far.asked["base"] == BASE
    assert far.asked["options"] == {"bridges": "node1 node2 node3"}


async def test_images_are_spread_over_the_bridges_and_the_cache_does_not_mind(make, bridged, there):
    images = [there(n) for n in range(3, 7)]
    holdings = await make().holdings(bridged(), images)
    orders = [dict(h.content.locator.options)["bridges"] for h in holdings]
    assert orders == [
        "node1 node2 node3",
        "node2 node3 node1",
        "node3 node1 node2",
        "node1 node2 node3",
    ]
    other = await make().holdings(bridged("root@node3 node2 node1"), images)
    assert [h.content.identity for h in holdings] == [h.content.identity for h in other]


async def test_what_is_here_is_read_here_and_nobody_is_asked(make, bridged, stored, base, far):
    holding = await only(make(), bridged(base=str(base)), stored(1))
    assert holding.content.locator.transport == "file"
    assert far.requests == []


async def test_only_what_is_not_here_is_asked_for(make, bridged, stored, image, base, far):
    far.files[f"{base}/{2:032x}"] = A_FILE
    holdings = await make().holdings(bridged(base=str(base)), [stored(1), image(2), image(3)])
    assert [h.content and h.content.locator.transport for h in holdings] == ["file", "sftp", None]
    assert far.asked["paths"] == [f"{base}/{n:032x}" for n in (2, 3)]
    assert holdings[2].trouble.errno == errno.EIO
    assert "neither on this machine nor on node1, node2, node3" in holdings[2].trouble.reason


async def test_a_front_end_elsewhere_by_its_url(make, datastore, image, far):
    driver = make({"/var/lib/one//datastores": "sftp://one@frontend:2222/srv/ds/"})
    far.files["/srv/ds/1/x"] = A_FILE
    place = datastore(base_path="/var/lib/one//datastores/1")
    content = (await only(driver, place, image(1, source="/var/lib/one//datastores/1/x"))).content
    assert content.locator.address == "sftp://frontend:2222/srv/ds/1/x"
    assert dict(content.locator.options) == {"bridges": "one@frontend:2222"}
    assert far.asked["base"] == "/srv/ds/1"


async def test_bridges_count_before_the_url(make, bridged, there):
    driver = make({"/nonexistent": "sftp://frontend/srv"})
    content = (await only(driver, bridged(), there(1))).content
    assert content.locator.address.startswith("sftp://node1,node2,node3/nonexistent/")


async def test_who_logs_in_and_with_which_files(make, bridged, there):
    settings = {"user": "reader", "identity": "/keys/id", "known-hosts": "/keys/known"}
    content = (await only(make(settings=settings), bridged("a root@b"), there(1))).content
    assert dict(content.locator.options) == {
        "bridges": "root@b reader@a",
        "identity": "/keys/id",
        "known-hosts": "/keys/known",
    }
    assert "keys" not in repr(content)
    assert "reader" not in content.locator.shown


@pytest.mark.parametrize(
    ("facts", "number", "words"),
    [
        ([errno.EACCES, "", False, False, 0, 0], errno.EACCES, "logs in at node1"),
        ([0, "file", True, False, 5, 0], errno.EACCES, "outside the datastore"),
        ([0, "file", True, True, 5, 0], errno.EACCES, "outside the datastore"),
        ([0, "directory", False, False, 5, 0], errno.EOPNOTSUPP, "directory"),
        ([errno.EIO, "", False, False, 0, 0], errno.EIO, "cannot be looked at"),
    ],
)
async def test_what_is_wrong_there_is_that_images_trouble(
    make, bridged, there, facts, number, words
):
    well, bad = await make().holdings(bridged(), [there(1), there(2, facts)])
    assert well.content is not None
    assert bad.trouble.errno == number
    assert words in bad.trouble.reason


async def test_states_are_judged_before_anybody_is_asked(make, bridged, there, far):
    images = [there(1, state=ImageState.LOCKED), there(3, state=ImageState.USED_PERS)]
    holdings = await make().holdings(bridged(LN_TARGET="NONE"), images)
    assert [h.trouble.errno for h in holdings] == [errno.EBUSY, errno.EBUSY]
    assert all(not json.loads(r.body)["paths"] for r in far.requests)


@pytest.mark.parametrize("source", ["/etc/shadow", f"{BASE}/../../secret", BASE, f"{BASE}0/x"])
async def test_a_source_outside_the_datastore_is_not_asked_for(make, bridged, image, far, source):
    holding = await only(make(), bridged(), image(1, source=source))
    assert holding.trouble.errno == errno.EACCES
    assert all(not json.loads(r.body)["paths"] for r in far.requests)


@pytest.mark.parametrize("failure", [Unreachable("no"), Refused("no"), BadAnswer("no")])
async def test_bridges_that_fail_are_an_error_of_the_place(make, bridged, there, far, failure):
    far.failure = failure
    with pytest.raises(type(failure)):
        await make().holdings(bridged(), [there(1), there(2)])


async def test_what_is_here_stays_readable_while_the_bridges_fail(
    make, bridged, stored, image, base, far
):
    far.failure = Unreachable("no bridge answers")
    here, away = await make().holdings(bridged(base=str(base)), [stored(1), image(2)])
    assert here.content is not None
    assert away.trouble.errno == errno.EIO
    assert "no bridge answers" in away.trouble.reason


async def test_a_missing_library_is_said_with_its_remedy(make, bridged, there, far):
    far.failure = Unsupported("install it with: pip install 'nebfs[ssh]'")
    holding = await only(make(), bridged(), there(1))
    assert holding.trouble.errno == errno.EOPNOTSUPP
    assert "nebfs[ssh]" in holding.trouble.reason


async def test_a_disk_that_fails_on_every_file_is_an_error_of_the_place(make, bridged, there):
    broken = [errno.EIO, "", False, False, 0, 0]
    with pytest.raises(Unreachable):
        await make().holdings(bridged(), [there(1, broken), there(2, broken)])


async def test_a_directory_that_no_bridge_has_lists_its_images(make, bridged, there, far):
    far.failure = Missing("the file is not there")
    holdings = await make().holdings(bridged(), [there(1), there(2)])
    assert [h.trouble.errno for h in holdings] == [errno.EIO, errno.EIO]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5",
        b"{}",
        b"[]",
        b"[5]",
        b'["abcdefg"]',
        b'[[0, "file", false, false, -1, 0, "/x"]]',
        b'[[0, "file", false, false, 1, 0, "x"]]',
        b'[[0, "file", false, false, "1", 0, "/x"]]',
        b'[[0, "file", false, false, 1, 0, "/x"], [0, "file", false, false, 1, 0, "/x"]]',
        *(
            b'[[0, "file", false, %s, 1, 0, "/x"%s]]' % one
            for one in [
                (b"true", b""),
                (b"false", b', ["x", "file", "", "", 1, 0, 0], []'),
                (b"true", b", 5, []"),
                (b"true", b", null, null"),
                (b"true", b', ["x", "file", "", "", 1, 0, 0]'),
                (b"true", b', ["x", "file", "", "", 1, 0, 0], 5'),
                (b"true", b', ["x", "file", "", "", -1, 0, 0], []'),
                (b"true", b', ["x", "file", "", "a", 1, 0, 0], []'),
                (b"true", b', ["../x", "file", "", "", 1, 0, 0], []'),
                (b"true", b', ["x", "file", "", "", 1, 0, 0], [["..", "file", "", "", 1, 0, 0]]'),
                (b"true", b', ["x", "file", "", "", 1, 0, 0], [' + b"[]," * 300 + b"[]]"),
            ]
        ),
    ],
)
async def test_an_answer_that_makes_no_sense(bridged, there, body):
    async def call(request):
        return CallAnswer(200, (), body)

    driver = FilesystemDatastore(paths={}, call=call)
    with pytest.raises(BadAnswer):
        await driver.holdings(bridged(), [there(1)])


async def test_many_images_take_few_questions(make, bridged, there, far):
    images = [there(n) for n in range(1, 2502)]
    holdings = await make().holdings(bridged(), images)
    assert all(h.content for h in holdings)
    assert len(far.requests) == 2


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("node1", "node1"),
        ("node1.example.org:2222", "node1.example.org:2222"),
        ("one@node1", "one@node1"),
        ("10.0.0.1", "10.0.0.1"),
        ("fe80::1", "[fe80::1]"),
        ("one@::1", "one@[::1]"),
        ("[::1]:22", "[::1]:22"),
        ("-oProxyCommand=x", ""),
        ("$(reboot)", ""),
        ("a;b", ""),
        ("a`b`", ""),
        ("-x@node", ""),
        ("node:0", ""),
        ("node:70000", ""),
        ("node/path", ""),
        ("user:password@node", ""),
        ("", ""),
    ],
)
def test_the_names_of_hosts(host, expected):
    assert written(host) == expected


async def test_a_bridge_list_without_a_usable_host(make, bridged, there, far):
    holding = await only(make(), bridged("$(reboot) ;"), there(1))
    assert holding.trouble.errno == errno.EOPNOTSUPP
    assert far.requests == []


def test_paths_on_another_machine():
    paths = PathMap({"/a": "/here", "/a/b": "sftp://h/there", "/c": "sftp://u@[::1]:2/d//e/"})
    assert paths.remote("/a/b/x") == ("h", "/there/x")
    assert paths.remote("/a/x") == ("", "")
    assert paths.remote("/c") == ("u@[::1]:2", "/d/e")
    assert paths.local("/a/b/x") == "/here/b/x"


def test_an_address_says_no_user():
    place = Elsewhere(("one@b", "a:22"))
    assert place.shown == "b, a:22"
    assert place.locator("/x", 0).address == "sftp://a:22,b/x"


# --- the settings -------------------------------------------------------------------------------


def test_settings_name_hosts_and_files(tmp_path):
    (tmp_path / "key").write_text("")
    file = tmp_path / "nebfs.toml"
    file.write_text(
        f'[datastores]\nssh_user = "reader"\nssh_identity_file = "{tmp_path}/key"\n'
        '[datastores.paths]\n"/a" = "sftp://one@[::1]:22/b"\n"/c" = "sftp://host/d"\n'
    )
    settings = load(file, {})
    assert settings.datastores.ssh == {"user": "reader", "identity": f"{tmp_path}/key"}
    assert settings.datastore_paths["/a"] == "sftp://one@[::1]:22/b"


@pytest.mark.parametrize(
    "url",
    ["sftp://u:canary@host/x", "sftp://host", "sftp:///x", "sftp://h/x?canary", "ftp://canary/x"],
)
def test_settings_with_a_url_that_is_wrong_do_not_repeat_it(tmp_path, url):
    file = tmp_path / "nebfs.toml"
    file.write_text(f'[datastores.paths]\n"/a" = "{url}"\n')
    with pytest.raises(UserError) as caught:
        load(file, {})
    assert "'/a'" in str(caught.value)
    assert "canary" not in str(caught.value)
