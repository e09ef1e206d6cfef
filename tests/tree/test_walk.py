"""From a path to a node: as the kernel walks, and not out of the mount."""

import types

import pytest

from nebfs.errors import BadAnswer, Missing, Unreachable, UserError
from nebfs.tree.hostdir import HostRoot, Spot
from nebfs.tree.nodes import Directory, Document, Link
from nebfs.tree.walk import find


class Tree:
    """Directories as dictionaries of children."""

    def __init__(self):
        self.root = Directory(name="", key="root", children={})

    def add(self, parent, node):
        node.parent = parent
        parent.children[node.name] = node
        return node

    async def lookup(self, directory, name):
        if name not in directory.children:
            raise Missing("no such entry", name=name)
        return directory.children[name]

    async def listing(self, directory):
        if directory.children is None:
            raise Unreachable("no answer")
        return list(directory.children.items())


@pytest.fixture
def tree():
    return Tree()


@pytest.fixture
def places(tree):
    one = tree.add(tree.root, Directory(name="one", key=1, children={}))
    two = tree.add(one, Directory(name="two", key=2, children={}))
    file = tree.add(two, Document(name="file", key=3, data=b""))
    return types.SimpleNamespace(one=one, two=two, file=file)


async def test_names_are_followed_from_the_root(tree, places):
    assert await find(tree, "") is tree.root
    assert await find(tree, ".") is tree.root
    assert await find(tree, "/one//./two/file") is places.file
    assert await find(tree, "one/two/../..") is tree.root
    assert await find(tree, "../../one") is places.one


async def test_links_are_relative_to_where_they_are(tree, places):
    tree.add(places.one, Link(name="down", key=4, target="two/file"))
    tree.add(places.two, Link(name="up", key=5, target="../down"))
    assert await find(tree, "one/down") is places.file
    assert await find(tree, "one/two/up") is places.file


async def test_what_is_not_there_or_leads_elsewhere(tree, places):
    tree.add(tree.root, Link(name="loop", key=6, target="loop"))
    tree.add(tree.root, Link(name="out", key=7, target="/etc/passwd"))
    with pytest.raises(Missing):
        await find(tree, "one/none")
    with pytest.raises(UserError, match="no directory"):
        await find(tree, "one/two/file/more")
    with pytest.raises(BadAnswer, match="too many links"):
        await find(tree, "loop")
    with pytest.raises(UserError, match="out of the mount"):
        await find(tree, "out")


async def test_a_name_that_is_not_there_is_told_with_what_may_have_been_meant(tree, places):
    tree.add(places.one, Directory(name="Alpine Linux 3.20", key=9, children={}))
    for path, words in [
        ("one/Alpine Linux 3.2", "no such entry: 'Alpine Linux 3.2' in one; there is 'Alpine Lin"),
        ("one/alp", "no such entry: 'alp' in one; there is 'Alpine Linux 3.20'$"),
        ("one/zzz", "no such entry: 'zzz' in one$"),
        ("on", "no such entry: 'on' at the top of the mount; there is 'one'$"),
        ("one/two/fiel/below", "no such entry: 'fiel' in two; there is 'file'$"),
    ]:
        with pytest.raises(Missing, match=words):
            await find(tree, path)


async def test_a_directory_that_cannot_be_listed_proposes_nothing(tree, places):
    async def missing(directory, name):
        raise Missing("no such entry", name=name)

    places.one.children = None
    tree.lookup = missing
    with pytest.raises(Missing, match=r"^no such entry: 'two' at the top of the mount$"):
        await find(tree, "two")


async def test_a_shared_directory_is_found_and_not_entered(tree):
    shared = tree.add(tree.root, HostRoot(name="shared", key=8, spot=Spot(("i",), "/srv")))
    assert await find(tree, "shared") is shared
    with pytest.raises(UserError, match="no image in it"):
        await find(tree, "shared/file")
