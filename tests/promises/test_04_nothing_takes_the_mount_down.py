"""Promise 4: nothing that one image, place or bug does takes the mount down.

Every handler there is, found by looking for it, is driven with exceptions of every type there is,
raised by whatever it asks. Then the same in a real mount, with some functions of each room.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import socket
import struct
import threading
from dataclasses import replace
from types import SimpleNamespace

import pyfuse3
import pytest
import structlog
import trio
from structlog.testing import capture_logs

from nebfs.catalog import Catalog, CloudSnapshot
from nebfs.daemon.lasting import lasting
from nebfs.ending import pass_on
from nebfs.errors import NebfsError
from nebfs.fuse import Operations, OperationsSettings, direct
from nebfs.fuse.direct import forgotten
from nebfs.fuse.guard import guarded, silenced
from nebfs.fuse.handles import Disk, Listing, Shared
from nebfs.fuse.slow import Slow, facts_of
from nebfs.model import Content, Datastore, Locator
from nebfs.tree import links
from tests.fuse.kernel import BATCH_FORGET, READ, STATFS, Kernel, read_in, served
from tests.promises.exploding import Armoury, Bomb, SlowBomb, Unspeakable, stale, whatever


@pytest.fixture(autouse=True)
def log():
    with capture_logs() as found:
        yield found
    structlog.reset_defaults()


# --- every handler ------------------------------------------------------------------------------

HANDLERS = sorted(
    name
    for name in vars(pyfuse3.Operations)
    if not name.startswith("_") and inspect.iscoroutinefunction(getattr(Operations, name))
)

ASK_NOBODY = {"flush", "fsync", "releasedir"}
"""Of ours, the handlers that nothing can go wrong in."""

GIVEN = {
    "ctx": SimpleNamespace(uid=1),
    "name": b"user.nebfs.source",
    "flags": os.O_RDONLY,
    "mode": os.R_OK,
    "inode_list": [(1, 1)],
}


def arguments(handler):
    names = list(inspect.signature(handler).parameters)[1:]
    return [GIVEN.get(name, 1) for name in names]


def operations(bomb, handle):
    made = Operations(bomb, bomb, bomb, OperationsSettings())
    made.handles.files[1], made.handles.lists[1] = handle, bomb
    return made


def handles(bomb):
    """What a file handle can stand for, with something that explodes in it."""
    node = SimpleNamespace(name="image", ino=1, content=None, unready=False)
    return [bomb, Disk(node, bomb), Shared(node, bomb)]


def test_no_handler_is_left_out():
    assert {"lookup", "read", "readdir", "statfs", "forget", "release"} <= set(HANDLERS)
    own = [name for name in vars(Operations) if hasattr(pyfuse3.Operations, name)]
    assert {n for n in own if inspect.iscoroutinefunction(vars(Operations)[n])} <= set(HANDLERS)


async def held(work):
    """Await `work`. What leaves it fails the test: a Cancelled by itself would not."""
    try:
        return await work
    except BaseException as leaked:
        raise AssertionError(f"{type(leaked).__name__} was let out") from leaked


async def injected(name, exc, make):
    """Drive one handler with each kind of handle; return how often it met the exception."""
    fired = 0
    for number in range(3):
        bomb = make(exc)
        driven = operations(bomb, handles(bomb)[number])
        handler = getattr(driven, name)
        try:
            with trio.fail_after(5):
                await handler(*arguments(getattr(Operations, name)))
        except pyfuse3.FUSEError as told:
            assert told.errno in errno.errorcode, f"{name}: the kernel would refuse {told.errno}"
        except BaseException as leaked:
            raise AssertionError(f"{type(exc).__name__} leaves {name}") from leaked
        fired += bomb.fired
    return fired


@pytest.mark.parametrize("make", [Bomb, SlowBomb])
@pytest.mark.parametrize("name", HANDLERS)
async def test_whatever_is_raised_below_a_handler_is_an_errno(name, make):
    fired = 0
    for exc in [*whatever(), await stale()]:
        fired += await injected(name, exc, make)
    ours = name in vars(Operations) and getattr(Operations, name) is not Operations._refuse
    if make is Bomb and ours and name not in ASK_NOBODY:
        assert fired, f"{name} met nothing that explodes: this test does not reach its layers"


async def test_a_read_that_the_window_takes_by_itself_is_an_errno_too():
    for exc in [*whatever(), await stale()]:
        for make in (Bomb, SlowBomb):
            bomb = make(exc)
            for handle in handles(bomb):
                driven = operations(bomb, handle)
                assert driven.read_warm(1, 0, 4096) is None
                number, data = await held(driven.read_cold(1, 0, 4096))
                assert number in errno.errorcode
                assert data == b""


@pytest.mark.parametrize("guard", [guarded, silenced])
async def test_what_ends_a_task_passes(guard):
    @guard
    async def handler():
        await trio.sleep_forever()

    with trio.move_on_after(0) as scope:
        await handler()
    assert scope.cancelled_caught
    coroutine = handler()
    coroutine.send(None)
    coroutine.close()  # GeneratorExit: nothing may be raised in its place


async def test_of_several_things_at_the_end_only_the_end_passes():
    """A nursery that is cancelled while a bug shows itself raises both together."""

    async def bug():
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("while it was cancelled")

    @guarded
    async def handler():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bug)
            nursery.start_soon(trio.sleep_forever)

    with trio.CancelScope() as scope:
        scope.cancel()
        with contextlib.suppress(pyfuse3.FUSEError):
            await handler()


async def test_one_entry_that_cannot_be_shown_costs_the_list_nothing(monkeypatch):
    shown = []

    def reply(token, name, entry, following):
        shown.append((name, entry.st_mode, entry.st_size))
        return True

    facts = {"mode": 0o100444, "size": 5, "allocated": 5, "mtime": 1.0, "timeout": 1.0}
    good = SimpleNamespace(ino=7, passing=False, kind=0o100000, **facts)
    bad = SimpleNamespace(**{**vars(good), "size": 1 << 70})  # no file is so long
    inodes = SimpleNamespace(seen=lambda ino: None)
    driven = Operations(SimpleNamespace(inodes=inodes), None, None, OperationsSettings())
    listed = [("a", good), ("b", bad), ("c", good)]
    driven.handles.lists[1] = Listing(listed, None)
    monkeypatch.setattr(pyfuse3, "readdir_reply", reply)
    await driven.readdir(1, 0, None)
    assert shown == [(b"a", 0o100444, 5), (b"b", 0o100000, 0), (b"c", 0o100444, 5)]


async def test_fewer_bytes_than_were_asked_for_are_an_error_and_not_zeros():
    class Short:
        size, revision = 100, None

        def warm(self, offset, length):
            return None

        async def pread(self, offset, length):
            return bytes(length - 1)

    node = SimpleNamespace(name="image", ino=1, content=None)
    driven = operations(None, Disk(node, Short()))
    assert await driven.read_cold(1, 0, 10) == (errno.EIO, b"")
    assert driven.counters.bytes_read == 0


# --- between the kernel and the handlers --------------------------------------------------------


class Reads:
    """Who has the bytes: well-behaved, but for what a test makes of it."""

    unit = 4096

    def read_warm(self, fh, offset, size):
        return b"warm" if fh == 1 else None

    async def read_cold(self, fh, offset, size):
        return 0, b"cold"

    async def capacity(self, inode, uid):
        return 10, 5, 3, 255


@pytest.fixture
def kernel():
    made = Kernel()
    yield made
    made.close()


def raising(exc):
    def explode(*_):
        raise exc

    return explode


def raising_later(exc):
    async def explode(*_):
        await trio.lowlevel.checkpoint()
        raise exc

    return explode


def answering(what):
    async def answer(*_):
        await trio.lowlevel.checkpoint()
        return what

    return answer


async def asked(kernel):
    """Ask for a warm read, a cold one and statfs; return the errnos, by what was asked."""
    kernel.send(READ, 11, read_in(1))
    kernel.send(READ, 12, read_in(2))
    kernel.send(STATFS, 13)
    found = {}
    for _ in range(3):
        number, unique, _ = await kernel.answer()
        found[unique] = number
    return [found[unique] for unique in (11, 12, 13)]


async def test_whatever_is_raised_beside_the_handlers_is_an_errno(kernel):
    reads = Reads()
    asks = [n for n in vars(direct.Reads) if callable(vars(direct.Reads)[n]) and n[0] != "_"]
    assert {"read_warm", "read_cold", "capacity"} <= set(asks)
    async with served(kernel, reads):
        assert await asked(kernel) == [0, 0, 0]
        for exc in [*whatever(), await stale()]:
            for name in asks:
                make = raising_later if name == "read_cold" else raising
                setattr(reads, name, make(exc))
            # What is not answered at once goes the other way: all three have met it.
            assert set(await asked(kernel)) <= set(errno.errorcode)
        for name in asks:
            delattr(reads, name)
        assert await asked(kernel) == [0, 0, 0]


@pytest.mark.parametrize(
    "answer", [(0, None), (0, "text"), (0, 5), ("x", b""), (100_000, b""), (None,), (-3, b"")]
)
async def test_an_answer_that_is_none_is_an_errno(kernel, answer):
    reads = Reads()
    reads.read_cold = answering(answer)
    reads.read_warm = lambda *_: "no bytes" if answer[0] == 0 else None
    reads.capacity = answering((-1, 1 << 80, 0, 0))
    async with served(kernel, reads):
        assert await asked(kernel) == [errno.EIO] * 3


async def test_the_kernel_forgets_tens_of_thousands_of_files_at_once(kernel):
    """Its message is longer than what a socket's buffer takes: that ended the mount."""
    count = 65_000
    body = b"".join(struct.pack("<QQ", n, 1) for n in range(count))
    heard = b""
    async with served(kernel, Reads()):
        kernel.send(BATCH_FORGET, 7, struct.pack("<I4x", count) + body)
        libfuse = kernel.device.fileno()  # whose number is that of our socket's other end by now
        while len(heard) < len(body):
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(libfuse)
            message = os.read(libfuse, 1 << 20)
            length, opcode, unique, _ = struct.unpack_from("<IIQQ", message)
            (inodes,) = struct.unpack_from("<I", message, 40)
            assert (length, opcode, unique) == (len(message), BATCH_FORGET, 7)
            assert inodes * 16 == len(message) - 48
            heard += message[48:]
        trio.lowlevel.notify_closing(libfuse)
    assert heard == body
    assert list(forgotten(memoryview(b"x" * 100))) == [b"x" * 100]


