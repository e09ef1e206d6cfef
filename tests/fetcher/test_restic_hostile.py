"""What is written in a repository of restic is somebody's: it is bounded, checked, or refused."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil

import pytest
import zstandard

from nebfs.errors import BadAnswer, Damaged, Missing, Unsupported
from nebfs.fetcher.transports import restic_documents as documents
from nebfs.fetcher.transports import restic_index
from nebfs.fetcher.transports.restic_documents import Packed
from nebfs.fetcher.transports.restic_index import Index, Part
from nebfs.fetcher.transports.restic_sealing import SEAL, Keys, opened, unlocked, unpacked
from nebfs.fetcher.transports.restic_stores import Directory, sums
from tests.datastores.restic_pool import PASSWORD, Restic, master_keys, seal
from tests.fetcher.restic_asking import (
    SLOT,
    Reads,
    bring,
    locator,
    look,
    no_waiting,  # noqa: F401 - a fixture
    run,
)

KEYS = Keys(bytes(range(32)), bytes(range(16)), bytes(range(50, 66)))
ID = "ab" * 32


def digest(text):
    return hashlib.sha256(text).digest()


# --- sealing ----------------------------------------------------------------------------------


def test_poly1305_aes_is_the_one_of_its_paper():
    """D. J. Bernstein, "The Poly1305-AES message-authentication code", appendix B."""
    keys = Keys(
        bytes(32),
        bytes.fromhex("ec074c835580741701425b623235add6"),
        bytes.fromhex("851fc40c3467ac0be05cc20404f3f700"),
    )
    nonce = bytes.fromhex("fb447350c4e868c52ac3275cf9d4327e")
    assert keys.unseal(nonce + bytes.fromhex("f3f6") + _tag("f4c633c3044fc145f84f335cb81953de"))
    with pytest.raises(Damaged):
        keys.unseal(nonce + bytes.fromhex("f3f7") + _tag("f4c633c3044fc145f84f335cb81953de"))


def _tag(text):
    return bytes.fromhex(text)


@pytest.mark.parametrize("bit", range(0, 8 * (SEAL + 5), 7))
def test_every_bit_of_a_sealed_text_counts(bit):
    sealed = bytearray(seal(KEYS, b"bytes"))
    assert KEYS.unseal(bytes(sealed)) == b"bytes"
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        KEYS.unseal(bytes(sealed))


@pytest.mark.parametrize("length", [0, 1, SEAL - 1])
def test_what_is_too_short_to_be_sealed_is_damaged(length):
    with pytest.raises(Damaged):
        KEYS.unseal(bytes(length))


def test_a_blob_is_what_its_name_says_or_damaged():
    data = b"a blob" * 100
    assert opened(KEYS, seal(KEYS, data), digest(data), len(data), packed=False) == data
    with pytest.raises(Damaged):  # another blob, sealed as it should be
        opened(KEYS, seal(KEYS, data[::-1]), digest(data), len(data), packed=False)
    with pytest.raises(Damaged):
        opened(KEYS, seal(KEYS, data), digest(data), len(data) - 1, packed=False)


def test_a_compressed_blob_is_no_larger_than_the_index_says():
    data = bytes(64 << 20)
    for announced in (True, False):
        bomb = zstandard.ZstdCompressor(write_content_size=announced).compress(data)
        with pytest.raises(Damaged):
            opened(KEYS, seal(KEYS, bomb), digest(data), 1 << 20, packed=True)
    with pytest.raises(Damaged):
        opened(KEYS, seal(KEYS, b"no zstd"), digest(data), 1 << 20, packed=True)


def test_a_document_is_no_larger_than_its_limit():
    bomb = seal(KEYS, b"\x02" + zstandard.ZstdCompressor().compress(bytes(64 << 20)))
    with pytest.raises(Unsupported, match="too large"):
        unpacked(KEYS, bomb, "", 1 << 20)


def test_a_document_of_another_kind_or_name_is_refused():
    assert unpacked(KEYS, seal(KEYS, b"{}"), "", 9) == b"{}"
    with pytest.raises(Unsupported, match="unknown kind"):
        unpacked(KEYS, seal(KEYS, b"\x03{}"), "", 9)
    with pytest.raises(Damaged):
        unpacked(KEYS, seal(KEYS, b"{}"), ID, 9)
    with pytest.raises(Damaged):
        unpacked(KEYS, seal(KEYS, b"\x02no zstd"), "", 9)


def key_file(**changes):
    salt = base64.b64encode(bytes(64)).decode()
    facts = {"kdf": "scrypt", "N": 2, "r": 1, "p": 1, "salt": salt, "data": salt, **changes}
    return json.dumps(facts).encode()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"", BadAnswer),
        (b"[]", BadAnswer),
        (b"[" * 100_000, BadAnswer),
        (key_file(kdf="argon2"), Unsupported),
        (key_file(N=1 << 40), Unsupported),
        (key_file(p=1 << 40), Unsupported),
        (key_file(N=1 << 16, r=8, p=1 << 12), Unsupported),
        (key_file(N=3), BadAnswer),
        (key_file(N=0), BadAnswer),
        (key_file(r=-1), BadAnswer),
        (key_file(N="2"), BadAnswer),
        (key_file(N=2.0), BadAnswer),
        (key_file(salt="*"), BadAnswer),
        (key_file(data=7), BadAnswer),
    ],
)
def test_a_key_file_cannot_make_us_work_for_long(text, kind):
    with pytest.raises(kind):
        unlocked(PASSWORD, text)


def test_a_password_of_another_key_opens_nothing():
    assert unlocked(PASSWORD, key_file()) is None


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"mac": {"k": "", "r": ""}, "encrypt": ""}'])
def test_a_master_key_that_is_none_is_refused(text):
    with pytest.raises(BadAnswer):
        Keys.of_json(text)


# --- documents --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b"", b"7", b"[" * 100_000, b'{"tree": "ab"}', b'{"paths": []}', b'{"tree": 7}']
)
def test_a_snapshot_that_makes_no_sense_is_refused(text):
    with pytest.raises(BadAnswer):
        documents.read_snapshot(text)


@pytest.mark.parametrize(
    "paths",
    [["relative"], [7], ["/a\0b"], ["/x" * 100], [f"/{n}" for n in range(300)], "/x"],
)
def test_paths_of_a_snapshot_are_absolute_and_few(paths):
    with pytest.raises(BadAnswer):
        documents.read_snapshot(json.dumps({"tree": ID, "paths": paths}).encode())


def test_paths_of_a_snapshot_lead_nowhere_else():
    text = json.dumps({"tree": ID, "paths": ["//a/../b/./c", "/b/c"]}).encode()
    assert documents.read_snapshot(text).paths == ("/b/c",)


@pytest.mark.parametrize(
    "node",
    [
        7,
        {},
        {"name": "..", "type": "file"},
        {"name": "", "type": "file"},
        {"name": "a/b", "type": "file"},
        {"name": "a\0b", "type": "file"},
        {"name": "a", "type": "file", "size": -1},
        {"name": "a", "type": "file", "size": 1 << 70},
        {"name": "a", "type": "file", "size": "1"},
        {"name": "a", "type": "file", "content": ["ab"]},
        {"name": "a", "type": "file", "content": ["zz" * 32]},
        {"name": "a", "type": "file", "content": [" " * 64]},
        {"name": "a", "type": "file", "content": ID},
        {"name": "a", "type": "dir"},
        {"name": "a", "type": "dir", "subtree": "../x"},
    ],
)
def test_a_tree_that_makes_no_sense_is_refused(node):
    with pytest.raises(BadAnswer):
        documents.read_tree(json.dumps({"nodes": [node]}).encode())


@pytest.mark.parametrize(
    "pack",
    [
        7,
        {"id": ID},
        {"id": "../x", "blobs": []},
        {"id": ID, "blobs": [7]},
        {"id": ID, "blobs": [{"id": ID, "offset": -1, "length": 1}]},
        {"id": ID, "blobs": [{"id": ID, "offset": 0, "length": 1 << 40}]},
        {"id": ID, "blobs": [{"id": ID, "offset": 0, "length": 1, "uncompressed_length": -1}]},
        {"id": ID, "blobs": [{"id": "ab", "offset": 0, "length": 1}]},
    ],
)
def test_an_index_that_makes_no_sense_is_refused(pack):
    with pytest.raises(BadAnswer):
        Part(documents.read_index(json.dumps({"packs": [pack]}).encode()))


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_a_repository_of_an_unknown_version_is_not_read(version):
    with pytest.raises(Unsupported):
        documents.check_config(json.dumps({"version": version}).encode())


def test_other_names_than_sums_are_no_files_of_a_repository():
    assert sums([ID, "x", "..", f"{ID}.tmp", ID.upper()]) == {ID}


# --- the index --------------------------------------------------------------------------------


def part(*blobs, pack=b"p" * 32):
    return Part([(pack, [Packed(*blob) for blob in blobs])])


def test_blobs_are_found_among_others_that_begin_alike():
    names = [b"12345678" + bytes([n]) * 24 for n in range(5)]
    blobs = [(name, 100 * n, 90 + n, 0) for n, name in enumerate(names)]
    index = Index().changed({"a": part(*blobs)}, set())
    for number, name in enumerate(names):
        (spot,) = index.spots(name)
        assert (spot.offset, spot.length, spot.size) == (100 * number, 90 + number, 58 + number)
    assert list(index.sizes(b"".join(names[::-1]))) == [62, 61, 60, 59, 58]
    with pytest.raises(Missing):
        index.sizes(b"12345678" + b"x" * 24)
    assert index.spots(b"12345678" + b"x" * 24) == []


def test_an_index_follows_files_that_come_and_go():
    one, two, both = (bytes([n]) * 32 for n in range(1, 4))
    index = Index().changed({"a": part((one, 0, 50, 0), (both, 50, 60, 0), pack=b"1" * 32)}, set())
    index = index.changed({"b": part((two, 7, 70, 0), (both, 8, 80, 500), pack=b"2" * 32)}, set())
    assert {spot.pack for spot in index.spots(both)} == {b"1" * 32, b"2" * 32}
    index = index.changed({}, {"a"})
    assert (index.files, len(index)) == (("b",), 2)
    assert index.spots(one) == []
    (spot,) = index.spots(both)
    assert (spot.pack, spot.offset, spot.size, spot.packed) == (b"2" * 32, 8, 500, True)
    index = index.changed({"c": part((one, 9, 90, 0), pack=b"3" * 32)}, {"b"})
    assert index.files == ("c",)
    assert index.spots(one)[0].pack == b"3" * 32


def test_an_empty_index_has_nothing():
    index = Index().changed({}, {"a"})
    assert index.spots(bytes(32)) == []
    assert list(index.sizes(b"")) == []
    with pytest.raises(Missing):
        index.sizes(bytes(32))


@pytest.mark.parametrize(("length", "size"), [(SEAL, 0), (5, 0), (100, 1 << 31), (1 << 31, 0)])
def test_a_blob_of_a_file_has_a_length_that_can_be(length, size):
    index = Index().changed({"a": part((bytes(32), 0, length, size))}, set())
    with pytest.raises(BadAnswer):
        index.sizes(bytes(32))


def test_an_index_that_is_too_large_is_not_held(monkeypatch):
    blobs = [Packed(bytes(32), 0, 100, 0)] * 10
    with pytest.raises(Unsupported, match="too large"):
        Part([(bytes(32), blobs)], room=9)
    monkeypatch.setattr(restic_index, "MAX_BLOBS", 15)
    index = Index().changed({"a": Part([(bytes(32), blobs)])}, set())
    with pytest.raises(Unsupported, match="too large"):
        index.changed({"b": Part([(bytes(32), blobs)])}, set())


def test_a_large_index_is_looked_up_at_once():
    source = random.Random(1)
    names = [source.randbytes(32) for _ in range(20_000)]
    index = Index().changed(
        {"a": part(*((name, 0, 100 + n % 50, 0) for n, name in enumerate(names)))}, set()
    )
    sizes = index.sizes(b"".join(names))
    assert list(sizes[:60]) == [68 + n % 50 for n in range(60)]


# --- a whole repository, by somebody who has its keys -----------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository with one disk, and its snapshot."""
    home = tmp_path_factory.mktemp("made")
    disk = home / "backup/disk.0.0"
    disk.parent.mkdir()
    # restic cuts where it likes, another way in each repository, but after 8 MiB at the latest.
    disk.write_bytes(random.Random(3).randbytes(9 << 20))
    return home, disk, Restic(home / "repository", home).init().backup(disk)


