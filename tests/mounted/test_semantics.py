"""What the mount is to the kernel: read-only, exact, described."""

from __future__ import annotations

import errno
import json
import os
import stat

import pytest

pytestmark = pytest.mark.mounted

ALPINE = "Alpine Linux 3.20"


@pytest.fixture(scope="module")
def mount(shared):
    return shared.mount


@pytest.fixture(scope="module")
def cloud(shared):
    return shared.cloud


def entries(path):
    return sorted(os.listdir(path))


def test_the_tree_is_what_the_design_says(mount):
    assert entries(mount.path) == ["datastores", "marketplaces", "raw"]
    assert entries(mount.path / "raw") == ["datastores", "marketplaces"]
    assert entries(mount.path / "marketplaces") == [
        "Container Registry",
        "Docker Hub",
        "Linux Containers",
        "OpenNebula Public",
        "Private HTTP",
        "Private S3",
        "TurnKey Linux",
    ]
    assert entries(mount.path / "datastores") == ["add-on", "default", "files", "system"]
    assert entries(mount.app(ALPINE)) == sorted(
        [f"{ALPINE}.qcow2", "CHECKSUMS", "app.json", "image.tmpl", "vm.tmpl"]
    )
    assert "vmlinuz-test" in entries(mount.path / "datastores/files")


def test_hostile_names_are_there_safe_and_distinct(mount, cloud):
    apps = entries(mount.path / "marketplaces/OpenNebula Public")
    assert "%2E%2E" in apps
    assert "Slash%2Fin name" in apps
    assert '100%25 ñ"and" <b>' in apps
    images = entries(mount.path / "datastores/default")
    assert "%2E%2E.raw" in images
    assert ".hidden 50%252F50.raw" in images
    assert {"twin.raw", "twin~9.raw"} <= set(images)
    listed = [i for i in cloud.images.values() if i.datastore_id == 1]
    assert len(images) == len(listed)
    for record in cloud.apps.values():
        assert os.path.isdir(mount.path / ".nebfs/by-id/apps" / str(record.id))


def test_an_app_of_several_files_has_them_all(mount):
    files = entries(mount.app("Two Disks"))
    assert len([f for f in files if f.endswith((".qcow2", ".raw"))]) == 2


def test_the_first_bytes_decide_the_extension(mount):
    assert "Data Disk.raw.gz" in entries(mount.app("Data Disk"))
    assert "Rescue CD.iso" in entries(mount.app("Rescue CD"))
    assert "boot.iso" in entries(mount.path / "datastores/default")


def test_template_apps_link_to_what_they_name(mount):
    app = mount.app("Alpine with Data")
    assert os.readlink(app / ALPINE) == f"../{ALPINE}"
    assert (app / ALPINE / "app.json").exists()
    assert "vm.tmpl" in entries(app)
    assert "service.json" in entries(mount.app("Web Cluster"))


def test_what_has_no_bytes_is_seen_and_never_copied_by_mistake(mount, tools):
    cases = {
        mount.image("being copied.raw"): errno.EBUSY,
        mount.image("failed copy.raw"): errno.EIO,
        mount.image("add-on disk.raw", "add-on"): errno.EOPNOTSUPP,
        next(mount.app("still uploading", "Private HTTP").glob("still*")): errno.EBUSY,
        next(mount.app("failed upload", "Private HTTP").glob("failed*")): errno.EIO,
        next(mount.app("debian_jessie", "Linux Containers").glob("debian*")): errno.EIO,
    }
    for path, number in cases.items():
        facts = path.lstat()
        assert facts.st_size == 0
        assert stat.S_IMODE(facts.st_mode) == 0
        assert tools.xattr(path, "user.nebfs.trouble")
        with pytest.raises(OSError) as failure:
            path.read_bytes()
        assert failure.value.errno == number, path
    reason = tools.xattr(mount.image("add-on disk.raw", "add-on"), "user.nebfs.trouble")
    assert "no driver for datastores of type 'storpool'" in reason


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.open("r+b"),
        lambda p: p.open("ab"),
        lambda p: p.write_bytes(b"x"),
        lambda p: p.unlink(),
        lambda p: p.chmod(0o600),
        lambda p: os.chown(p, 1, 1),
        os.utime,
        lambda p: os.truncate(p, 0),
        lambda p: p.rename(p.with_name("other")),
        lambda p: (p.parent / "new").write_bytes(b""),
        lambda p: (p.parent / "dir").mkdir(),
        lambda p: (p.parent / "link").symlink_to("x"),
        lambda p: os.link(p, p.parent / "hard"),
        lambda p: os.setxattr(p, "user.x", b"1"),
        lambda p: os.removexattr(p, "user.one.ID"),
    ],
)
def test_every_change_is_refused_as_on_any_read_only_mount(mount, change):
    path = mount.image("tiny raw.raw")
    with pytest.raises(OSError) as failure:
        change(path)
    assert failure.value.errno == errno.EROFS