# --- what was found -----------------------------------------------------------------------------


async def test_a_failure_at_a_broken_address_is_told_and_not_raised(log):
    content = Content(Locator("http", "http://[no-address/x"))
    assert facts_of(content, "image")["place"] == "http"

    @guarded
    async def handler():
        raise NebfsError("no answer", url="http://[no-address/x")

    with pytest.raises(pyfuse3.FUSEError):
        await handler()
    assert [one["event"] for one in log] == ["fuse.failed"]


async def test_what_cannot_be_told_of_a_slow_read_does_not_fail_it(autojump_clock):
    async def answered():
        await trio.sleep(7)
        return "bytes"

    slow = Slow(5.0)
    assert await slow.watched("read", answered(), raising(KeyError("x"))) == "bytes"


@pytest.mark.parametrize("free", [-5, 0, 1 << 53])
def test_a_capacity_that_is_damaged_can_be_shown(free):
    store = Datastore(1, "default", total_mb=-1, free_mb=free)
    snapshot = CloudSnapshot("x", 0.0, datastores=(SimpleNamespace(datastore=store),))
    total, left = links.capacity(snapshot, 1)
    assert 0 <= left <= total


# --- what runs in the background ----------------------------------------------------------------


async def test_a_task_of_the_mount_is_begun_anew_after_whatever_it_raises(autojump_clock, log):
    waiting = [*whatever(), await stale()]
    count = len(waiting)

    async def work():
        if waiting:
            raise waiting.pop()

    began = trio.current_time()
    await held(lasting(work))
    assert len([one for one in log if one["event"] == "task.bug"]) == count
    assert trio.current_time() - began >= count  # it does not fill the log


