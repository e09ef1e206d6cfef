"""The commands that see and steer a running daemon, on one mount of the demonstration cloud."""

import hashlib
import json
import os

import pytest

pytestmark = pytest.mark.mounted

ALPINE = ("OpenNebula Public", "Alpine Linux 3.20", "Alpine Linux 3.20.qcow2")


@pytest.fixture
def alpine(shared):
    market, app, name = ALPINE
    return shared.mount.app(app, market) / name


def test_explain_tells_of_an_image_that_is_open_and_of_one_that_is_not(nebfs, tools, alpine):
    said = json.loads(nebfs("explain", "--json", alpine).stdout)
    (file,) = said["files"]
    assert (said["format"], said["open_files"], file["layers"]) == ("qcow2", 0, [])
    assert said["size"] == file["size"] == alpine.stat().st_size
    assert (said["cached"], said["verified"]) == (0, "no")
    with open(alpine, "rb") as opened:
        os.pread(opened.fileno(), 100, 3 << 20)
        # It may have been answered before its block was complete.
        tools.wait_until(lambda: int(tools.xattr(alpine, "user.nebfs.cached")) >= 128 << 10)
        said = json.loads(nebfs("explain", "--json", alpine).stdout)
        (file,) = said["files"]
        assert said["open_files"] == 1
        assert said["cached"] >= 128 << 10
        counted = {layer["name"]: layer["counted"] for layer in file["layers"]}
        assert list(counted) == ["checksum", "cache", "retry", "turns", "version", "place"]
        assert counted["cache"]["waits"] >= 1
        assert counted["place"]["requests"] >= 1
        assert counted["place"]["bytes"] >= 128 << 10
        assert counted["cache"]["here"] == said["cached"]
        text = nebfs("explain", alpine).stdout
        assert "layers, from the top down" in text
        assert f"requests {counted['place']['requests']}" in text
    said = json.loads(nebfs("explain", "--json", alpine).stdout)
    assert said["open_files"] == 0
    assert said["cached"] >= 128 << 10, "what rests in the cache is known without opening it"


def test_explain_of_views_of_what_is_here_and_of_what_is_no_image(shared, nebfs, alpine):
    raw = shared.mount.path / "raw/datastores/default/tiny raw.raw"
    assert "read where it is" in nebfs("explain", raw).stdout
    view = shared.mount.path / "raw/marketplaces/Private S3/stored qcow2/stored qcow2.raw"
    os.stat(view)
    said = json.loads(nebfs("explain", "--json", view).stdout)
    assert (said["view"], said["format"]) == ("raw", "raw")
    assert said["files"][0]["format"] == "qcow2"
    assert said["files"][0]["size"] < said["size"]
    assert "is a directory: name an image" in nebfs("explain", alpine.parent, code=1).output
    assert "or say -r for all of them" in nebfs("warm", alpine.parent, code=1).output
    assert "no such entry" in nebfs("explain", alpine.parent / "nothing", code=1).output
    assert "not in a mount of nebfs" in nebfs("explain", "/etc/passwd", code=3).output


def test_warm_brings_all_of_an_image_once(shared, nebfs, alpine):
    done = nebfs("warm", alpine)
    assert "1 image, 6.62 MiB" in done.output
    assert "all of it is here and is what was published" in done.output
    said = json.loads(nebfs("explain", "--json", alpine).stdout)
    assert (said["cached"], said["verified"]) == (said["size"], "yes")
    before = shared.mount.status()["fetcher"]
    assert "all of it here already" in nebfs("warm", alpine).output
    assert shared.mount.status()["fetcher"] == before


