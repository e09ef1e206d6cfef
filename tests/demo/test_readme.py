"""README.md and its picture: what they show of the tour is what somebody who takes it sees."""

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from scripts.touring import cast, page
from scripts.touring.__main__ import PICTURE, README, ROOT, differences, take
from scripts.touring.steps import STEPS

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def seen(cloud_root, tmp_path_factory):
    return take(cloud_root, tmp_path_factory.mktemp("home"))


@pytest.mark.mounted
def test_the_tour_can_be_taken_and_the_readme_shows_what_is_seen(seen):
    found = differences(README.read_text(), seen)
    assert not found, "\n".join(found)


@pytest.mark.mounted
def test_what_is_seen_makes_a_picture_like_that_of_the_readme(seen):
    made, kept = (
        [len(list(group)) for group in frames(text)]
        for text in (drawn(list(seen.values())), PICTURE.read_text())
    )
    assert len(made) == len(kept)


def drawn(pages):
    return cast.cast([step.title for step in STEPS], pages)


def frames(text):
    return [group for group in ET.fromstring(text).iter(f"{SVG}g") if group.get("class") == "frame"]


def test_the_picture_is_small_moves_and_asks_for_nothing_from_elsewhere():
    text = PICTURE.read_text()
    assert len(text) < 150_000
    assert re.findall(r"href|url\(|@import|src=|<image|<script|<foreignObject", text) == []
    assert "@keyframes" in text
    assert "prefers-reduced-motion" in text
    shown = ["".join(group.itertext()).strip() for group in frames(text)]
    for step in STEPS:
        for command in step.commands:
            assert f"$ {command}" in shown
    titles = ET.fromstring(text).iter(f"{SVG}text")
    assert [one.text for one in titles if "title" in one.get("class")] == [s.title for s in STEPS]


def test_each_page_of_the_picture_is_seen_after_the_one_before():
    text = drawn([[("true", "")], [("false", "no\n")], *([[("x", "y\n")]] * (len(STEPS) - 2))])
    moments = [
        (float(found[1]), float(found[2] or 100))
        for found in re.finditer(
            r"@keyframes t\d+\{.*?([\d.]+)%\{visibility:visible\}(?:([\d.]+)%)?", text
        )
    ]
    assert moments[0][0] == 0
    assert moments[-1][1] == 100
    assert all(a[1] == b[0] for a, b in itertools.pairwise(moments))


def test_a_block_is_compared_without_what_changes():
    one = "$ ls\ncached  10.6 MiB of 64.0 MiB\n/tmp/nebfs-demo-x1/mnt  12345  3 s\n"
    other = "$ ls\ncached 9 MiB of 64.0 MiB\n/tmp/nebfs-demo-y2z/mnt   7  1 min\n"
    assert list(page.shape(one)) == list(page.shape(other))
    assert list(page.shape(one)) != list(page.shape(other.replace("cached", "kept")))
    assert list(page.shape(one)) != list(page.shape(other.replace("$ ls", "$ ls -l")))


def test_the_first_screen_says_what_it_is_and_the_two_commands():
    first = README.read_text().splitlines()[:40]
    assert all(len(line) <= 101 for line in first)
    assert [line.split()[0] for line in first if line.startswith("scripts/")] == [
        "scripts/demo",
        "scripts/test",
    ]


def test_every_page_is_in_the_index_and_every_link_leads_somewhere():
    text = README.read_text()
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert sorted(set(re.findall(r"^\| \[docs/(\S+\.md)\]", text, re.MULTILINE))) == pages
    for file in (README, *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text()):
            if "://" not in target:
                assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_the_readmes_settings_are_settings():
    from nebfs.config import Settings

    table = README.read_text().split("## Settings")[1].split("\n## ")[0]
    names = re.findall(r"^\| `([\w.\[\]]+)` \|", table, re.MULTILINE)
    assert 8 <= len(names) <= 12
    assert {name for name in names if "[" not in name} <= set(Settings.model_fields)
    assert Path(ROOT / "docs/configuration.md").exists()