async def test_whatever_a_survey_raises_the_last_lists_stay():
    class Shelf:
        async def load(self, name):
            return None

        async def save(self, name, data):
            raise Unspeakable

    raised: list[BaseException] = []

    async def survey(previous, only=None, *, patience):
        if raised:
            raise raised.pop()
        return CloudSnapshot("x", 1.0)

    catalog = Catalog(survey, Shelf(), interval=60, deadline=5)
    await catalog.start()
    catalog.subscribe(raising(BaseExceptionGroup("x", [SystemExit()])))
    for exc in [*whatever(), await stale()]:
        raised.append(exc)
        assert await held(catalog.refresh()) is not None
        assert catalog.current is not None
        assert catalog.current.trouble
    assert await catalog.refresh() is None


def passes(exc):
    try:
        pass_on(exc)
    except BaseException as passed:
        return passed
    return None


async def test_nothing_is_taken_for_the_end_while_nobody_has_ended_it():
    assert passes(await stale()) is None
    assert passes(BaseExceptionGroup("x", [await stale(), ValueError()])) is None
    assert passes(KeyboardInterrupt()) is None
    with trio.CancelScope() as scope:
        scope.cancel()
        mine = await kept()
        assert passes(mine) is mine
        assert passes(SystemExit()) is None
        both = passes(BaseExceptionGroup("x", [mine, ValueError()]))
        assert both.exceptions == (mine,)