@pytest.fixture
def forged(made, tmp_path, make_target):
    """The same, of which documents can be replaced."""
    home, disk, snapshot = made
    repository = tmp_path / "repository"
    shutil.copytree(home / "repository", repository)
    keys = master_keys(repository)

    class Forged:
        address = f"file://{repository}"
        target = make_target(disk.read_bytes(), SLOT)

        def index(self):
            (file,) = (repository / "index").iterdir()
            return file, json.loads(unpacked(keys, file.read_bytes(), file.name, 1 << 20))

        def replace_index(self, change):
            file, told = self.index()
            change(told)
            text = seal(keys, json.dumps(told).encode())
            (file.parent / hashlib.sha256(text).hexdigest()).write_bytes(text)
            file.unlink()

        def read(self):
            async def use(transport):
                (files,) = await look(transport, self.address, snapshot)
                assert not isinstance(files, int), files
                where = locator(self.address, files["disk.0.0"])
                await bring(transport, where, self.target, (0, (9 << 20) // SLOT))

            run(use)

    return Forged()


def blobs_of(told):
    return [blob for pack in told["packs"] for blob in pack["blobs"] if blob["type"] == "data"]


def test_an_index_that_swaps_two_blobs_gives_no_wrong_byte(forged):
    def swap(told):
        first, second = blobs_of(told)[:2]
        first["id"], second["id"] = second["id"], first["id"]

    forged.replace_index(swap)
    with pytest.raises(Damaged):
        forged.read()
    forged.target.check()


def test_an_index_with_wrong_lengths_gives_no_wrong_byte(forged):
    def lengthen(told):
        blobs_of(told)[0]["uncompressed_length"] = 12345

    forged.replace_index(lengthen)
    with pytest.raises(Damaged, match="do not add up"):
        forged.read()
    forged.target.check()


def test_an_index_cannot_make_us_read_what_no_blob_is_long(forged, monkeypatch):
    reads = Reads(monkeypatch, Directory)

    def lengthen(told):
        blob = blobs_of(told)[0]
        blob["uncompressed_length"] = blob.get("uncompressed_length", blob["length"] - SEAL)
        blob["length"] = 1 << 31

    forged.replace_index(lengthen)
    with pytest.raises(BadAnswer, match="too large"):
        forged.read()
    assert reads.bytes < 64 << 20
    forged.target.check()


def test_an_index_that_points_beyond_a_pack_gives_no_wrong_byte(forged):
    def move(told):
        for blob in blobs_of(told):
            blob["offset"] += 1 << 30

    forged.replace_index(move)
    with pytest.raises(Damaged, match="cut off"):
        forged.read()
    forged.target.check()


def test_a_file_that_is_named_by_an_index_and_is_not_there_is_missing(forged):
    def lose(told):
        for pack in told["packs"]:
            pack["blobs"] = [blob for blob in pack["blobs"] if blob["type"] != "data"]

    forged.replace_index(lose)
    with pytest.raises(Missing):
        forged.read()
    forged.target.check_untouched()
