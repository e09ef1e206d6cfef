"""What a chain of files is to a reader: the image's content now, and what it was at each snapshot.

Reverting and flattening change the content behind OpenNebula's back: MODTIME stays, and where time
has only whole seconds, the files may seem unchanged. So what OpenNebula says about the snapshots
is part of the version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

from nebfs.datastores.chains import Files
from nebfs.datastores.entries import Entry
from nebfs.datastores.state import snapshot_part
from nebfs.errors import NebfsError
from nebfs.model import Content, Image, ImageType, Locator, Part, Revision, Trouble

Locate = Callable[[str], Locator]
"""Path of a file without links in it -> where that is."""


def state_of(image: Image) -> str:
    """Return what tells apart the contents that an image has had; empty if there was only one."""
    if not image.snapshots and not image.next_snapshot and image.current_base < 0:
        return ""
    known = [(one.id, one.parent, one.active) for one in image.snapshots]
    facts = (image.current_base, image.next_snapshot, known)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def current(files: Files, image: Image, locate: Locate) -> Content | Trouble:
    """Return what the image is now."""
    return _had(files.current, image, locate)


def parts(image: Image, files: Files | Trouble, locate: Locate) -> tuple[Part, ...]:
    """Return a part for each snapshot that OpenNebula knows, by ascending id."""
    if isinstance(files, Trouble):
        return tuple(snapshot_part(one, files) for one in image.snapshots)
    return tuple(
        snapshot_part(one, _had(partial(files.snapshot, one.id), image, locate))
        for one in image.snapshots
    )


def _had(links: Callable[[], Sequence[Entry]], image: Image, locate: Locate) -> Content | Trouble:
    try:
        return stacked(links(), image, locate, state_of(image))
    except NebfsError as exc:
        return Trouble(exc.errno, str(exc))


def stacked(links: Sequence[Entry], image: Image, locate: Locate, version: str) -> Content:
    """Return a raw view of `links`, the topmost first; of a single file, the file as it is."""
    content: Content | None = None
    for number, link in enumerate(reversed(links)):
        lowest = number == 0
        content = Content(
            locator=locate(link.path),
            format=_format(link, image),
            media="cdrom" if image.type is ImageType.CDROM else "",
            version=version,
            revision=revision_of(link),
            allocated=link.allocated,
            view="raw" if len(links) > 1 and (link.is_qcow2 or not lowest) else "",
            backing=content,
        )
    assert content is not None  # noqa: S101 - there is one file at least
    return content


def revision_of(link: Entry) -> Revision:
    """Return the version of a file; through SFTP there is no inode to tell."""
    etag = f"{link.device}:{link.inode}" if link.inode else ""
    return Revision(link.size, etag=etag, modified=str(link.modified_ns))


def _format(link: Entry, image: Image) -> str:
    if link.is_qcow2:
        return "qcow2"
    return image.format