async def kept():
    try:
        await trio.lowlevel.checkpoint()
    except trio.Cancelled as exc:
        return exc


# --- a real mount -------------------------------------------------------------------------------

ALPINE, DEBIAN = "Alpine Linux 3.20", "Debian 12"
DRIVER, LAYER = "nebfs.marketplaces.one:OneMarketplace", "nebfs.content.layers"

EXPLODING = {
    "nebfs.tree.insides:Insides.of": "KeyboardInterrupt",  # first: what is known is not asked again
    "nebfs.blocks.blockfile:BlockFile.put": "KeyError",
    "nebfs.blocks.store:Store.reserve": "MemoryError",
    "nebfs.catalog.catalog:pack": "RecursionError",
    "nebfs.content.library:Library.open": "SystemExit",
    "nebfs.content.prober:Prober.ask": "BaseExceptionGroup",
    f"{LAYER}.cached:Cached.pread": "KeyboardInterrupt",
    f"{LAYER}.cached:Cached.aclose": "ExceptionGroup",
    f"{LAYER}.fetched:Fetched.fill": "BaseExceptionGroup",
    f"{LAYER}.here:Here.open": "MemoryError",
    f"{LAYER}.retried:Retried.fill": "SystemExit",
    f"{LAYER}.verified:Verified._hash": "BaseExceptionGroup",
    "nebfs.daemon.history:History.sample": "SystemExit",
    "nebfs.daemon.status:Status.facts": "RecursionError",
    "nebfs.datastores.filesystem:FilesystemDatastore.holdings": "BaseExceptionGroup",
    "nebfs.fuse.operations:Operations.capacity": "SystemExit",
    "nebfs.fuse.attributes:Attributes.extended": "AssertionError",
    f"{DRIVER}.offers": "SystemExit",
    "nebfs.tree.hostdir:HostDirectories.refresh": "ValueError",
    "nebfs.tree.images:images": "StopIteration",
    "nebfs.tree.inodes:Inodes.forget": "KeyError",
    "nebfs.tree.tree:Tree.lookup": "BaseExceptionGroup",
    "nebfs.tree.tree:Tree.update": "SystemExit",
}
"""Functions of each room, and what they raise."""

RARE = {
    "nebfs.daemon.history:History.sample",  # each five seconds
    "nebfs.tree.hostdir:HostDirectories.refresh",  # a directory that is shared
    "nebfs.tree.inodes:Inodes.forget",  # when the kernel likes
    "nebfs.tree.tree:Tree.update",  # when something has changed
    "nebfs.catalog.catalog:pack",  # the same
    f"{LAYER}.verified:Verified._hash",  # when enough is here
    "nebfs.tree.images:images",  # the same
}


@pytest.fixture
def armoury(tmp_path, monkeypatch):
    made = Armoury(tmp_path, sorted(EXPLODING))
    monkeypatch.setenv("PYTHONPATH", made.path)
    return made


def everything(mount, number=0):
    """Do whatever can be done to a mount. What fails does so with an errno."""
    for top, names, files in os.walk(mount.path / "marketplaces/OpenNebula Public"):
        for name in [*names, *files]:
            with contextlib.suppress(OSError):
                os.lstat(os.path.join(top, name))
    for path in (mount.app(DEBIAN) / f"{DEBIAN}.raw", mount.image("tiny raw.raw")):
        with contextlib.suppress(OSError):
            os.listxattr(path)
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            with contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in range(number << 21, (number << 21) + (1 << 20), 1 << 18):
                with contextlib.suppress(OSError):
                    os.pread(file.fileno(), 70_000, offset)
    for path in (mount.path, mount.path / "datastores/default"):
        with contextlib.suppress(OSError):
            os.statvfs(path)
        with contextlib.suppress(OSError):
            os.listdir(path)
    with contextlib.suppress(OSError):
        (mount.path / ".nebfs/status.json").read_bytes()
    with contextlib.suppress(NebfsError):
        from nebfs.daemon.control import ask

        socket_path = next(mount.run_dir.glob("*.sock"))
        ask(socket_path, "POST", "/v1/refresh", timeout=30)
        ask(socket_path, "GET", "/v1/status", timeout=30)


