"""What the commands say and do about images that are decompressed into the cache."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random

import pytest

from nebfs.demo.records import ImageRecord

pytestmark = pytest.mark.mounted

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def packed(shared):
    (found,) = shared.mount.app("Data Disk").glob("*.gz")
    return found


@pytest.fixture
def disk(shared, packed, nebfs, tools):
    """The raw disk inside a gzip file of a marketplace, of which nothing is known or kept yet."""
    found = shared.mount.path / "raw" / packed.parent.relative_to(shared.mount.path)
    (name,) = os.listdir(found)
    nebfs("unpin", "--all", code=1)
    # The kernel tells of a closed file a moment later, and what is decompressed then ends first.
    tools.wait_until(lambda: not shared.mount.status()["open_objects"])
    nebfs("cache", "drop", "--all")
    return found / name


def objects(nebfs):
    return json.loads(nebfs("cache", "list", "--json").stdout)


def explained(nebfs, path):
    return json.loads(nebfs("explain", "--json", path).stdout)


def test_warm_decompresses_what_has_no_length_yet(shared, nebfs, packed, disk):
    assert disk.stat().st_size == 0
    said = explained(nebfs, disk)
    assert (said["size"], said["decompressed"]["size"]) == (None, None)
    assert (said["decompressed"]["compression"], said["decompressed"]["frontier"]) == ("gz", 0)
    text = nebfs("explain", disk).output
    assert "size        not known before it was decompressed" in text
    for words in (["pin", disk], ["verify", disk]):
        done = nebfs(*words, code=1 if words[0] == "pin" else 69)
        assert "its length is known once it was decompressed: 'nebfs warm' does that" in done.output
    lines = [json.loads(line) for line in nebfs("warm", "--json", disk).stdout.splitlines()]
    plan, *steps, image, end = [one for one in lines if one["event"] != "progress"]
    # The compressed bytes stand for those that are not known.
    assert plan["size"] == 2 * packed.stat().st_size
    assert (steps, image["verified"], image["decompressed"]) == ([], "yes", True)
    assert (image["total"], end["images"], end["failed"]) == (plan["size"], 1, 0)
    assert disk.stat().st_size == SIZE
    assert disk.read_bytes() == gzip.decompress(packed.read_bytes())
    before = shared.mount.status()["fetcher"]
    done = nebfs("warm", disk)
    assert "all of it here already" in done.output
    assert "all of it is here, decompressed out of what was published" in done.output
    assert shared.mount.status()["fetcher"] == before


def test_explain_shows_the_decompressed_object_and_its_layer(nebfs, disk):
    nebfs("warm", disk)
    said = explained(nebfs, disk)
    made = said["decompressed"]
    assert (said["size"], made["size"], made["cached"], made["frontier"]) == (SIZE,) * 4
    assert (made["open"], made["layers"]) == (False, [])
    with open(disk, "rb", buffering=0) as opened:
        os.pread(opened.fileno(), 4096, 5 * MIB)
        made = explained(nebfs, disk)["decompressed"]
        (layer,) = made["layers"]
        assert (layer["name"], made["open"]) == ("decoded", True)
        assert (layer["counted"]["frontier"], layer["counted"]["here"]) == (SIZE, SIZE)
        assert layer["counted"]["waits"] == 0
        text = nebfs("explain", disk).output
    assert "decompressed (gz)" in text
    assert "decoded   decompresses the file into an object of its own" in text
    assert "frontier 8.00 MiB, here 8.00 MiB" in text
    assert text.index("decompressed (gz)") < text.index("the compressed file")


def test_a_read_of_what_is_not_decompressed_yet_moves_the_frontier(nebfs, disk):
    with open(disk, "rb", buffering=0) as opened:
        os.pread(opened.fileno(), 4096, 3 * MIB)
        (layer,) = explained(nebfs, disk)["decompressed"]["layers"]
    counted = layer["counted"]
    assert (counted["waits"], counted["passes"]) == (1, 1)
    assert counted["frontier"] > 3 * MIB


def test_the_cache_names_it_and_draws_it(shared, nebfs, packed, disk):
    nebfs("warm", disk)
    listed = {o["key"]: o for o in objects(nebfs)}
    said = explained(nebfs, disk)
    made, file = listed[said["decompressed"]["key"]], listed[said["files"][0]["key"]]
    assert made["source"] == f"{file['source']} (decompressed)"
    assert (made["size"], made["cached"], made["decompressed"], made["measured"]) == (
        *(SIZE, SIZE, True, True),
    )
    assert (file["decompressed"], file["size"]) == (False, packed.stat().st_size)
    table = nebfs("cache", "list").stdout
    (row,) = [row for row in table.splitlines() if row.endswith("(decompressed)")]
    assert row.split()[1:5] == ["8.00", "MiB", "100", "%"]
    assert " decompressed  " in row
    drawn = nebfs("cache", "map", disk).stdout.splitlines()
    assert [drawn[0], drawn[3]] == [made["source"], file["source"]]
    assert drawn[2] == "8.00 MiB of 8.00 MiB, 100 %"
    offline = nebfs("cache", "list", "--cache-dir", shared.mount.cache).stdout
    assert "(decompressed)" in offline


def test_verify_says_what_it_has_verified(nebfs, disk, packed):
    nebfs("warm", disk)
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    done = nebfs("verify", disk)
    assert f"{digest}  {disk}\n" in done.stdout
    assert (
        "it is the disk inside a file, decompressed; nothing was published about it" in done.output
    )
    source = explained(nebfs, disk)["files"][0]["source"]
    assert f"the file: {source}: it is what was published" in done.output
    assert json.loads(nebfs("verify", "--json", disk).stdout)["inside"] == [
        {"source": source, "verified": "yes"}
    ]
    assert "it is what was published" in nebfs("verify", packed).output


def test_pins_are_of_both_and_unpin_takes_both_back(nebfs, disk):
    nebfs("warm", disk)
    done = nebfs("pin", disk)
    assert done.output.count("pinned, ") == 1
    assert "8.12 MiB of 8.12 MiB is here" in done.output, "the file and what is in it"
    said = explained(nebfs, disk)
    keys = {said["decompressed"]["key"], said["files"][0]["key"]}
    assert {o["key"] for o in objects(nebfs) if o["pinned"]} == keys
    assert "it is pinned" in nebfs("cache", "drop", disk, code=1).output
    assert nebfs("unpin", disk).output.count("not pinned any more") == 1
    assert "2 objects dropped" in nebfs("cache", "drop", disk).output


def test_drop_takes_both_and_spares_what_is_open(nebfs, shared, tools, disk):
    nebfs("warm", disk)
    right = disk.read_bytes()
    tools.wait_until(lambda: not objects(nebfs)[0]["open"])
    with open(disk, "rb", buffering=0) as opened:
        os.pread(opened.fileno(), 10, 0)
        done = nebfs("cache", "drop", disk, code=1)
        assert "(decompressed): it is open; --force" in done.output
        nebfs("cache", "drop", "--force", disk)
        assert os.pread(opened.fileno(), SIZE, 0) == right
    tools.wait_until(lambda: not shared.mount.status()["open_objects"])
    nebfs("cache", "drop", disk)
    assert objects(nebfs) == []
    assert disk.read_bytes() == right


def test_of_a_compressed_file_on_this_machine_only_the_disk_is_kept(shared, nebfs, tmp_path):
    content = random.Random(3).randbytes(2 * MIB) + bytes(MIB)
    path = os.path.join(shared.cloud.datastores[1].base_path, "packed here")
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(content)
    shared.cloud.images[477] = ImageRecord(
        477, "packed here", datastore_id=1, datastore="default", source=path, format="raw"
    )
    done = nebfs("refresh", shared.mount.path / "datastores/default")
    assert "datastores/default: a new list in" in done.output
    assert "1 added\n    + packed here\n" in done.output
    disk = shared.mount.path / "raw/datastores/default/packed here.raw"
    disk.stat()
    assert "all of it is here, decompressed" in nebfs("warm", disk).output
    drawn = nebfs("cache", "map", disk).stdout.splitlines()
    assert len(drawn) == 3, "the file itself is not in the cache"
    assert disk.read_bytes() == content
