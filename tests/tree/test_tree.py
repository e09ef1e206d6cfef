"""The tree over snapshots, without a mount and without a network."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace

import pytest
import trio

from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing, MarketplaceListing
from nebfs.content import Format, Probed
from nebfs.errors import Missing, NebfsError, Refused, Unreachable
from nebfs.model import (
    App,
    AppState,
    AppType,
    Checksum,
    Content,
    Datastore,
    Holding,
    Image,
    Locator,
    Marketplace,
    Offer,
    Revision,
    Template,
    Trouble,
)
from nebfs.tree import ContentFile, Directory, Link, Tree, TreeSettings
from nebfs.tree.documents import checksums, is_secret, plain


@dataclass
class Lists:
    current: CloudSnapshot | None = None
    denied: str = ""


@dataclass
class Asked:
    """A prober whose answers are scripted by address."""

    answers: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    memory: dict = field(default_factory=dict)
    latency: float = 0.0

    def known(self, content):
        return self.memory.get(content.identity)

    def forget(self, content):
        self.memory.pop(content.identity, None)

    async def ask(self, content, max_age=float("inf")):
        if content.identity in self.memory:
            return self.memory[content.identity]
        self.log.append(content.locator.address)
        await trio.sleep(self.latency)
        answer = self.answers.get(content.locator.address, Revision(1000, '"e"'))
        if isinstance(answer, NebfsError):
            raise answer
        probed = Probed(answer, Format("qcow2"), 0.0)
        self.memory[content.identity] = probed
        return probed


def offer(number, name, *, url=None, **facts):
    app = App(
        id=number,
        name=name,
        marketplace_id=0,
        marketplace="M",
        type=AppType.IMAGE,
        state=AppState.READY,
        regtime=1000,
        app_template='TYPE="OS"\n',
        **facts,
    )
    content = Content(
        Locator("http", url or f"http://h/{number}"),
        checksums=(Checksum("md5", "0" * 32), Checksum("sha256", "1" * 64)),
    )
    return Offer(app, (content,))


def holding(number, name, size=100):
    image = Image(id=number, name=name, datastore_id=1, format="raw", regtime=5)
    content = Content(
        Locator("file", f"/d/{number}"), revision=Revision(size, "1:2", "1700000000000000000")
    )
    return Holding(image, content)


def snapshot(offers=(), holdings=(), **facts):
    return CloudSnapshot(
        "src",
        1.0,
        marketplaces=(
            MarketplaceListing(Marketplace(id=0, name="M", driver="one"), tuple(offers), 1.0),
        ),
        datastores=(
            DatastoreListing(Datastore(id=1, name="D", driver="fs"), tuple(holdings), 1.0),
        ),
        **facts,
    )


class World:
    def __init__(self, nursery, first, openings=None, backups=None, **settings):
        self.lists = Lists(first)
        self.prober = Asked()
        self.tree = Tree(
            self.lists,
            self.prober,
            nursery,
            TreeSettings(**settings),
            status=lambda: b"{}",
            openings=openings,
            backups=backups,
        )
        self.told = []
        self.tree.on_invalid(self.told.extend)
        self.tree.update(None, first)

    def become(self, fresh):
        old, self.lists.current = self.lists.current, fresh
        self.tree.update(old, fresh)

    async def at(self, path):
        node = self.tree.root
        for part in filter(None, path.split("/")):
            node = await self.tree.lookup(node, part)
            self.tree.inodes.seen(node.ino)
        return node

    async def names(self, path):
        return list(await self.tree.children(await self.at(path)))


async def test_an_app_directory_holds_the_disk_and_its_definition(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")]))
    assert await world.names("marketplaces/M") == ["Alpine"]
    assert await world.names("marketplaces/M/Alpine") == [
        "Alpine.qcow2",
        "CHECKSUMS",
        "app.json",
        "image.tmpl",
    ]
    disk = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    assert isinstance(disk, ContentFile)
    assert disk.size == 1000
    sums = await world.at("marketplaces/M/Alpine/CHECKSUMS")
    assert sums.data == f"{'0' * 32}  Alpine.qcow2\n{'1' * 64}  Alpine.qcow2\n".encode()


async def test_listing_a_marketplace_asks_no_network(nursery):
    world = World(nursery, snapshot([offer(n, f"app {n}") for n in range(100)]))
    assert len(await world.names("marketplaces/M")) == 100
    assert world.prober.log == []


async def test_an_app_s_directory_is_asked_about_once(nursery, autojump_clock):
    world = World(nursery, snapshot([offer(3, "Alpine")]))
    world.prober.latency = 1.0
    directory = await world.at("marketplaces/M/Alpine")
    async with trio.open_nursery() as readers:
        for _ in range(10):
            readers.start_soon(world.tree.children, directory)
    assert world.prober.log == ["http://h/3"]


async def test_who_walks_through_all_apps_is_run_ahead_of(nursery, autojump_clock):
    world = World(nursery, snapshot([offer(n, f"app {n:03}") for n in range(200)]))
    world.prober.latency = 0.1
    for number in range(200):
        await world.names(f"marketplaces/M/app {number:03}")
    assert trio.current_time() < 0.1 * 200 / 8
    assert len(set(world.prober.log)) == 200


async def test_a_look_into_one_app_asks_about_no_other(nursery, autojump_clock):
    world = World(nursery, snapshot([offer(n, f"app {n}") for n in range(50)]))
    await world.names("marketplaces/M/app 7")
    await trio.sleep(10)
    await world.names("marketplaces/M/app 9")
    assert len(world.prober.log) == 2


async def test_a_place_that_does_not_answer_is_seen_and_asked_again(nursery, autojump_clock):
    world = World(nursery, snapshot([offer(3, "Alpine")]), retry_after=10.0)
    world.prober.answers["http://h/3"] = Unreachable("no route")
    (disk,) = [
        n
        for n in (await world.tree.children(await world.at("marketplaces/M/Alpine"))).values()
        if isinstance(n, ContentFile)
    ]
    assert (disk.size, disk.mode & 0o777) == (0, 0)
    assert "no route" in disk.trouble.reason
    assert disk.timeout < 60
    del world.prober.answers["http://h/3"]
    await trio.sleep(11)
    assert (await world.at("marketplaces/M/Alpine/Alpine.qcow2")).size == 1000


class Files:
    """Openings whose answer is scripted."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0
        self.max_age = 600.0

    async def contents(self, offer):
        self.asked += 1
        if isinstance(self.answer, NebfsError):
            raise self.answer
        return self.answer


