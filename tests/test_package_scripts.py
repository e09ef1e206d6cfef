"""What scripts/package puts together, without the long part: making the environment."""

import gzip
import hashlib
import re
import subprocess
from pathlib import Path

import pytest

import nebfs
from nebfs.cli.main import nebfs_command
from scripts.packaging import debian, environment, lintian, listing, pages, roff
from scripts.packaging.newer import newer

MOMENT = 1_700_000_000


@pytest.fixture(scope="module")
def written():
    return pages.pages("2026-01-02")


@pytest.fixture
def stage(tmp_path):
    """A package's tree whose environment is one program and one module."""
    home = tmp_path / "stage/usr/lib/nebfs"
    packages = home / "lib/python3.11/site-packages"
    for directory in (home / "bin", packages / "numpy/tests", packages / "nebfs-1.dist-info"):
        directory.mkdir(parents=True)
    for name in ("nebfs", "mount.nebfs", "f2py"):
        (home / "bin" / name).write_text(f"#!{home}/bin/python\nprint()\n")
    (home / "bin/python").symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text(f"home = /usr/bin\ncommand = python3 -m venv {home}\n")
    (packages / "module.py").write_text("def where(): pass\n")
    origin = f'{{"url": "file://{tmp_path}/nebfs.whl"}}'
    (packages / "nebfs-1.dist-info/direct_url.json").write_text(origin)
    record = "module.py,,\nnebfs-1.dist-info/direct_url.json,sha256=x,9\n"
    (packages / "nebfs-1.dist-info/RECORD").write_text(record)
    return tmp_path / "stage"


def test_every_command_has_a_page(written):
    names = {f"nebfs-{name}.1" for name in nebfs_command.commands}
    assert set(written) == {"nebfs.1", "mount.nebfs.8", "nebfs.toml.5"} | names


def test_the_pages_say_what_the_commands_say(written):
    assert ".TP\n\\fB\\-\\-cache\\-size SIZE\\fR" in written["nebfs-mount.1"]
    assert '.SS "nebfs cache drop"' in written["nebfs-cache.1"]
    assert "77   the front\\-end refused the credentials" in written["nebfs.1"]
    assert '.TP\n\\fBcache_size = "10G"\\fR' in written["nebfs.toml.5"]
    assert '.SS "[datastores.paths]"' in written["nebfs.toml.5"]


def test_every_page_begins_as_man_wants_it(written):
    for name, page in written.items():
        title, section, line = page.splitlines()[:3]
        stem, _, number = name.rpartition(".")
        assert title.startswith(f".TH {roff.quoted(stem.upper())} {number} 2026-01-02 ")
        assert section == '.SH "NAME"'
        assert line.startswith(f"{roff.text(stem)} \\- ")


def test_no_page_has_what_man_would_pass_over(written):
    for name, page in written.items():
        assert not re.search(r"^\.S[HS] .*\n\.PP$", page, re.MULTILINE), name
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", page), name


def test_who_answers_for_the_package():
    assert debian.maintainer({}) == "nebfs maintainers <nebfs@localhost>"
    said = {"DEBEMAIL": "Ada L <ada@example.org>", "EMAIL": "other@example.org"}
    assert debian.maintainer(said) == "Ada L <ada@example.org>"
    assert debian.maintainer(said | {"DEBFULLNAME": "Ada"}) == "Ada <ada@example.org>"
    assert debian.maintainer({"EMAIL": "a@example.org"}) == "nebfs maintainers <a@example.org>"


