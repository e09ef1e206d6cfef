"""What the window tells the kernel of a file that is open."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

from nebfs.fuse import Operations, OperationsSettings
from nebfs.model import Content, Locator, Revision, Trouble
from nebfs.tree import ContentFile
from nebfs.tree.inodes import Inodes

CONTENT = Content(Locator("http", "http://h/a"), revision=Revision(5000, '"e"'))
KEY = ("raw", "disk", None)


class Shelf:
    """A library whose readers are only opened and closed."""

    async def open(self, content, revision):
        async def aclose():
            pass

        return SimpleNamespace(size=revision.size, aclose=aclose)


async def test_what_is_open_keeps_its_length_when_its_place_goes_away():
    """The kernel took the length 0 of what cannot be asked for the end of the file."""
    inodes = Inodes()
    node = ContentFile(name="disk.raw", key=KEY, content=CONTENT, revision=CONTENT.revision)
    inodes.enter(node)
    tree = SimpleNamespace(inodes=inodes, check_allowed=lambda node: None)
    operations = Operations(tree, Shelf(), None, OperationsSettings())
    opened = [await operations.open(node.ino, os.O_RDONLY, None) for _ in range(2)]
    away = Trouble(errno.EIO, "its place does not answer")
    inodes.enter(ContentFile(name="disk.raw", key=KEY, content=CONTENT, trouble=away))
    sizes = [(await operations.getattr(node.ino, None)).st_size]
    for one in opened:
        await operations.release(one.fh)
        sizes.append((await operations.getattr(node.ino, None)).st_size)
    assert sizes == [5000, 5000, 0]
