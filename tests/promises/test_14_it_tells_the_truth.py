"""Promise 14: it tells the truth. Progress, health and sizes match reality; an error names the
cause and the remedy.

What is said is held against what somebody else knows: du(1), nginx's own log of what it sent, the
files themselves, qemu-img, OpenNebula's numbers.
"""

from __future__ import annotations

import ast
import errno
import json
import mmap
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pyfuse3
import pytest
from structlog.testing import capture_logs

import nebfs
from nebfs import errors
from nebfs.daemon.control import ask, follow
from nebfs.fuse import Operations, OperationsSettings
from nebfs.model import Content, Locator, Revision
from nebfs.tree import ContentFile
from nebfs.units import MIB
from tests.mounted.conftest import NEBFS, run, wait_until, xattr
from tests.promises.images import mount_of, web_of

mounted = pytest.mark.mounted
nginx = pytest.mark.nginx

SIZE, SLOT = (24 * MIB) + 1234, 128 << 10


class Opened:
    """A file that is read past the kernel's cache: what is counted is exactly what is asked for."""

    def __init__(self, path):
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)

    def read(self, offset, length):
        room = mmap.mmap(-1, length)
        return room[: os.preadv(self._fd, [room], offset)]


# --- numbers of bytes ---------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path):
    with web_of(tmp_path / "web", 2, SIZE) as made:
        yield made


@pytest.fixture
def far(web, home, tmp_path):
    """A mount of two images of which OpenNebula says that they have one MiB each."""
    words = ("-o", "read_ahead=0,profiles=false,deadline=3s,stall_timeout=1s")
    with mount_of(web, home, tmp_path / "store", 2, *words) as mount:
        yield mount


def app(mount, number):
    return mount.path / f"marketplaces/market/app {number}/app {number}.raw"


def failing(path):
    """Return the errno of opening or reading a file."""
    try:
        path.read_bytes()
    except OSError as exc:
        return exc.errno
    return 0


def asked(mount, where, **query):
    socket = next(mount.run_dir.glob("*.sock"))
    return ask(socket, "GET", where, query=query or None, timeout=10)


def on_disk(directory):
    """What du(1) says of the objects."""
    return int(run("du", "-s", "--block-size=1", directory / "objects").stdout.split()[0])


