"""Raw views: what is asked of the files behind them, and when they have another version."""

from __future__ import annotations

import os
import struct
from dataclasses import replace

import pytest
import trio

from nebfs.content import Prober, views
from nebfs.content.layers.inplace import revision_of
from nebfs.errors import BadAnswer, Changed, Missing
from nebfs.model import Content, Locator

SIZE = 5 << 20


def head(size=SIZE):
    """The first bytes of a qcow2 image, as far as its length is in them."""
    return struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, size).ljust(2000, b"\0")


class Nothing:
    """No documents are kept."""

    async def load(self, name):
        return None

    async def save(self, name, data):
        pass


@pytest.fixture
def prober(place):
    return Prober(place, Nothing(), now=trio.current_time)


@pytest.fixture
def file(tmp_path):
    """A content of a file on this machine."""

    def file(name, data, *, over=None, view="raw"):
        path = tmp_path / name
        path.write_bytes(data)
        revision = revision_of(os.stat(path))
        locator = Locator("file", str(path))
        return Content(locator, format="qcow2", revision=revision, view=view, backing=over)

    return file


async def test_a_view_is_as_long_as_the_disk_in_the_topmost_file(prober, file):
    base = file("base", b"raw bytes", view="")
    probed = await prober.ask(file("top", head(), over=file("middle", head(7), over=base)))
    assert (probed.revision.size, probed.format.extension) == (SIZE, "raw")


async def test_a_view_without_a_disk_in_it_is_none(prober, file):
    with pytest.raises(BadAnswer, match="raw file is where a qcow2 image was expected"):
        await prober.ask(file("top", b"not a qcow2 image"))


async def test_a_raw_file_in_the_middle_of_a_chain_is_refused(prober, file):
    middle = file("middle", b"raw", over=file("base", head()))
    with pytest.raises(BadAnswer, match="layer=1"):
        await prober.ask(file("top", head(), over=middle))


async def test_another_version_of_any_file_is_another_version_of_the_view(prober, file):
    base = replace(file("base", head()), revision=None)
    top = replace(file("top", head(), over=base), revision=None)
    before = await prober.ask(top)
    assert (await prober.ask(top)).revision == before.revision
    file("base", head() + b"more")
    after = await prober.ask(top)
    assert before.revision.differs_from(after.revision)
    assert prober.known(top).revision == after.revision


@pytest.mark.parametrize("changed", ["top", "base"])
async def test_a_chain_of_other_versions_than_were_listed_is_none(prober, file, changed):
    base = file("base", head())
    top = file("top", head(), over=base)
    await prober.ask(top)
    # As after a revert: what is on top may build on something else now.
    file(changed, head() + b"more")
    with pytest.raises(Changed, match="since it was listed"):
        await prober.ask(top)
    assert prober.known(top) is None


async def test_a_view_is_known_when_all_of_its_files_are(prober, file):
    base = file("base", head())
    top = file("top", head(), over=base)
    assert prober.known(top) is None
    await prober.ask(replace(top, view="", backing=None))
    assert prober.known(top) is None
    await prober.ask(replace(base, view=""))
    assert prober.known(top).revision.size == SIZE
    prober.forget(top)
    assert prober.known(top) is None


async def test_a_missing_file_of_the_chain_is_said(prober, file, tmp_path):
    top = file("top", head(), over=file("base", head()))
    (tmp_path / "base").unlink()
    with pytest.raises(Missing):
        await prober.ask(top)


async def test_a_file_elsewhere_is_asked_once(prober, place, file):
    place.data = head()
    far = Content(Locator("http", "http://host/base"), view="raw")
    top = file("top", head(9), over=far)
    assert (await prober.ask(top)).revision.size == 9
    await prober.ask(top)
    assert len(place.log) == 1


def test_a_chain_without_an_end_is_refused():
    content = Content(Locator("file", "/x"))
    for _ in range(views.DEEPEST + 1):
        content = replace(content, backing=content)
    with pytest.raises(BadAnswer, match="too long"):
        views.files(content)


def test_what_lies_beneath_is_part_of_the_identity():
    base = Content(Locator("file", "/base"))
    top = Content(Locator("file", "/top"))
    seen = {
        content.identity
        for content in (
            top,
            replace(top, view="raw"),
            replace(top, view="raw", backing=base),
            replace(top, view="raw", backing=replace(base, version="2")),
        )
    }
    assert len(seen) == 4
