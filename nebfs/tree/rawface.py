"""The second face of the tree, ``raw/``: the same directories, every disk in them a plain raw disk.

Made from the entries of the published face, whatever they are just now. What is a raw disk already
is shown again as it is, and so are an ISO and a squashfs, which are block images in themselves; of
a qcow2 image the disk inside is shown. What cannot be shown as a disk is listed without permissions
and says why. Documents are not repeated.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nebfs.content.formats import claimed
from nebfs.content.prober import Prober
from nebfs.errors import NebfsError
from nebfs.model import Content, Revision, Trouble
from nebfs.tree import images
from nebfs.tree.hostdir import HostRoot
from nebfs.tree.names import distinct, with_extension
from nebfs.tree.nodes import FOREVER, SOON, Asked, ContentFile, Directory, Link, Node
from nebfs.tree.troubles import trouble_of

PLAIN = frozenset({"raw", "iso", "squashfs"})
"""What a loop device or a hypervisor takes as it is."""


@dataclass(slots=True, eq=False, kw_only=True)
class RawDirectory(Asked):
    """The raw face of the directory `of`. `made_of` are the entries of that, as of which it is."""

    of: Directory
    made_of: Mapping[str, Node] | None = None


def twin(directory: Directory) -> RawDirectory:
    """Return the raw face of a directory, not looked into yet."""
    return RawDirectory(
        name=directory.name,
        key=("raw", directory.key),
        of=directory,
        mtime=directory.mtime,
        timeout=directory.timeout,
        attributes=directory.attributes,
    )


async def fill(
    directory: RawDirectory, published: Mapping[str, Node], prober: Prober, deadline: float
) -> dict[str, Node]:
    """Return the raw face of the `published` entries, asking what they are within `deadline` s."""
    files = [node for node in published.values() if isinstance(node, ContentFile)]
    wanted = [n.content for n in files if n.content is not None and n.trouble is None]
    answers = await images.ask(wanted, prober, deadline)
    entries: dict[str, Node] = {}
    for node in published.values():
        if isinstance(node, Link):
            # It leads to a directory that has the same name on this side.
            entries[node.name] = replace(node, key=("raw", node.key))
        elif isinstance(node, Directory) and not isinstance(node, HostRoot):
            entries[node.name] = twin(node)
    disks = [_disk(node, answers, prober) for node in files]
    named = distinct(
        ((number, disk.stem, f".{disk.extension}") for number, disk in enumerate(disks)), entries
    )
    for number, (node, disk) in enumerate(zip(files, disks, strict=True)):
        entries[named[number]] = ContentFile(
            name=named[number],
            key=("raw", node.key, disk.revision),
            content=disk.content,
            revision=disk.revision,
            trouble=disk.trouble,
            mtime=node.mtime,
            timeout=SOON if disk.trouble is not None else FOREVER,
            attributes=node.attributes,
        )
    directory.doubtful = any(disk.trouble is not None for disk in disks)
    return dict(sorted(entries.items()))


@dataclass(frozen=True, slots=True)
class _Disk:
    """What is shown of one published file."""

    stem: str
    extension: str
    content: Content | None = None
    revision: Revision | None = None
    trouble: Trouble | None = None


def _disk(node: ContentFile, answers: images.Answers, prober: Prober) -> _Disk:
    content = node.content
    if content is None or node.trouble is not None or node.revision is None:
        kind = "raw" if content is None else claimed(content.format, content.media).extension
        trouble = node.trouble or Trouble(errno.EIO, "it has no bytes")
        return _Disk(_without(node.name, kind), "raw", content, None, trouble)
    answer = answers(content)
    if isinstance(answer, NebfsError):
        stem = _without(node.name, claimed(content.format, content.media).extension)
        return _Disk(stem, "raw", content, None, trouble_of(answer))
    stem = _without(node.name, answer.format.extension)
    if content.view or (answer.format.name in PLAIN and not answer.format.compression):
        return _Disk(stem, answer.format.name, content, node.revision)
    if answer.format.extension == "qcow2":
        inside = replace(content, view="raw")
        try:
            known = prober.view(inside)
        except NebfsError as exc:
            return _Disk(stem, "raw", content, None, trouble_of(exc))
        return _Disk(stem, "raw", inside, known.revision)
    reason = f"nebfs does not read the disk inside a {answer.format.extension} file"
    return _Disk(stem, "raw", content, None, Trouble(errno.EOPNOTSUPP, reason))


def _without(name: str, extension: str) -> str:
    """Return a file's name without its extension, if it has that."""
    return with_extension(name, extension)[0]