@pytest.mark.mounted
def test_a_real_mount_outlives_whatever_any_room_raises(armoury, make_mount, servers, cloud):
    mount = make_mount(
        *(servers.frontend_url, "-o"),
        "deadline=2s,listing_deadline=2s,read_ahead=0,profiles=false",
    )
    mount.start()
    pid = mount.pid
    for number, (name, kind) in enumerate(EXPLODING.items()):
        armoury.arm({name: kind})
        cloud.rename_image(0, f"tiny raw {number}" if number % 2 else "tiny raw")
        everything(mount, number)
        assert os.path.exists(f"/proc/{pid}"), f"{kind} in {name} ended the mount:\n{mount.log}"
    armoury.arm({})
    cloud.rename_image(0, "tiny raw")
    mount.refresh()
    assert set(EXPLODING) - RARE <= armoury.fired()
    url = next(u for u in cloud.published if u.endswith("alpine.qcow2"))
    whole = (mount.app(ALPINE) / f"{ALPINE}.qcow2").read_bytes()
    assert whole == cloud.published[url].read_bytes()
    assert mount.pid == pid
    assert mount.status()["healthy"]


@pytest.mark.mounted
def test_a_log_whose_disk_is_full_takes_nothing_down(make_mount, servers, cloud):
    """Whatever logged then met ENOSPC: the first failure of a place ended the mount."""
    mount = make_mount(
        servers.frontend_url, "--log-file", "/dev/full", "-o", "deadline=2s,log_level=debug"
    )
    mount.start()
    pid = mount.pid
    url = next(u for u in cloud.published if u.endswith("debian-12.raw"))
    path = mount.app(DEBIAN) / f"{DEBIAN}.raw"
    path.stat()
    servers.front_end.fail_next = 3
    servers.files.switches(url).fail_next = 1 << 30
    everything(mount)
    with pytest.raises(OSError, match=r"Input/output|timed out"):
        path.read_bytes()
    servers.files.switches(url).fail_next = servers.front_end.fail_next = 0
    assert path.read_bytes() == cloud.published[url].read_bytes()
    assert mount.pid == pid
    assert os.path.exists(f"/proc/{pid}")


@pytest.fixture
def silent():
    """An address where somebody listens, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@pytest.mark.mounted
def test_a_place_that_hangs_fails_in_its_own_directory_while_its_neighbours_are_read(
    make_mount, servers, cloud, silent
):
    hanging = next(u for u in cloud.published if u.startswith("/market/"))
    mount = make_mount(
        servers.frontend_url, "-o", "deadline=5s,listing_deadline=4s,stall_timeout=9s"
    )
    mount.start()
    # A new one, which has never been listed: it hangs at the first try.
    record = replace(cloud.marketplaces[0], id=200, name="Hanging")
    record.template = type(record.template)(
        tuple((k, silent if k == "ENDPOINT" else v) for k, v in record.template.items)
    )
    cloud.marketplaces[200] = record
    # An image whose bytes hang, too; and the neighbours of both meanwhile.
    apps = mount.path / "marketplaces/Private HTTP"
    paths = {app.source.removeprefix("{files}"): app.name for app in cloud.apps.values()}
    stuck = next((apps / paths[hanging]).glob("*.*w*"))
    stuck.stat()
    servers.files.switches(hanging).stall_after = 0
    ended = []

    def read():
        try:
            with open(stuck, "rb", buffering=0) as file:
                file.read(4096)
        except OSError as exc:
            ended.append(exc.errno)

    busy = [threading.Thread(target=read), threading.Thread(target=mount.refresh)]
    for thread in busy:
        thread.start()
    with open(mount.image("tiny raw.raw"), "rb", buffering=0) as file:
        assert file.read(4096)
    assert os.listdir(mount.path / "datastores/default")
    assert all(thread.is_alive() for thread in busy), "nothing hangs: this test shows nothing"
    other = next(u for u in paths if u.startswith("/market/") and u != hanging)
    neighbour = next(p for p in (apps / paths[other]).iterdir() if p.suffix in {".raw", ".qcow2"})
    assert neighbour.read_bytes() == cloud.published[other].read_bytes()
    for thread in busy:
        thread.join(60)
    assert ended[0] in {errno.EIO, errno.ETIMEDOUT}
    servers.files.release()

    with pytest.raises(OSError, match="Input/output error"):
        os.listdir(mount.path / "marketplaces/Hanging")
    places = {place["name"]: place for place in mount.status()["places"]}
    assert "no answer within 4" in places["Hanging"]["trouble"]
    assert places["Private HTTP"]["healthy"]
    assert "Hanging" in os.listdir(mount.path / "marketplaces")
    assert os.listdir(apps)
