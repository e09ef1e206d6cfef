"""Permissions of OpenNebula as owner, group and mode: what each class of the kernel's may do."""

import pytest

from nebfs.catalog.snapshot import CloudSnapshot, DatastoreListing
from nebfs.model import Datastore, Holding, Image, Permissions
from nebfs.tree.rights import Rights, Shown, key_of

ME = (1000, 1001)


def snapshot(*images):
    listing = DatastoreListing(Datastore(1, "d"), tuple(Holding(image) for image in images))
    return CloudSnapshot("http://h", 1.0, datastores=(listing,))


def image(bits, uname="alice", gname="research", number=7):
    owner, group, other = (int(digit) for digit in bits)
    permissions = Permissions(owner, group, other)
    return Image(number, "x", uname=uname, gname=gname, permissions=permissions)


@pytest.mark.parametrize(
    ("bits", "uname", "gname", "uid", "gid", "mask"),
    [
        ("600", "alice", "research", 50, 60, 0o700),
        ("640", "alice", "research", 50, 60, 0o770),
        ("644", "alice", "research", 50, 60, 0o777),
        # Of USE, MANAGE and ADMIN only USE lets anybody read.
        ("733", "alice", "research", 50, 60, 0o700),
        ("300", "alice", "research", 50, 60, 0o000),
        # Others may, and owner and group are others, too.
        ("004", "alice", "research", 50, 60, 0o777),
        ("040", "alice", "research", 50, 60, 0o070),
        # Nobody here: who mounts stands in as owner, and nobody for the group.
        ("640", "bob", "research", 1000, 60, 0o770),
        ("240", "bob", "research", 1000, 60, 0o770),
        ("640", "alice", "users", 50, 1001, 0o700),
        ("640", "bob", "users", 1000, 1001, 0o700),
        ("644", "bob", "users", 1000, 1001, 0o777),
    ],
)
def test_each_class_gets_what_opennebula_gives_it(bits, uname, gname, uid, gid, mask):
    rights = Rights({"alice": 50}, {"research": 60}, ME)
    item = image(bits, uname, gname)
    rights.take(snapshot(item))
    assert rights._shown[key_of(item)] == Shown(uid, gid, mask)


def test_what_has_changed_is_told_once():
    rights = Rights({"alice": 50}, {"research": 60}, ME)
    key, other = key_of(image("600")), key_of(image("600", number=8))
    assert rights.take(snapshot(image("600"), image("644", number=8))) == {key, other}
    assert rights.take(snapshot(image("600"), image("644", number=8))) == frozenset()
    assert rights.take(snapshot(image("640"), image("644", number=8))) == {key}
    assert rights.take(snapshot(image("640"))) == {other}, "what is gone is nobody's"