@mounted
@nginx
def test_what_is_said_of_bytes_is_what_others_say(far, web):
    path = app(far, 0)
    content = (web.root / "0.raw").read_bytes()
    assert path.stat().st_size == SIZE, "a length that OpenNebula says wrongly is not believed"
    assert path.stat().st_blocks == -(-SIZE // 512)
    reads = [(0, 4096), (5 * MIB, 65536), (5 * MIB + 65536, 4096), (20 * MIB, 1 * MIB)]
    with Opened(path) as file:  # what is on its way when a file is closed, is sent in vain
        for offset, length in reads:
            assert file.read(offset, length) == content[offset : offset + length]
        wait_until(lambda: far.status()["fetcher"]["in_flight"] == 0)
        status = far.status()
        cached = int(xattr(path, "user.nebfs.cached"))
        explained = asked(far, "/v1/explain", path=str(path.relative_to(far.path)))
        (one,) = (o for o in asked(far, "/v1/cache")["objects"] if o["open"])
    assert status["reads"]["bytes_read"] == sum(length for _, length in reads)
    assert status["reads"]["reads"] == len(reads)
    assert status["cache"]["misses"] + status["cache"]["hits"] == len(reads)
    assert status["reads"]["errors"] == 0

    # The place's own log: of what it sent, all came into the cache but what was asked to see what
    # the file is.
    sent = web.bytes_sent("/0.raw")
    fetched = status["fetcher"]["fetched_bytes"]
    assert 0 <= sent - fetched <= 4096

    (parts,) = asked(far, "/v1/cache/map", path=str(path.relative_to(far.path)))["files"]
    assert cached == explained["cached"] == one["cached"] == parts["cached"]
    assert 0 <= fetched - cached <= 4096, "the same: what the file is"
    for offset, length in reads:
        assert any(a <= offset and offset + length <= b for a, b in parts["ranges"])
    # What is said to be here is here, and is right: the file in the cache tells.
    (data,) = far.cache.glob(f"objects/*/{parts['key']}.dat")
    whole = data.read_bytes()
    assert len(whole) == SIZE
    for start, stop in parts["ranges"]:
        assert whole[start:stop] == content[start:stop]
    assert data.stat().st_blocks * 512 >= cached
    assert abs(one["disk"] - data.stat().st_blocks * 512) <= SLOT

    # The commands say the same as the socket, and du(1) nearly so: it counts directories, too.
    usage = json.loads(run(*NEBFS, "cache", "usage", "--json", "--run-dir", far.run_dir).stdout)
    assert usage[0]["used"] == asked(far, "/v1/cache")["used"]
    assert abs(usage[0]["used"] - on_disk(far.cache)) <= 64 << 10
    assert asked(far, "/v1/status")["cache"]["used"] == usage[0]["used"]

    # Reading it again fetches nothing.
    with Opened(path) as file:
        for offset, length in reads:
            file.read(offset, length)
    assert far.status()["fetcher"]["fetched_bytes"] == fetched
    assert web.bytes_sent("/0.raw") == sent


@mounted
@nginx
def test_a_read_that_fails_is_no_byte_that_was_read(far, web):
    path = app(far, 1)
    with Opened(path) as file:
        file.read(0, 4096)
        wait_until(lambda: far.status()["fetcher"]["in_flight"] == 0)
        before = far.status()["reads"]
        web.stop()
        with pytest.raises(OSError, match=r"Input/output|timed out"):
            file.read(10 * MIB, 4096)
        now = far.status()["reads"]
        said = xattr(path, "user.nebfs.last-error")
        assert file.read(0, 4096), "what is here is here"
    assert now["bytes_read"] == before["bytes_read"]
    assert now["errors"] == before["errors"] + 1
    assert "127.0.0.1" in said
    assert "onnect" in said or "refused" in said


@mounted
@nginx
def test_progress_is_what_there_is(far, web):
    socket = next(far.run_dir.glob("*.sock"))
    path = str(app(far, 0).relative_to(far.path))
    told = list(
        follow(
            *(socket, "POST", "/v1/warm"),
            body={"paths": [path], "rate": float(24 * MIB)},
            silence=20,
        )
    )
    plan, *progress, image, end = told
    assert (plan["event"], plan["size"], plan["here"]) == ("plan", SIZE, 0)
    assert (image["event"], image["total"]) == ("image", SIZE)
    assert (end["event"], end["images"], end["failed"]) == ("end", 1, 0)
    here = [one["here"] for one in progress]
    assert here == sorted(here)
    assert all(0 <= h <= SIZE for h in here)
    assert any(0 < h < SIZE for h in here), "nothing was told on the way"
    # No more was said to be here than nginx had sent by the end, and all of it is.
    assert web.bytes_sent("/0.raw") >= SIZE
    assert asked(far, "/v1/explain", path=path)["cached"] == SIZE
    assert app(far, 0).read_bytes() == (web.root / "0.raw").read_bytes()


# --- sizes and health of a whole cloud ----------------------------------------------------------


def files_below(root):
    for top, _, names in os.walk(root):
        for name in names:
            path = Path(top, name)
            if not path.is_symlink():
                yield path


@mounted
def test_every_file_is_as_long_as_it_says_or_says_why_not(shared):
    """All of the mount, both faces: what can be opened has its length, and what cannot says why."""
    readable = refused = 0
    for path in files_below(shared.mount.path):
        found = path.lstat()
        if found.st_mode & 0o444:
            with open(path, "rb", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                assert size == found.st_size
                assert (found.st_blocks > 0) == (size > 0)
                assert os.pread(file.fileno(), 1, size) == b"", "there is something behind its end"
                if size:
                    assert len(os.pread(file.fileno(), 4096, size - 1)) == 1, path
            readable += 1
        else:
            assert found.st_size == 0
            why = xattr(path, "user.nebfs.trouble")
            assert len(why.split()) >= 3, why
            if "opening it does that" in why:
                continue  # it takes long, and somebody has to want it
            numbers = {errno.EBUSY, errno.EIO, errno.EACCES, errno.EOPNOTSUPP, errno.EAGAIN}
            assert failing(path) in numbers, path
            refused += 1
    assert readable > 30
    assert refused > 5


SAID = {
    "datastores/default/being copied.raw": (errno.EBUSY, "still writing the image"),
    "datastores/default/failed copy.raw": (errno.EIO, "Error copying image in the datastore: 404"),
    "datastores/add-on/add-on disk.raw": (errno.EOPNOTSUPP, "storpool"),
    "marketplaces/Private HTTP/still uploading/still uploading": (
        errno.EBUSY,
        "still being uploaded",
    ),
    "marketplaces/Private HTTP/failed upload/failed upload": (errno.EIO, "disk full"),
    "marketplaces/Private HTTP/withdrawn/withdrawn": (errno.EACCES, "isabled"),
}
"""What OpenNebula knows about an object's trouble is what is said."""


@mounted
@pytest.mark.parametrize("name", SAID)
def test_an_object_in_trouble_names_the_cause(shared, name):
    number, cause = SAID[name]
    start = shared.mount.path / name
    (path,) = (p for p in start.parent.iterdir() if p.name.startswith(start.name))
    assert cause in xattr(path, "user.nebfs.trouble")
    assert failing(path) == number


@mounted
def test_images_on_this_machine_have_their_own_sizes_and_blocks(shared):
    seen = 0
    for image in shared.cloud.images.values():
        if not image.source.startswith("/") or not os.path.exists(image.source):
            continue
        paths = list((shared.mount.path / "datastores").rglob("*"))
        (path,) = (p for p in paths if _id(p) == str(image.id))
        real = os.stat(image.source)
        assert path.stat().st_size == real.st_size, path
        shown = path.stat().st_blocks * 512
        assert shown == min(max(real.st_blocks * 512, 4096), max(real.st_size, 4096)), path
        seen += 1
    assert seen > 5


def _id(path):
    try:
        return xattr(path, "user.one.ID") if stat.S_ISREG(path.lstat().st_mode) else ""
    except OSError:
        return ""


@mounted
def test_the_raw_face_is_as_long_as_qemu_says(shared):
    seen = 0
    for image in shared.cloud.images.values():
        if image.format != "qcow2" or not image.source:
            continue
        told = json.loads(run("qemu-img", "info", "--output=json", image.source).stdout)
        name = f"{image.name}.raw"
        assert (shared.mount.path / "raw/datastores/default" / name).stat().st_size == told[
            "virtual-size"
        ]
        seen += 1
    assert seen


@mounted
def test_df_is_what_opennebula_says(shared):
    for store in shared.cloud.datastores.values():
        if store.total_mb:
            for face in ("", "raw"):
                found = os.statvfs(shared.mount.path / face / "datastores" / store.name)
                assert found.f_blocks * found.f_frsize == store.total_mb * MIB
                assert found.f_bavail * found.f_frsize == store.free_mb * MIB
    whole = os.statvfs(shared.mount.path)
    total = sum(store.total_mb for store in shared.cloud.datastores.values())
    assert whole.f_blocks * whole.f_frsize == total * MIB


@mounted
def test_health_is_the_same_wherever_it_is_asked_for(make_mount, servers):
    mount = make_mount(servers.frontend_url)
    mount.start()
    place = mount.path / "marketplaces/OpenNebula Public"

    def said():
        status = mount.status()
        code = run(*NEBFS, "status", "--run-dir", mount.run_dir, check=False).returncode
        health = next(p["healthy"] for p in status["places"] if p["name"] == "OpenNebula Public")
        trouble = "user.nebfs.trouble" not in os.listxattr(place)
        numbers = _metrics(mount)
        series = 'nebfs_place_healthy{id="0",kind="marketplace",name="OpenNebula Public"}'
        one = {health, trouble, numbers[series] == 1}
        whole = {status["healthy"], code == 0, numbers["nebfs_healthy"] == 1}
        assert len(one) == len(whole) == 1, "it depends on who is asked"
        return health, status["healthy"]

    assert said() == (True, True)
    servers.appliances.fail_next = 1 << 30
    mount.refresh()
    assert said() == (False, False)
    told = run(*NEBFS, "status", "--run-dir", mount.run_dir, check=False)
    assert told.returncode == 4
    assert "cannot answer now" in told.stdout
    servers.appliances.fail_next = 0
    mount.refresh()
    assert said() == (True, True)


def _metrics(mount):
    import http.client
    import socket as sockets

    class Local(http.client.HTTPConnection):
        def connect(self):
            self.sock = sockets.socket(sockets.AF_UNIX)
            self.sock.connect(str(next(mount.run_dir.glob("*.sock"))))

    line = Local("nebfs")
    line.request("GET", "/metrics")
    text = line.getresponse().read().decode()
    line.close()
    return {
        name: float(value)
        for name, _, value in (
            line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")
        )
    }


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", errors.KINDS.values(), ids=lambda kind: kind.__name__)
async def test_every_kind_of_failure_reaches_whoever_reads_by_its_number(kind):
    """And its words reach the log, whole: cause and facts."""

    class Library:
        async def open(self, content, revision):
            raise kind("the cause in words", where="a place")

    def node(ino):
        content = Content(Locator("http", "http://h/a"), revision=Revision(5))
        return ContentFile(name="a", key="a", content=content, revision=Revision(5))

    tree = SimpleNamespace(
        inodes=SimpleNamespace(node=node),
        outdated=lambda node: None,
        check_allowed=lambda node: None,
    )
    operations = Operations(tree, Library(), None, OperationsSettings())
    with capture_logs() as log, pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.open(1, os.O_RDONLY, None)
    assert caught.value.errno == kind.errno
    if kind.errno not in {errno.ENOENT, errno.ESTALE}:
        (told,) = (one for one in log if one["event"] == "fuse.failed")
        assert told["error"] == "the cause in words (where=a place)"
        assert told["errno"] == errno.errorcode[kind.errno]


def raised():
    """Yield (file:line, kind, text) of each failure that nebfs makes; "…" is what is filled in."""
    kinds = {kind.__name__: kind for kind in [*errors.KINDS.values(), errors.UserError]}
    for path in Path(nebfs.__file__).parent.rglob("*.py"):
        if "demo" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            kind = kinds.get(node.func.id)
            if kind is not None and node.args:
                yield f"{path}:{node.lineno}", kind, _text(node.args[0])


def _text(node):
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return _text(left) + _text(right)
    return "…"


def test_every_failure_says_in_words_what_is_wrong():
    """No bare name, no number, no text of another program alone: there is a sentence around it."""
    seen = 0
    for where, kind, text in raised():
        if not any(map(str.isalpha, text)):
            continue  # made elsewhere, and looked at there
        assert len(text.split()) >= 2, f"{where}: {kind.__name__}({text!r}) says too little"
        assert not text.removesuffix("...").endswith("."), (
            f"{where}: facts follow, or another sentence"
        )
        assert "Traceback" not in text
        seen += 1
    assert seen > 300


@mounted
@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["--cache-size", "many"], "cache_size", "such as"),
        (["-o", "cahce_size=10G"], "cahce", "did you mean cache_size"),
        (["--auth-file", "/nowhere/auth"], "/nowhere/auth", ""),
        (["-o", "connections=1000"], "connections", "64"),
        (["-o", "metrics=256.0.0.1:9469"], "metrics", "such as 127.0.0.1:9469"),
        (["-o", "others=modes"], "allow_other", "add allow_other"),
    ],
)
def test_a_mistake_names_cause_and_remedy(make_mount, servers, words, cause, remedy):
    mount = make_mount(servers.frontend_url, *words)
    done = mount.start(check=False)
    assert done.returncode in {1, 2, 32}
    assert cause in done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
    assert not os.path.ismount(mount.path)
