"""The disk inside qcow2 files is what QEMU says it is, however the files were made."""

from __future__ import annotations

import os
import random
import subprocess

import pytest
import trio

from nebfs.content.layers.inplace import InPlace, revision_of
from nebfs.content.layers.qcow2 import Qcow2
from nebfs.content.stack import ReaderFacts
from nebfs.errors import Changed, Damaged, Unsupported
from nebfs.model import Locator, Revision
from nebfs.units import KIB, MIB

SIZE = 2 * MIB + 5 * 512

VARIANTS = {
    "v2": "compat=0.10",
    "v3": "compat=1.1",
    "v2-512": "compat=0.10,cluster_size=512",
    "v3-512": "cluster_size=512",
    "4k": "cluster_size=4k",
    "2M": "cluster_size=2M",
    "zstd": "compression_type=zstd",
    "zstd-512": "compression_type=zstd,cluster_size=512",
    "zstd-2M": "compression_type=zstd,cluster_size=2M",
    "extended": "extended_l2=on",
    "extended-16k": "extended_l2=on,cluster_size=16k",
    "extended-zstd-2M": "extended_l2=on,cluster_size=2M,compression_type=zstd",
    "metadata": "preallocation=metadata",
    "falloc-4k": "preallocation=falloc,cluster_size=4k",
    "metadata-extended": "preallocation=metadata,extended_l2=on",
}


def run(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


def create(path, options="", size=SIZE, backing=None, kind="qcow2"):
    over = ["-b", backing, "-F", kind] if backing else []
    options = ["-o", options] if options else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *options, *over, path, *([size] if size else []))