def test_reads_are_exact_at_any_offset_and_length(mount, cloud):
    path = mount.app("Debian 12") / "Debian 12.raw"
    original = next(p for u, p in cloud.published.items() if u.endswith("debian-12.raw"))
    size = original.stat().st_size
    direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
    plain = os.open(path, os.O_RDONLY)
    with open(original, "rb") as file:
        for offset, length in [
            (0, 1),
            (1, 1),
            (4095, 2),
            (size - 1, 1),
            (size - 1, 10),
            (size, 10),
            (size + 5000, 10),
            (131071, 131074),
            (3 << 20, 5 << 20),
        ]:
            file.seek(offset)
            expected = file.read(length)
            assert os.pread(plain, length, offset) == expected
            assert os.pread(direct, length, offset) == expected
    os.close(direct)
    os.close(plain)


def test_blocks_are_never_zero_for_a_file_with_bytes(mount):
    for top, _, files in os.walk(mount.path):
        for name in files:
            facts = os.lstat(os.path.join(top, name))
            assert bool(facts.st_blocks) == bool(facts.st_size), name


def test_a_sparse_file_shows_what_it_takes_where_it_is(mount, cloud):
    facts = mount.image("big sparse.raw").stat()
    assert facts.st_size == 4 << 30
    assert facts.st_blocks * 512 < 1 << 30


def test_attributes_tell_what_opennebula_knows(mount, tools):
    app = mount.app(ALPINE)
    assert tools.xattr(app, "user.one.NAME") == ALPINE
    assert tools.xattr(app, "user.one.MARKETPLACE") == "OpenNebula Public"
    image = mount.image("ttylinux.qcow2")
    assert tools.xattr(image, "user.one.DATASTORE") == "default"
    dump = tools.run("getfattr", "-d", image).stdout
    assert 'user.one.STATE="READY"' in dump
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(image, "user.one.NOTHING")
    with pytest.raises(OSError, match="Operation not supported"):
        os.getxattr(image, "security.selinux")


def test_cached_and_verified_are_shown_while_open(mount, tools):
    path = mount.app(ALPINE) / f"{ALPINE}.qcow2"
    with path.open("rb") as file:
        file.read(10)
        # The bytes may be answered a moment before their block is written.
        tools.wait_until(lambda: int(tools.xattr(path, "user.nebfs.cached")) > 0)
        assert tools.xattr(path, "user.nebfs.verified") == "no"
        file.read()
        assert tools.xattr(path, "user.nebfs.verified") == "yes"


def test_statfs_answers_with_the_datastores_capacity(mount):
    facts = os.statvfs(mount.path)
    assert facts.f_blocks * facts.f_frsize == 3 * 258020 << 20
    assert facts.f_namemax == 255
    assert facts.f_flag & os.ST_RDONLY


def test_df_answers_for_the_datastore_that_it_is_asked_about(mount, tools):
    for name in ("default", "default/*"):
        (path, *_) = sorted((mount.path / "datastores").glob(name))
        size, free = tools.run("df", "-B1", "--output=size,avail", path).stdout.split()[-2:]
        assert int(size) == 258020 << 20
        assert 0 < int(free) < int(size)


def test_status_is_hidden_and_true(mount):
    facts = mount.status()
    assert facts["pid"] == mount.pid
    assert {p["name"] for p in facts["places"]} >= {"default", "Private HTTP"}
    assert facts["cache"]["limit"] == 10 << 30
    json.dumps(facts)


def test_the_mount_is_a_nebfs_read_only(mount):
    with open("/proc/mounts") as table:
        line = next(x for x in table if f" {mount.path} " in x)
    assert " fuse.nebfs ro" in line
    if os.geteuid() == 0:
        device = os.stat(mount.path).st_dev
        name = f"{os.major(device)}:{os.minor(device)}"
        with open(f"/sys/class/bdi/{name}/read_ahead_kb") as file:
            assert int(file.read()) >= 1024


def test_app_json_holds_the_definition_and_no_secret(make_mount, cloud_root, tools):
    from nebfs.demo.demonstration import demonstration_cloud
    from nebfs.demo.server import serve

    cloud = demonstration_cloud(cloud_root)
    with serve(cloud) as servers:
        look_for_secrets(make_mount, servers, cloud, tools)


def look_for_secrets(make_mount, servers, cloud, tools):
    from nebfs.model import Template

    app = cloud.apps[20]
    app.template = Template((*app.template.items, ("ADMIN_PASSWORD", "canary-in-app")))
    market = cloud.marketplaces[100]
    market.template = Template(
        (*market.template.items, ("SECRET_ACCESS_KEY", "canary-in-market"), ("BUCKET", "b"))
    )
    mount = make_mount(servers.frontend_url)
    mount.start()
    text = (mount.path / ".nebfs/by-id/apps/20/app.json").read_text()
    assert json.loads(text)["name"] == "tiny raw app"
    seen = tools.everything_shown(mount.path)
    assert "user.one.TEMPLATE.BUCKET" in seen
    assert "canary" not in seen
    assert "oneadmin:opennebula" not in seen


def test_a_mount_point_with_any_name(make_mount, cloud_root, home):
    from nebfs.demo.demonstration import demonstration_cloud
    from nebfs.demo.server import serve

    with serve(demonstration_cloud(cloud_root)) as servers:
        mount = make_mount(servers.frontend_url)
        mount.path.rmdir()
        odd = mount.path.with_name("日本 \\ é\n#")
        odd.mkdir()
        mount.argv[mount.argv.index(mount.path)] = odd
        mount.path = odd
        mount.start()
        assert os.listdir(odd)
        if os.geteuid() == 0:
            assert "read_ahead_kb=1024" in mount.log
        mount.stop()
