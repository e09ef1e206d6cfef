"""Promise 9, of what is written: for its user alone, whatever the umask, and not through links."""

from __future__ import annotations

import os
import stat

import pytest

from nebfs.blocks import DiskStore
from nebfs.daemon import registry
from nebfs.errors import UserError
from nebfs.private import write_file

MIB = 1 << 20


@pytest.fixture
def no_umask():
    old = os.umask(0)
    yield
    os.umask(old)


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def prepare(cache):
    DiskStore.prepare(cache, MIB, 0).unlock()


@pytest.fixture
def victim(tmp_path):
    """A file that whoever may write to our directory would like to see overwritten."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    return victim


def test_whatever_the_umask_nobody_else_may_look_in_or_put_something_above(tmp_path, no_umask):
    prepare(tmp_path / "a/b/cache")
    registry.prepare(tmp_path / "c/d/run")
    for above in ("a", "a/b", "c", "c/d"):
        assert mode(tmp_path / above) == 0o755
    for made in (tmp_path / "a/b/cache", tmp_path / "c/d/run"):
        for path in (made, *made.rglob("*")):
            assert not mode(path) & 0o077, path


def test_a_cache_that_others_may_write_to_is_not_written_through(tmp_path, victim):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    (cache / "VERSION").symlink_to(victim)
    with pytest.raises(UserError, match="others may write to the cache directory"):
        prepare(cache)
    assert victim.read_text() == "precious"
    (cache / "VERSION").unlink()
    prepare(cache)  # with nothing in it, it is made private
    assert mode(cache) == 0o700


def test_a_directory_that_something_else_is_in_is_left_as_it_is(tmp_path, victim):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    (cache / "file").write_text("mine")
    with pytest.raises(UserError, match="neither empty nor a cache"):
        prepare(cache)
    assert mode(cache) == 0o777


def test_a_cache_of_another_user_is_refused(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    os.chown(cache, 12345, 12345)
    with pytest.raises(UserError, match="belongs to user 12345"):
        prepare(cache)
    assert list(cache.iterdir()) == []


def test_a_link_of_another_user_is_not_followed_and_our_own_is(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    link = tmp_path / "cache"
    link.symlink_to("elsewhere")
    os.chown(link, 12345, 12345, follow_symlinks=False)
    with pytest.raises(UserError, match="is a link that user 12345 made"):
        prepare(link)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    os.chown(link, 0, 0, follow_symlinks=False)
    prepare(link)
    assert mode(tmp_path / "elsewhere") == 0o700


def test_no_file_is_written_through_a_link(tmp_path, victim):
    link = tmp_path / "link"
    link.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        write_file(link, "ours")
    assert victim.read_text() == "precious"