def test_warm_takes_directories_with_r_and_tells_what_it_leaves_out(shared, nebfs, alpine):
    assert "is a directory" in nebfs("warm", alpine.parent, code=1).output
    lines = nebfs("warm", "-r", "--json", "--rate", "100M", alpine.parent).stdout.splitlines()
    plan, *_, end = map(json.loads, lines)
    assert (plan["event"], plan["images"], plan["left_out"]) == ("plan", 1, [])
    assert (end["event"], end["images"], end["failed"]) == ("end", 1, 0)
    local = shared.mount.image("tiny raw.raw")
    assert "read where it is" in nebfs("warm", local).output
    assert "not a size" in nebfs("warm", "--rate", "fast", alpine, code=2).output


def test_the_cache_is_listed_drawn_and_measured(shared, nebfs, alpine):
    nebfs("warm", alpine)
    (one,) = json.loads(nebfs("cache", "usage", "--json").stdout)
    assert 0 < one["used"] <= one["limit"]
    listed = json.loads(nebfs("cache", "list", shared.mount.path, "--json").stdout)
    assert len(listed) == one["objects"]
    own = next(o for o in listed if o["size"] == alpine.stat().st_size)
    assert (own["cached"], own["verified"], own["open"]) == (own["size"], "yes", False)
    offline = json.loads(nebfs("cache", "list", "--cache-dir", shared.mount.cache, "--json").stdout)
    assert {o["key"] for o in offline} == {o["key"] for o in listed}
    assert own["key"][:12] in nebfs("cache", "list").stdout
    assert "whole" in nebfs("cache", "usage", "--cache-dir", shared.mount.cache).stdout
    drawn = nebfs("cache", "map", alpine).stdout
    assert f"▕{'█' * 78}▏" in drawn
    assert "100 %" in drawn
    said = json.loads(nebfs("cache", "map", "--json", alpine).stdout)
    assert said["files"][0]["ranges"] == [[0, own["size"]]]
    assert "no cache directory" in nebfs("cache", "list", "--cache-dir", "/etc", code=1).output


def test_cache_drop_spares_what_is_open_and_takes_the_kernels_pages_too(
    shared, nebfs, tools, alpine
):
    nebfs("warm", alpine)
    right = alpine.read_bytes()
    with open(alpine, "rb") as opened:
        done = nebfs("cache", "drop", alpine, code=1)
        assert "it is open; --force" in done.output
        assert "1 object dropped" in nebfs("cache", "drop", "--force", alpine).output
        before = shared.mount.status()["reads"]["reads"]
        assert opened.read() == right
        assert shared.mount.status()["reads"]["reads"] > before, "the kernel answered by itself"
    tools.wait_until(lambda: not shared.mount.status()["open_objects"])
    assert "1 object dropped, 6." in nebfs("cache", "drop", alpine).output
    said = json.loads(nebfs("cache", "map", "--json", alpine).stdout)
    assert (said["files"][0]["cached"], said["files"][0]["ranges"]) == (0, [])
    assert "name a PATH" in nebfs("cache", "drop", code=2).output
    nebfs("warm", alpine)
    assert "made free" in nebfs("cache", "drop", "--all").output
    assert json.loads(nebfs("cache", "list", "--json").stdout) == []


def test_cache_check_takes_out_rot(shared, nebfs, alpine):
    nebfs("warm", alpine)
    assert "all of it is right" in nebfs("cache", "check", shared.mount.path).output
    right = alpine.read_bytes()
    data = max(shared.mount.cache.glob("objects/*/*.dat"), key=lambda p: p.stat().st_size)
    with data.open("r+b") as file:
        file.seek(300_000)
        file.write(bytes([right[300_000] ^ 1]))
    lines = nebfs("cache", "check", "--json", code=1).stdout.splitlines()
    rot = [one for one in map(json.loads, lines) if one["event"] == "rot"]
    assert [one["blocks"] for one in rot] == [1]
    assert "all of it is right" in nebfs("cache", "check").output
    assert alpine.read_bytes() == right


