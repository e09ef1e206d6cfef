"""Promise 2: one version per open file.

A handle keeps the version that it was opened with, by length, ETag, Last-Modified or published
checksum. When another one is there, what was not read before is ESTALE, for good; whoever opens
the file afresh has the new version, all of it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from nebfs.content.stack import read
from nebfs.errors import NebfsError
from nebfs.model import Checksum, Content, Locator
from tests.content.decoding import pack
from tests.faults.house import House, whole
from tests.faults.reading import random_reads
from tests.faults.valve import Valves
from tests.faults.ways import bridge, object_store
from tests.faults.web import Origin, ScriptedServer, Site

SIZE = 3 << 20
"""More than is brought around what is read first."""

OLD, NEW, LONGER, SHORTER = (
    random.Random(seed).randbytes(size)
    for seed, size in ((1, SIZE), (2, SIZE), (3, SIZE + 5000), (4, SIZE - 5000))
)


@functools.cache
def qcow2(data: bytes) -> bytes:
    done = subprocess.run(
        'd=$(mktemp -d); trap "rm -r $d" EXIT; cat > $d/raw;'
        "qemu-img convert -f raw -O qcow2 $d/raw $d/qcow2 && cat $d/qcow2",
        shell=True,
        input=data,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


@functools.cache
def gzip(data: bytes) -> bytes:
    return pack(data, "gzip", "-1", "-c")


@functools.cache
def xz(data: bytes) -> bytes:
    return pack(data, "xz", "-c", "-0", "-T2", "--block-size=300000")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with House(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="module")
def site():
    server = ScriptedServer(Site())
    yield server
    server.close()


async def changes(
    house: House,
    content: Content,
    wanted: tuple[bytes, bytes],
    change: Callable[[], object],
    undo: Callable[[], object] | None = None,
    fresh: Content | None = None,
) -> None:
    """Open, read a little, have a change, and look at what the handle and another one give."""
    old, new = wanted
    reader, other = await house.open(content), await house.open(content)
    assert bytes(await read(reader, 0, 4096)) == old[:4096]
    change()
    with trio.fail_after(60):
        await stale(reader, old)
        if undo is not None:
            undo()
            with pytest.raises(NebfsError) as caught:
                await read(reader, len(old) - 4096, 4096)
            assert caught.value.errno == errno.ESTALE, "a handle that was stale is not any more"
            change()
        await random_reads(other, old, {errno.ESTALE})
        # Whoever opens it asks whether what is known is still so.
        fresh = fresh or content
        await house.prober.ask(replace(fresh, view=""), max_age=0)
        opened = await house.open(fresh)
        assert await whole(opened) == new
        await random_reads(reader, old, {errno.ESTALE}, seed=2)
        for one in (reader, other, opened):
            await one.aclose()


async def stale(reader, old):
    """Whatever a handle gives is of its version, and its end is not had any more."""
    await random_reads(reader, old, {errno.ESTALE})
    with pytest.raises(NebfsError) as caught:
        await read(reader, len(old) - 4096, 4096)
    assert caught.value.errno == errno.ESTALE


# --- on a web server ----------------------------------------------------------------------------

BARE = {"etag": "", "modified": ""}

CHANGES = {
    "longer": (Origin(OLD, **BARE), Origin(LONGER, **BARE)),
    "shorter": (Origin(OLD, **BARE), Origin(SHORTER, **BARE)),
    "ETag": (Origin(OLD), Origin(NEW, etag='"v2"')),
    "Last-Modified": (
        Origin(OLD, etag=""),
        Origin(NEW, etag="", modified="Mon, 02 Nov 2026 10:00:00 GMT"),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_web_server_says_pins_the_handle(house, site, what):
    before, after = CHANGES[what]
    path = f"/{what}"
    site.script.paths[path] = before
    content = Content(Locator("http", site.url + path))

    def change():
        site.script.paths[path] = after

    def undo():
        site.script.paths[path] = before

    house.run(changes, house, content, (before.data, after.data), change, undo)


@pytest.mark.parametrize("packed", [qcow2, xz])
def test_a_raw_face_is_of_one_version(house, site, packed):
    path = f"/{packed.__name__}"
    before, after = Origin(packed(OLD)), Origin(packed(NEW), etag='"v2"')
    site.script.paths[path] = before
    content = Content(Locator("http", site.url + path), format="raw", view="raw")

    def change():
        site.script.paths[path] = after

    house.run(changes, house, content, (OLD, NEW), change)


def test_what_was_decompressed_to_its_end_stays_for_who_has_it_open(house, site):
    """It is all here. Whoever opens it afresh has the new version."""
    before, after = Origin(gzip(OLD)), Origin(gzip(NEW), etag='"v2"')
    site.script.paths["/gzip"] = before
    content = Content(Locator("http", f"{site.url}/gzip"), format="raw", view="raw")

    async def all_of_it():
        with trio.fail_after(60):
            reader = await house.open(content)
            site.script.paths["/gzip"] = after
            await house.prober.ask(replace(content, view=""), max_age=0)
            opened = await house.open(content)
            assert await whole(opened) == NEW
            assert await whole(reader) == OLD
            await reader.aclose()
            await opened.aclose()

    house.run(all_of_it)


def test_a_gzip_that_changes_while_it_is_decompressed_is_no_mixture(house, site):
    """Nothing is known of its length, and nothing was read; the change comes in the middle."""
    before, after = Origin(gzip(OLD)), Origin(gzip(NEW), etag='"v2"')
    asked = []

    def script(request):
        asked.append(request.range)
        return (before if len(asked) < 4 else after)(request)

    site.script.paths["/half"] = script
    content = Content(Locator("http", f"{site.url}/half"), format="raw", view="raw")

    async def all_of_it():
        with trio.fail_after(60):
            with pytest.raises(NebfsError) as caught:
                await house.open(content)
            assert caught.value.errno == errno.ESTALE
            opened = await house.open(content)
            assert await whole(opened) == NEW
            await opened.aclose()

    house.run(all_of_it)


def test_a_published_checksum_pins_what_a_server_does_not(house, site):
    """Another version of the same length, of which the server says nothing: no mixture of both is
    ever given to the end. Another checksum is another object.
    """
    before, after = Origin(OLD, **BARE), Origin(NEW, **BARE)
    site.script.paths["/sum"] = before
    old, new = (
        Content(
            Locator("http", f"{site.url}/sum"),
            checksums=(Checksum("sha256", hashlib.sha256(data).hexdigest()),),
        )
        for data in (OLD, NEW)
    )

    async def all_of_it():
        with trio.fail_after(60):
            reader = await house.open(old)
            assert bytes(await read(reader, 0, 4096)) == OLD[:4096]
            site.script.paths["/sum"] = after
            for _ in range(2):
                with pytest.raises(NebfsError) as caught:
                    await whole(reader)
                assert caught.value.errno == errno.EIO
            opened = await house.open(new)
            assert await whole(opened) == NEW
            await reader.aclose()
            await opened.aclose()

    house.run(all_of_it)


# --- elsewhere ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [object_store, bridge])
@pytest.mark.parametrize("packed", [bytes, qcow2], ids=["raw", "qcow2"])
def test_an_object_and_a_file_of_a_host(house, tmp_path, kind, packed):
    valves = Valves()
    with kind(tmp_path, valves) as way:
        view = "" if packed is bytes else "raw"
        content = replace(way.content("image", packed(OLD)), format="raw", view=view)
        fresh = packed(NEW)
        house.run(changes, house, content, (OLD, NEW), lambda: way.replace("image", fresh))
    valves.close()


@pytest.mark.parametrize("how", ["replaced", "written to"])
@pytest.mark.parametrize("packed", [bytes, qcow2, xz], ids=["raw", "qcow2", "xz"])
def test_a_file_of_this_machine(house, tmp_path, packed, how):
    path = tmp_path / "image"
    path.write_bytes(packed(OLD))
    fresh = packed(NEW)
    view = "" if packed is bytes else "raw"
    content = Content(Locator("file", str(path)), format="raw", view=view)

    def change():
        if how == "replaced":
            (tmp_path / "fresh").write_bytes(fresh)
            (tmp_path / "fresh").replace(path)
        else:
            path.write_bytes(fresh)

    async def all_of_it():
        reader = await house.open(content)
        assert bytes(await read(reader, 0, 4096)) == OLD[:4096]
        change()
        # What was replaced is still there for who has it open, as for any program.
        allowed = {errno.ESTALE} if how == "written to" else set()
        found = await random_reads(reader, OLD, allowed)
        assert how == "replaced" or errno.ESTALE in found
        opened = await house.open(content)
        assert await whole(opened) == NEW
        await random_reads(reader, OLD, allowed, seed=2)
        await reader.aclose()
        await opened.aclose()

    house.run(all_of_it)


# --- over a real mount --------------------------------------------------------------------------


@pytest.mark.mounted
def test_an_app_that_changes_in_place_is_stale_for_who_has_it_open(mount, servers, cloud, tmp_path):
    fresh = tmp_path / "fresh.raw"
    fresh.write_bytes(os.urandom(3 << 20))
    app = mount.app("Debian 12")
    with open(app / "Debian 12.raw", "rb", buffering=0) as file:
        first = file.read(4096)
        number = next(a.id for a in cloud.apps.values() if a.name == "Debian 12")
        cloud.replace_app_content(number, fresh, "2.0")
        assert os.pread(file.fileno(), 4096, 0) == first
        with pytest.raises(OSError, match="Stale file handle"):
            os.pread(file.fileno(), 4096, 40 << 20)
    mount.refresh()
    assert (app / "Debian 12.raw").read_bytes() == fresh.read_bytes()


@pytest.mark.mounted
def test_a_local_image_that_changes_is_stale_then_new(mount, cloud, tmp_path):
    record = cloud.images[8]
    fresh = tmp_path / "image"
    fresh.write_bytes(b"old" * 5000)
    os.rename(fresh, record.source)
    mount.refresh()
    path = mount.image("twin.raw")
    assert path.read_bytes() == b"old" * 5000
    with open(path, "rb", buffering=0) as file:
        with open(record.source, "r+b") as inside:
            inside.write(b"new")
            inside.truncate(20000)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises(OSError, match="Stale file handle"):
            os.pread(file.fileno(), 10, 0)
    mount.refresh()
    assert path.read_bytes() == Path(record.source).read_bytes()