def change(path, seed, size=SIZE, count=24, *, cluster=64 * KIB, old=False, pack=True):
    """Let QEMU do many things to the disk in `path`: one process, as starting it is what costs."""
    chance = random.Random(seed)
    # Compressed clusters come first: QEMU compresses nothing that is there already.
    packed = chance.sample(range(size // cluster), min(4, size // cluster)) if pack else ()
    commands = [f"write -c -P {chance.randrange(1, 256)} {n * cluster} {cluster}" for n in packed]
    for _ in range(count):
        length = min(512 * chance.randrange(1, chance.choice((3, 40, 400))), size)
        at = 512 * chance.randrange((size - length) // 512 + 1)
        whole = at - at % cluster
        match chance.randrange(8):
            case 0 | 1 | 2:
                commands.append(f"write -P {chance.randrange(1, 256)} {at} {length}")
            case 3:
                commands.append(f"write -z {at} {length}")
            case 4:
                commands.append(
                    f"{'discard' if old else 'write -zu'} {whole} {min(cluster, size - whole)}"
                )
            case 5:
                commands.append(
                    f"discard {whole} {min(cluster * chance.randrange(1, 4), size - whole)}"
                )
            case _:
                commands.append(f"write -s {path.parent / 'noise'} {at} {min(length, 90 * KIB)}")
    noise(path.parent)
    run("qemu-io", "-f", "qcow2", *(part for c in commands for part in ("-c", c)), path)


def noise(directory):
    path = directory / "noise"
    if not path.exists():
        # Half of it can be compressed.
        path.write_bytes(random.Random(1).randbytes(50 * KIB) + b"nebfs " * 10 * KIB)


def disk_of(path):
    """What QEMU reads from the disk in `path`, following the names in it."""
    out = path.parent / "oracle.raw"
    run("qemu-img", "convert", "-O", "raw", path, out)
    data = out.read_bytes()
    out.unlink()
    return data


def source_for(size=SIZE):
    """Bytes of which some can be compressed, some not, and some are zeros."""
    chance = random.Random(3)
    parts = []
    while sum(map(len, parts)) < size:
        length = chance.randrange(1, 200 * KIB)
        kind = chance.randrange(3)
        parts.append(
            bytes(length)
            if kind == 0
            else chance.randbytes(length)
            if kind == 1
            else (chance.randbytes(40) * length)[:length]
        )
    return b"".join(parts)[:size]


class Below:
    """A reader over bytes in memory that keeps every promise of a reader, and no more.

    What it returns is overwritten at its next answer; every answer of ``pread`` lets others run
    first. `warmth`: how much of it is answered at once.
    """

    def __init__(self, data, warmth=0.0, seed=0):
        self.data = data
        self.size = len(data)
        self.revision = Revision(self.size)
        self.warmth = warmth
        self.chance = random.Random(seed)
        self.view = bytearray()
        self.asked = []
        self.closed = 0
        self.running = self.most_running = 0
        self.failure = None

    def answer(self, offset, length):
        assert offset >= 0
        assert length > 0
        assert offset + length <= self.size, "a read beyond the end"
        self.view[:] = b"\xee" * len(self.view)
        self.view = bytearray(self.data[offset : offset + length])
        return memoryview(self.view)

    def warm(self, offset, length):
        if self.chance.random() >= self.warmth:
            return None
        return self.answer(offset, length)

    async def pread(self, offset, length):
        self.asked.append((offset, length))
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            for _ in range(self.chance.randrange(1, 3)):
                await trio.lowlevel.checkpoint()
            if self.failure is not None:
                raise self.failure
            return self.answer(offset, length)
        finally:
            self.running -= 1

    def facts(self):
        return ReaderFacts(self.size, self.size, "", "")

    async def aclose(self):
        await trio.lowlevel.checkpoint()
        self.closed += 1


async def in_place(path):
    return await InPlace.open(Locator("file", str(path)), revision_of(os.stat(path)))


async def opened(*paths, read=in_place):
    """Open a chain, the topmost first. What is no qcow2 is raw."""
    reader = None
    for path in reversed(paths):
        below = await read(path)
        if path.suffix == ".raw":
            reader = below
        else:
            reader = await Qcow2.open(below, reader, Revision(1, "its version"))
    return reader


def reading(warmth, seed=0):
    async def read(path):
        return Below(path.read_bytes(), warmth, seed)

    return read


async def check(reader, expected, seed=1, count=60):
    """Compare all of it, in one piece and in random ones, also at the same time."""
    assert reader.size == len(expected)
    chance = random.Random(seed)
    if expected:
        whole = bytes(await reader.pread(0, len(expected)))
        assert whole == expected, f"differs at {first_difference(whole, expected)}"

    async def some():
        for _ in range(count // 3):
            longest = chance.choice((1, 5000, 300 * KIB, 1 * MIB))
            length = min(chance.randrange(1, longest + 1), len(expected))
            at = chance.randrange(len(expected) - length + 1)
            at -= chance.choice((0, at % 512))
            wanted = expected[at : at + length]
            warm = reader.warm(at, length)
            if warm is not None:
                assert bytes(warm) == wanted, f"warm differs at {first_difference(warm, wanted)}"
            data = await reader.pread(at, length)
            assert len(data) == length
            assert bytes(data) == wanted, f"differs at {at} + {first_difference(data, wanted)}"

    if expected:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(some)


def first_difference(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), "its end")


async def check_all_ways(paths, expected):
    for read in (in_place, reading(0.0), reading(0.5), reading(1.0)):
        reader = await opened(*paths, read=read)
        try:
            await check(reader, expected)
        finally:
            await reader.aclose()


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_disk_that_was_written_to(tmp_path, variant):
    path = tmp_path / "disk.qcow2"
    options = VARIANTS[variant]
    create(path, options)
    cluster = cluster_of(path)
    change(path, variant, cluster=cluster, old="0.10" in options, pack="preall" not in options)
    await check_all_ways([path], disk_of(path))


def cluster_of(path):
    return 1 << int.from_bytes(path.read_bytes()[20:24], "big")


@pytest.mark.parametrize(
    "variant", ["v2", "v3-512", "2M", "zstd", "zstd-512", "zstd-2M", "extended"]
)
async def test_a_disk_that_was_converted_and_compressed(tmp_path, variant):
    source = source_for()
    (tmp_path / "source.raw").write_bytes(source)
    path = tmp_path / "disk.qcow2"
    options = VARIANTS[variant]
    run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", options, tmp_path / "source.raw", path)
    await check_all_ways([path], source)


@pytest.mark.parametrize(
    "layers",
    [
        (("", SIZE), ("", SIZE)),
        (("cluster_size=512", SIZE), ("extended_l2=on", 3 * MIB)),
        (("compat=0.10,cluster_size=2M", 3 * MIB), ("compression_type=zstd", SIZE)),
        (("extended_l2=on,cluster_size=16k", 1 * MIB + 512), ("", SIZE), ("cluster_size=4k", MIB)),
        (
            ("", MIB),
            ("extended_l2=on", 2 * MIB),
            ("compat=0.10", SIZE),
            ("cluster_size=512", 3 * MIB),
        ),
    ],
    ids=["two", "longer", "shorter", "three", "four"],
)
@pytest.mark.parametrize("base", ["raw", "qcow2"])
async def test_a_chain(tmp_path, layers, base):
    """The topmost file is last in `layers`."""
    paths = []
    if base == "raw":
        raw = tmp_path / "base.raw"
        raw.write_bytes(source_for(MIB + 3 * KIB))
        paths = [raw]
    for number, (options, size) in enumerate(layers):
        path = tmp_path / f"{number}.qcow2"
        kind = "raw" if paths and paths[0].suffix == ".raw" else "qcow2"
        create(path, options, size, backing=paths[0] if paths else None, kind=kind)
        change(path, number, size, 10, cluster=cluster_of(path), old="0.10" in options)
        paths.insert(0, path)
    await check_all_ways(paths, disk_of(paths[0]))


@pytest.mark.parametrize("sizes", [(SIZE, 300 * KIB, 5 * MIB), (300 * KIB, 3 * MIB, MIB)])
async def test_a_disk_that_was_resized(tmp_path, sizes):
    path = tmp_path / "disk.qcow2"
    create(path, "cluster_size=4k", sizes[0])
    for number, size in enumerate(sizes):
        run("qemu-img", "resize", "-q", "--shrink", path, size)
        change(path, number, size, 6, cluster=4 * KIB, pack=number == 0)
    await check_all_ways([path], disk_of(path))


async def test_a_disk_with_snapshots_inside_is_what_it_is_now(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path)
    change(path, 1, count=6)
    run("qemu-img", "snapshot", "-c", "before", path)
    change(path, 2, count=6, pack=False)
    await check_all_ways([path], disk_of(path))


async def test_a_huge_disk_with_little_in_it(tmp_path):
    path = tmp_path / "disk.qcow2"
    size = 200 << 40  # an L1 table of more than 3 MiB
    create(path, "", size)
    places = (0, 5 << 40, (5 << 40) + 300 * MIB, size - 4096)
    run(
        "qemu-io", "-f", "qcow2", *(p for at in places for p in ("-c", f"write -P 9 {at} 4k")), path
    )
    below = Below(path.read_bytes())
    reader = await Qcow2.open(below, None, Revision(size))
    for at in places:
        assert bytes(await reader.pread(at, 4096)) == b"\x09" * 4096
        before = max(at - 8192, 0)
        assert bytes(await reader.pread(before, 4096)) == (bytes(4096) if at else b"\x09" * 4096)
    assert sum(length for _, length in below.asked) < MIB, "far more was read than was needed"
    await reader.aclose()


async def test_an_empty_disk(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path, "", "0")
    reader = await opened(path)
    assert reader.size == 0
    await reader.aclose()


# --- files that end early -------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "cluster_size=512", "extended_l2=on,cluster_size=2M"])
async def test_the_last_cluster_may_be_cut_short_and_no_other(tmp_path, options):
    """As QEMU itself leaves it; qemu-img check says so, and that all else is corrupt."""
    path = tmp_path / "disk.qcow2"
    create(path, options, 8 * MIB)
    cluster = cluster_of(path)
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {2 * cluster}", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: -cluster + 100])
    await check_all_ways([path], disk_of(path))
    path.write_bytes(whole[:-cluster])
    reader = await opened(path)
    assert bytes(await reader.pread(0, cluster)) == b"\x07" * cluster
    assert bytes(await reader.pread(2 * cluster, 512)) == bytes(512)
    for at, length in ((cluster, 1), (cluster - 1, 2), (2 * cluster - 1, 2), (0, 4 * cluster)):
        assert reader.warm(at, length) is None
        with pytest.raises(Damaged):
            await reader.pread(at, length)
    await reader.aclose()


async def test_an_image_that_lost_its_tables_is_damaged_not_empty(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", path)
    path.write_bytes(path.read_bytes()[: 4 * 64 * KIB])  # header, refcounts (2), L1
    reader = await opened(path)
    with pytest.raises(Damaged):
        await reader.pread(0, 512)
    await reader.aclose()
    path.write_bytes(path.read_bytes()[: 3 * 64 * KIB])
    with pytest.raises(Damaged):
        await opened(path)


# --- who owns what, and what is followed ----------------------------------------------------------


async def test_a_name_in_the_header_is_never_followed(tmp_path, monkeypatch):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"secret" * KIB)
    path = tmp_path / "disk.qcow2"
    create(path, "", SIZE, backing=secret, kind="raw")
    below = Below(path.read_bytes())
    opens = []
    monkeypatch.setattr(os, "open", lambda *a, **k: opens.append(a))
    monkeypatch.setattr("builtins.open", lambda *a, **k: opens.append(a))
    with pytest.raises(Unsupported, match="another file"):
        await Qcow2.open(below, None, Revision(SIZE))
    assert below.closed == 1
    # What is beneath is what we were given, whatever the header says.
    given = Below(b"given!" * KIB)
    reader = await Qcow2.open(Below(path.read_bytes()), given, Revision(SIZE))
    assert bytes(await reader.pread(0, 6 * KIB)) == given.data
    assert bytes(await reader.pread(6 * KIB - 3, 10)) == b"en!" + bytes(7)
    await reader.aclose()
    assert opens == []


async def test_it_closes_what_it_was_given(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path)
    file, backing = Below(path.read_bytes()), Below(b"below")
    reader = await Qcow2.open(file, backing, Revision(SIZE, "version"))
    assert reader.revision == Revision(SIZE, "version")
    assert (file.closed, backing.closed) == (0, 0)
    await reader.aclose()
    assert (file.closed, backing.closed) == (1, 1)


@pytest.mark.parametrize("data", [b"", b"QFI\xfb", b"no qcow2" * 100])
async def test_it_closes_what_it_was_given_when_it_cannot_open(data):
    file, backing = Below(data), Below(b"below")
    with pytest.raises(Damaged):
        await Qcow2.open(file, backing, Revision(SIZE))
    assert (file.closed, backing.closed) == (1, 1)


async def test_it_closes_what_it_was_given_when_it_is_cancelled(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path)
    file, backing = Below(path.read_bytes()), Below(b"below")
    with trio.CancelScope() as scope:
        scope.cancel()
        await Qcow2.open(file, backing, Revision(SIZE))
    assert scope.cancelled_caught
    assert (file.closed, backing.closed) == (1, 1)


async def test_a_failure_below_is_raised_as_it_is(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path, "cluster_size=4k")
    change(path, 9, cluster=4 * KIB)
    below = Below(path.read_bytes())
    reader = await Qcow2.open(below, None, Revision(SIZE))
    await reader.pread(0, SIZE)
    below.failure = Changed("it is another one now")
    with pytest.raises(Changed) as raised:
        await reader.pread(0, SIZE)
    assert type(raised.value) is Changed
    below.failure = None
    await check(reader, disk_of(path))
    await reader.aclose()


async def test_readers_who_go_away_take_nothing_from_others(tmp_path):
    """Tables and clusters are brought once for all who wait for them."""
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "s.raw", SIZE)
    (tmp_path / "s.raw").write_bytes(source_for())
    run("qemu-img", "convert", "-c", "-O", "qcow2", tmp_path / "s.raw", path)
    expected = source_for()
    for seed in range(20):
        chance = random.Random(seed)
        reader = await Qcow2.open(Below(path.read_bytes(), 0.2, seed), None, Revision(SIZE))
        goers = [trio.CancelScope() for _ in range(3)]

        async def go(scope, reader=reader):
            with scope:
                await reader.pread(0, SIZE)

        async def stay(reader=reader):
            assert bytes(await reader.pread(100, SIZE - 100)) == expected[100:]

        async with trio.open_nursery() as nursery:
            for scope in goers:
                nursery.start_soon(go, scope)
                nursery.start_soon(stay)
            for scope in goers:
                for _ in range(chance.randrange(12)):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        await reader.aclose()


# --- answering at once ----------------------------------------------------------------------------


async def test_what_is_in_memory_is_answered_at_once(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path, "", 4 * MIB)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 1M", "-c", "write -c -P 6 2M 64k", path)
    below = Below(path.read_bytes(), warmth=1.0)
    reader = await Qcow2.open(below, None, Revision(4 * MIB))
    assert reader.warm(0, 4096) is None, "its table is not here yet"
    await reader.pread(0, 4096)
    below.asked.clear()
    assert bytes(reader.warm(0, 4096)) == b"\5" * 4096
    assert bytes(reader.warm(1000, MIB - 1000)) == b"\5" * (MIB - 1000)
    assert bytes(reader.warm(MIB - 4, 8)) == b"\5" * 4 + bytes(4)
    assert bytes(reader.warm(3 * MIB, MIB)) == bytes(MIB)
    await reader.pread(2 * MIB, 10)
    assert bytes(reader.warm(2 * MIB + 5, 64 * KIB)) == b"\6" * (64 * KIB - 5) + bytes(5)
    below.warmth = 0
    assert reader.warm(0, 4096) is None
    assert bytes(reader.warm(3 * MIB, MIB)) == bytes(MIB)
    await reader.aclose()


async def test_a_chain_as_deep_as_there_may_be(tmp_path):
    """Each file costs a look into its tables, and none may cost a level of the stack too many."""
    from nebfs.content.views import DEEPEST

    path = tmp_path / "layer.qcow2"
    create(path, "cluster_size=4k", MIB)
    layer = path.read_bytes()
    base = tmp_path / "base.qcow2"
    create(base, "cluster_size=4k", MIB)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 4k 512k", base)
    files = [Below(layer, warmth=1.0) for _ in range(DEEPEST - 1)]
    reader = await Qcow2.open(Below(base.read_bytes(), 0.5), None, Revision(MIB))
    for file in files:
        reader = await Qcow2.open(file, reader, Revision(MIB))
    expected = bytes(4096) + b"\5" * 512 * KIB + bytes(MIB - 516 * KIB)
    assert bytes(await reader.pread(0, MIB)) == expected
    warm = reader.warm(8192, 4096)
    assert warm is None or bytes(warm) == b"\5" * 4096
    assert reader.facts().size == MIB
    await reader.aclose()
    assert all(file.closed == 1 for file in files)


async def test_many_pieces_are_read_at_once_but_not_too_many(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path, "cluster_size=512", SIZE)
    places = list(range(0, MIB, 512))
    random.Random(4).shuffle(places)
    script = [p for at in places for p in ("-c", f"write -P {1 + at // 512 % 255} {at} 512")]
    run("qemu-io", "-f", "qcow2", *script, path)
    below = Below(path.read_bytes())
    reader = await Qcow2.open(below, None, Revision(SIZE))
    expected = b"".join(bytes([1 + n % 255]) * 512 for n in range(MIB // 512))
    assert bytes(await reader.pread(0, MIB)) == expected
    assert 4 <= below.most_running <= 64
    await reader.aclose()


async def test_facts_are_those_of_the_files(tmp_path):
    path = tmp_path / "disk.qcow2"
    create(path)
    reader = await opened(path)
    assert reader.facts().size == SIZE
    assert reader.facts().where == "in place"
    await reader.aclose()