def test_refresh_tells_of_the_place_that_is_named(shared, nebfs, alpine):
    (said,) = json.loads(nebfs("refresh", "--json", alpine).stdout)
    assert said["refreshed"] is True
    assert [(p["kind"], p["name"]) for p in said["places"]] == [("marketplace", ALPINE[0])]
    assert said["places"][0]["age"] < 30
    assert "a new list in" in nebfs("refresh", shared.mount.image("x").parent).stdout
    everything = shared.mount.status()["places"]
    code = 0 if all(place["healthy"] for place in everything) else 4
    (said,) = json.loads(nebfs("refresh", "--json", shared.mount.path, code=code).stdout)
    assert len(said["places"]) == len(everything)


def test_verify_reads_all_of_it_and_compares(shared, nebfs, alpine):
    nebfs("cache", "drop", "--all")
    assert "it is what was published (sha256 " in nebfs("verify", alpine).output
    said = json.loads(nebfs("explain", "--json", alpine).stdout)
    assert (said["cached"], said["verified"]) == (said["size"], "yes")
    local = shared.mount.image("twin.raw")
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    assert f"{digest}  {local}\n" in nebfs("verify", local).output
    view = shared.mount.path / "raw/marketplaces/Private S3/stored qcow2/stored qcow2.raw"
    digest = hashlib.sha256(view.read_bytes()).hexdigest()
    said = json.loads(nebfs("verify", "--json", view).stdout)
    assert (said["found"], said["same"]) == (digest, None)
    assert "is a directory" in nebfs("verify", alpine.parent, code=2).output


def test_verify_finds_an_image_that_is_not_what_was_published(shared, nebfs, alpine):
    nebfs("cache", "drop", "--all")
    url = next(url for url in shared.cloud.published if url.endswith("alpine.qcow2"))
    switches = shared.servers.files.switches(url)
    switches.corrupt_at = 100_000
    try:
        done = nebfs("verify", alpine, code=1)
    finally:
        switches.corrupt_at = None
    assert "it DIFFERS from what was published" in done.output
    said = json.loads(nebfs("explain", "--json", alpine).stdout)
    assert (said["cached"], said["verified"]) == (0, "mismatch"), "it was left in the cache"
    assert "it is what was published" in nebfs("verify", alpine).output


def test_pins_are_made_listed_and_taken_back(shared, nebfs, alpine):
    nebfs("cache", "drop", "--all")
    size = alpine.stat().st_size
    done = nebfs("pin", "--warm", alpine)
    assert "pinned, 0 B of 6.62 MiB is here" in done.output
    assert "all of it is here" in done.output
    (listed,) = [json.loads(line) for line in nebfs("pin", "--json").stdout.splitlines()]
    assert [pin["size"] for pin in listed["pins"]] == [size]
    for place in ([], ["--cache-dir", shared.mount.cache]):
        objects = json.loads(nebfs("cache", "list", "--json", *place).stdout)
        assert [o["size"] for o in objects if o["pinned"]] == [size]
    assert "it is pinned; --force" in nebfs("cache", "drop", "--all", code=1).output
    assert "pinned   6." in nebfs("cache", "usage").output
    assert "not pinned any more" in nebfs("unpin", alpine).output
    assert "nothing of that was pinned" in nebfs("unpin", alpine, code=1).output
    assert "1 object dropped" in nebfs("cache", "drop", "--all").output
    assert "read where it is" in nebfs("pin", shared.mount.image("twin.raw"), code=1).output


def test_warm_goes_on_with_the_next_image_after_one_that_fails(shared, nebfs, alpine):
    nebfs("cache", "drop", "--all")
    other = next((shared.mount.path / "marketplaces/Private S3/stored qcow2").glob("*.qcow2"))
    url = next(url for url in shared.cloud.published if url.endswith("alpine.qcow2"))
    shared.servers.files.switches(url).corrupt_at = 100_000
    try:
        done = nebfs("warm", alpine, other, code=1)
    finally:
        shared.servers.files.switches(url).corrupt_at = None
    assert "differ from the published sha256" in done.output
    assert f"{other.name}: all of it is here" in done.output
    nebfs("verify", alpine)