def test_a_newer_package_is_the_same_but_for_its_version(stage, tmp_path):
    environment.settle(stage)
    debian.lay_out(stage, MOMENT, lambda shell: f"words for {shell}\n")
    package = debian.pack(stage, tmp_path, MOMENT)
    newer(package, tmp_path / "newer.deb")
    asked = ["dpkg-deb", "--field", tmp_path / "newer.deb"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert f"Version: {nebfs.__version__}+next\n" in done.stdout
    compared = ["dpkg", "--compare-versions", f"{nebfs.__version__}+next", "gt", nebfs.__version__]
    subprocess.run(compared, check=True)


def test_what_roff_takes_for_its_own_is_escaped():
    assert roff.text(".so x\n'b\\c -o") == "\\&.so x\n\\&'b\\ec \\-o"


def test_the_environment_says_nowhere_where_it_was_built(stage, tmp_path):
    assert [*environment.traces(stage, str(tmp_path))]
    environment.settle(stage)
    assert [*environment.traces(stage, str(tmp_path))] == []
    home = stage / "usr/lib/nebfs"
    assert (home / "bin/nebfs").read_text().startswith("#!/usr/lib/nebfs/bin/python\n")
    assert sorted(path.name for path in (home / "bin").iterdir()) == [
        "mount.nebfs",
        "nebfs",
        "python",
    ]
    packages = home / "lib/python3.11/site-packages"
    assert [*packages.glob("__pycache__/module.*.pyc")]
    assert (home / "bin/python").readlink() == Path("../../../bin/python3")
    assert not (packages / "numpy/tests").exists()
    assert (packages / "nebfs-1.dist-info/RECORD").read_text() == "module.py,,\n"


def test_a_package_that_dpkg_reads(stage, tmp_path):
    environment.settle(stage)
    debian.lay_out(stage, MOMENT, lambda shell: f"words for {shell}\n")
    package = debian.pack(stage, tmp_path, MOMENT)

    def ask(*words):
        done = subprocess.run(["dpkg-deb", *words], capture_output=True, text=True, check=True)
        return done.stdout

    depends = ask("--field", package, "Depends").strip()
    assert depends == "python3 (>= 3.11), python3 (<< 3.12), fuse3, libfuse3-3"
    lines = ask("--contents", package).splitlines()
    assert lines[0].split()[:2] == ["drwxr-xr-x", "root/root"]
    names = {line.split()[5].removeprefix("./") for line in lines}
    assert names > {
        "etc/nebfs/",
        "usr/bin/nebfs",
        "usr/sbin/mount.nebfs",
        "usr/lib/systemd/system/nebfs@.service",
        "usr/share/bash-completion/completions/nebfs",
        "usr/share/doc/nebfs/changelog.gz",
        "usr/share/lintian/overrides/nebfs",
        "usr/share/doc/nebfs/copyright",
        "usr/share/doc/nebfs/example.toml",
        "usr/share/doc/nebfs/service.md",
        "usr/share/man/man1/nebfs-mount.1.gz",
        "usr/share/man/man5/nebfs.toml.5.gz",
        "usr/share/man/man8/mount.nebfs.8.gz",
    }
    assert (stage / "usr/bin/nebfs").resolve() == stage / "usr/lib/nebfs/bin/nebfs"
    assert (stage / "usr/sbin/mount.fuse.nebfs").resolve().name == "mount.nebfs"
    sums = ask("--info", package, "md5sums").splitlines()
    assert len(sums) == len([line for line in lines if line.startswith("-")])
    for line in sums:
        digest, _, name = line.partition("  ")
        assert hashlib.md5((stage / name).read_bytes()).hexdigest() == digest
    page = gzip.decompress((stage / "usr/share/man/man1/nebfs.1.gz").read_bytes())
    assert b".TH" in page


@pytest.mark.parametrize("name", debian.SCRIPTS)
def test_the_maintainers_scripts_are_shell(name, tmp_path):
    (tmp_path / name).write_text(debian.SCRIPTS[name])
    subprocess.run(["sh", "-n", tmp_path / name], check=True)


def test_what_stayed_is_told_and_the_books_of_apt_are_not(tmp_path):
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    before = listing.listing(tmp_path)
    (tmp_path / "var/lib/dpkg/status").touch()
    (tmp_path / "var/cache/nebfs").mkdir(parents=True)
    (tmp_path / "var/cache/nebfs/block").touch()
    after = listing.listing(tmp_path)
    assert listing.appeared(before, after) == [
        "var/cache",
        "var/cache/nebfs",
        "var/cache/nebfs/block",
    ]


def test_lintian_is_told_each_reason_with_what_it_excuses():
    lines = lintian.overrides().splitlines()
    assert lines[0].startswith("# ")
    for line in lines:
        assert re.fullmatch(r"# \S.*\.|nebfs: [a-z-]+( \S.*)?", line), line


@pytest.mark.parametrize(("code", "told"), [(0, "nothing to say"), (2, "E: nebfs: something")])
def test_what_lintian_says_ends_the_check(code, told, tmp_path, monkeypatch, capsys):
    (tmp_path / "lintian").write_text(f"#!/bin/sh\necho 'E: nebfs: something'\nexit {code}\n")
    (tmp_path / "lintian").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if code:
        with pytest.raises(SystemExit, match=told):
            lintian.ask(tmp_path / "a.deb")
    else:
        lintian.ask(tmp_path / "a.deb")
        assert told in capsys.readouterr().out


def test_the_package_needs_the_c_library_that_its_modules_need(stage):
    packages = stage / "usr/lib/nebfs/lib/python3.11/site-packages"
    assert environment.needed_libc(stage) == ""
    (packages / "one.so").write_bytes(b"\x7fELF..\0GLIBC_2.17\0\0GLIBC_2.2.5\0")
    (packages / "two.so.1").write_bytes(b"\x7fELF..\0GLIBC_2.34\0")
    assert environment.needed_libc(stage) == "2.34"
    assert "libfuse3-3, libc6 (>= 2.34)\n" in debian.control(stage, "amd64", 11)