def deferred(number, name):
    return replace(offer(number, name), contents=(), deferred=True)


def layer(number):
    return Content(Locator("oci", f"https://h/v2/{number}"), label=f"layer-{number:02}")


async def test_files_that_no_list_tells_are_asked_for_when_the_app_is_opened(
    nursery, autojump_clock
):
    files = Files((layer(0),))
    world = World(nursery, snapshot([deferred(1, "image")]), files)
    assert await world.names("marketplaces/M") == ["image"]
    assert files.asked == 0
    assert "image.layer-00.qcow2" in await world.names("marketplaces/M/image")
    await world.names("marketplaces/M/image")
    assert files.asked == 1
    files.answer = (layer(0), layer(1))
    await trio.sleep(601)
    kept = (await world.at("marketplaces/M/image/image.layer-00.qcow2")).ino
    names = await world.names("marketplaces/M/image")
    assert "image.layer-01.qcow2" in names
    assert (await world.at("marketplaces/M/image/image.layer-00.qcow2")).ino == kept


async def test_files_that_cannot_be_asked_for_are_seen_and_asked_for_again(nursery, autojump_clock):
    files = Files(Refused("the registry does not let us"))
    world = World(nursery, snapshot([deferred(1, "image")]), files, retry_after=10)
    (blocked,) = [n for n in await world.names("marketplaces/M/image") if n.startswith("image.r")]
    node = await world.at(f"marketplaces/M/image/{blocked}")
    assert (node.size, node.mode & 0o777, node.trouble.errno) == (0, 0, errno.EACCES)
    assert "does not let us" in node.trouble.reason
    files.answer = (layer(0),)
    await trio.sleep(11)
    assert "image.layer-00.qcow2" in await world.names("marketplaces/M/image")


async def test_a_place_that_hangs_ends_at_the_deadline(nursery, autojump_clock):
    world = World(nursery, snapshot([offer(3, "Alpine")]), listing_deadline=5.0)
    world.prober.latency = 1e6
    assert len(await world.names("marketplaces/M/Alpine")) == 4
    assert trio.current_time() <= 6


async def test_an_object_with_trouble_has_no_bytes_and_says_why(nursery):
    bad = replace(offer(4, "locked"), contents=(), trouble=Trouble(errno.EBUSY, "being uploaded"))
    world = World(nursery, snapshot([bad]))
    disk = await world.at("marketplaces/M/locked/locked.raw")
    assert (disk.size, disk.mode & 0o777, disk.trouble.errno) == (0, 0, errno.EBUSY)


async def test_a_place_never_listed_is_an_error_and_never_empty(nursery):
    first = snapshot()
    broken = replace(first.marketplaces[0], as_of=0.0, trouble="no answer")
    world = World(nursery, replace(first, marketplaces=(broken,)))
    with pytest.raises(NebfsError, match="no answer"):
        await world.names("marketplaces/M")
    assert await world.names("datastores/D") == []


async def test_who_is_denied_sees_nothing_until_let_in_again(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")]))
    world.lists.denied = "password changed"
    with pytest.raises(Refused):
        await world.names("marketplaces")
    world.lists.denied = ""
    assert await world.names("marketplaces") == ["M"]


async def test_nothing_changed_nothing_told(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")], [holding(1, "img")]))
    await world.names("marketplaces/M/Alpine")
    await world.names("datastores/D")
    world.become(replace(snapshot([offer(3, "Alpine")], [holding(1, "img")]), taken=99.0))
    assert world.told == []


async def test_what_left_and_what_came_is_told(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine"), offer(4, "Debian")]))
    market = await world.at("marketplaces/M")
    await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    world.become(snapshot([offer(4, "Debian"), offer(5, "New")]))
    assert await world.names("marketplaces/M") == ["Debian", "New"]
    assert (market.ino, "Alpine") in [(i.parent, i.name) for i in world.told]
    assert "Debian" not in [i.name for i in world.told]
    with pytest.raises(Missing):
        await world.at("marketplaces/M/Alpine")


async def test_an_app_that_changes_in_place_is_asked_about_anew(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine", version="1")]))
    app = await world.at("marketplaces/M/Alpine")
    before = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    world.prober.memory.clear()
    world.prober.answers["http://h/3"] = Revision(2000, '"f"')
    world.become(snapshot([offer(3, "Alpine", version="2")]))
    assert (app.ino, "Alpine.qcow2") in [(i.parent, i.name) for i in world.told]
    after = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    assert (await world.at("marketplaces/M/Alpine")).ino == app.ino
    assert after.ino != before.ino
    assert after.size == 2000
    assert world.tree.inodes.node(before.ino) is before  # it may be open


async def test_a_new_version_keeps_its_name_while_its_place_is_away(nursery):
    """What is claimed of it is "raw", what was found is qcow2: the name must not go to and fro."""
    world = World(nursery, snapshot([offer(3, "Alpine", version="1", format="raw")]))
    market, raw = "marketplaces/M/Alpine", "raw/marketplaces/M/Alpine"
    assert "Alpine.qcow2" in await world.names(market)
    for version in ("2", "3"):
        world.prober.memory.clear()
        world.prober.answers["http://h/3"] = Unreachable("no route")
        world.become(snapshot([offer(3, "Alpine", version=version, format="raw")]))
        assert "Alpine.qcow2" in await world.names(market)
        assert "Alpine.raw" not in await world.names(market)
        assert "Alpine.raw" in await world.names(raw)
        assert (await world.at(f"{market}/Alpine.qcow2")).trouble is not None


async def test_an_image_that_changes_gets_another_inode(nursery):
    world = World(nursery, snapshot(holdings=[holding(1, "img", 100)]))
    before = await world.at("datastores/D/img.raw")
    world.become(snapshot(holdings=[holding(1, "img", 200)]))
    after = await world.at("datastores/D/img.raw")
    assert before.ino != after.ino
    assert "img.raw" in [i.name for i in world.told]


async def test_an_outdated_file_is_replaced_at_the_next_look(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")]))
    before = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    world.prober.answers["http://h/3"] = Revision(7, '"new"')
    world.tree.outdated(before)
    after = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    assert (after.size, after.ino != before.ino) == (7, True)


async def test_inodes_the_kernel_forgot_are_freed(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")]))
    disk = await world.at("marketplaces/M/Alpine/Alpine.qcow2")
    world.become(snapshot([]))
    before = len(world.tree.inodes)
    world.tree.inodes.forget(disk.ino, 1)
    assert len(world.tree.inodes) == before - 1
    with pytest.raises(NebfsError):
        world.tree.inodes.node(disk.ino)


async def test_template_apps_link_to_their_disks_dangling_ones_too(nursery):
    template = Template(
        (
            ("DISK", Template((("APP", "Alpine"), ("NAME", "a")))),
            ("DISK", Template((("APP", "gone/app"), ("NAME", "b")))),
            ("DISK", "not a vector"),
        )
    )
    app = App(
        id=9,
        name="VM",
        marketplace_id=0,
        type=AppType.VMTEMPLATE,
        template=template,
        app_template="CPU=1",
    )
    world = World(nursery, snapshot([offer(3, "Alpine"), Offer(app)]))
    entries = await world.tree.children(await world.at("marketplaces/M/VM"))
    links = {n: e.target for n, e in entries.items() if isinstance(e, Link)}
    assert links == {"Alpine": "../Alpine", "gone%2Fapp": "../gone%2Fapp"}
    assert entries["vm.tmpl"].data == b"CPU=1\n"


async def test_by_id_finds_everything_whatever_it_is_called(nursery):
    world = World(nursery, snapshot([offer(3, "..")], [holding(1, "img")]))
    link = await world.at(".nebfs/by-id/apps/3")
    assert link.target == "../../../marketplaces/M/%2E%2E"
    assert (await world.at(".nebfs/by-id/images/1")).target == "../../../datastores/D/img.raw"
    assert ".nebfs" not in await world.names("")


async def test_a_renamed_place_keeps_its_inode(nursery):
    world = World(nursery, snapshot([offer(3, "Alpine")]))
    before = await world.at("marketplaces/M")
    fresh = snapshot([offer(3, "Alpine")])
    listing = replace(fresh.marketplaces[0], marketplace=Marketplace(id=0, name="N", driver="one"))
    world.become(replace(fresh, marketplaces=(listing,)))
    assert await world.names("marketplaces") == ["N"]
    assert (await world.at("marketplaces/N")).ino == before.ino
    assert isinstance(await world.at("marketplaces/N/Alpine"), Directory)


def test_checksums_escape_names_as_coreutils_do():
    content = offer(1, "x").contents[0]
    text = checksums({"a\\b": content}).decode()
    assert text.splitlines()[0] == "\\" + "0" * 32 + "  a\\\\b"


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("SECRET_ACCESS_KEY", True),
        ("ACCESS_KEY_ID", True),
        ("RESTIC_PASSWORD", True),
        ("NETAPP_PASS", True),
        ("PUREFA_API_TOKEN", True),
        ("LUKS_SECRET", True),
        ("SSH_PUBLIC_KEY", False),
        ("BYPASS", True),
        ("DESCRIPTION", False),
        ("BUCKET", False),
    ],
)
def test_what_is_a_secret(key, secret):
    assert is_secret(key) is secret


def test_templates_keep_repeated_keys_and_lose_secrets_and_credentials():
    template = Template(
        (
            ("A", "1"),
            ("A", "2"),
            ("PASSWORD", "canary"),
            ("V", Template((("TOKEN", "canary"), ("U", "http://u:canary@h/p?q=canary")))),
        )
    )
    assert plain(template) == {"A": ["1", "2"], "V": {"U": "http://h/p"}}
