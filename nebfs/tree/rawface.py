"""The second face of the tree, ``raw/``: the same directories, every disk in them a plain raw disk.

Made from the entries of the published face, whatever they are just now. What is a raw disk already
is shown again as it is, and so are an ISO and a squashfs, which are block images in themselves; of
any other format the disk inside is shown, and of what is compressed the same, decompressed. Where
the first bytes do not tell what is inside, somebody looks: that is remembered. What cannot be shown
as a disk is listed without permissions and says why; so is what must be decompressed to its end for
its length to be known, which opening it does. Documents are not repeated.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import structlog
import trio

from nebfs.content.disks import DISKS, PLAIN
from nebfs.content.formats import claimed
from nebfs.content.prober import Probed, Prober
from nebfs.errors import NebfsError, Unready
from nebfs.model import Content, Revision, Trouble
from nebfs.tree import images
from nebfs.tree.hostdir import HostRoot
from nebfs.tree.names import distinct, with_extension
from nebfs.tree.nodes import FOREVER, SOON, Asked, ContentFile, Directory, Link, Node
from nebfs.tree.troubles import NO_BYTES, failure_of, trouble_of

log = structlog.get_logger()

Look: TypeAlias = Callable[[Content], Awaitable[None]]
"""Finds out which disk is in a file, for the prober to know. Raises NebfsError."""

LOOKS = 8
"""How many files are looked into at once: each takes some requests, one after the other."""


async def blind(content: Content) -> None:
    """Look into nothing: where no bytes can be read."""


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
    directory: RawDirectory,
    published: Mapping[str, Node],
    prober: Prober,
    deadline: float,
    look: Look = blind,
) -> dict[str, Node]:
    """Return the raw face of the `published` entries, asking what they are within `deadline` s."""
    began = trio.current_time()
    files = [node for node in published.values() if isinstance(node, ContentFile)]
    wanted = [n.content for n in files if n.content is not None and n.trouble is None]
    answers = await images.ask(wanted, prober, deadline)
    unseen = [content for content in wanted if _is_unseen(content, prober)]
    failures = await _look(unseen, look, began + deadline - trio.current_time())
    entries: dict[str, Node] = {}
    for node in published.values():
        if isinstance(node, Link):
            # It leads to a directory that has the same name on this side.
            entries[node.name] = replace(node, key=("raw", node.key))
        elif isinstance(node, Directory) and not isinstance(node, HostRoot):
            entries[node.name] = twin(node)
    disks = [_disk(node, answers, prober, failures) for node in files]
    named = distinct(
        ((number, disk.stem, f".{disk.extension}") for number, disk in enumerate(disks)), entries
    )
    for number, (node, disk) in enumerate(zip(files, disks, strict=True)):
        entries[named[number]] = ContentFile(
            name=named[number],
            key=("raw", node.key, None if disk.decompressed else disk.revision),
            content=disk.content,
            revision=disk.revision,
            trouble=disk.trouble,
            unready=disk.unready,
            mtime=node.mtime,
            timeout=0.0 if disk.unready else SOON if disk.trouble is not None else FOREVER,
            attributes=node.attributes,
        )
    directory.doubtful = any(disk.trouble is not None and not disk.unready for disk in disks)
    return dict(sorted(entries.items()))


@dataclass(frozen=True, slots=True)
class _Disk:
    """What is shown of one published file."""

    stem: str
    extension: str
    content: Content | None = None
    revision: Revision | None = None
    trouble: Trouble | None = None
    unready: bool = False
    decompressed: bool = False
    """Whether its length is told by the published file, whose version is in its key: it is the same
    inode before its length is known, and whoever opens it then has the file that he looked up."""


def _is_unseen(content: Content, prober: Prober) -> bool:
    known = None if content.view else prober.known(content)
    return known is not None and known.is_unseen


async def _look(contents: Iterable[Content], look: Look, seconds: float) -> dict[str, NebfsError]:
    """Look into files, within so many seconds. Return what went wrong, by the file's identity."""
    failures: dict[str, NebfsError] = {}
    turns = trio.CapacityLimiter(LOOKS)

    async def one(content: Content) -> None:
        late = NebfsError("it took too long to look into it; what came is kept for the next time")
        failures[content.identity] = late
        async with turns:
            try:
                await look(content)
                del failures[content.identity]
            except BaseException as exc:  # noqa: BLE001 - each is told as its file's trouble
                failures[content.identity] = failure_of(exc)
                log.warning("image.unseen", source=content.locator.shown, error=str(exc))

    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for content in {content.identity: content for content in contents}.values():
                nursery.start_soon(one, content)
    return failures


def _disk(
    node: ContentFile,
    answers: images.Answers,
    prober: Prober,
    failures: Mapping[str, NebfsError],
) -> _Disk:
    content = node.content
    if content is None or node.trouble is not None or node.revision is None:
        trouble = node.trouble or NO_BYTES
        return _Disk(_without(node.name, _extension(node)), "raw", content, None, trouble)
    answer = answers(content)
    if isinstance(answer, NebfsError):
        return _Disk(
            _without(node.name, _extension(node)), "raw", content, None, trouble_of(answer)
        )
    stem = _without(node.name, answer.format.extension)
    if stem == node.name:  # a name that was made from the claim alone
        stem = _without(node.name, claimed(content.format, content.media).extension)
    if content.view or (answer.format.name in PLAIN and not answer.format.compression):
        return _Disk(stem, answer.format.name, content, node.revision)
    failure = failures.get(content.identity)
    if failure is not None:
        return _Disk(stem, "raw", content, None, trouble_of(failure))
    if not answer.format.compression and answer.format.name not in DISKS:
        reason = f"nebfs does not read the disk inside a {answer.format.extension} file"
        return _Disk(stem, "raw", content, None, Trouble(errno.EOPNOTSUPP, reason))
    inside, kind = replace(content, view="raw"), _kind(prober.known(content))
    decompressed = bool(answer.format.compression)
    try:
        known = prober.view(inside)
    except Unready as exc:
        trouble = trouble_of(exc)
        return _Disk(stem, kind, inside, None, trouble, unready=True, decompressed=True)
    except NebfsError as exc:
        return _Disk(stem, kind, inside, None, trouble_of(exc), decompressed=decompressed)
    return _Disk(stem, kind, inside, known.revision, decompressed=decompressed)


def _kind(file: Probed | None) -> str:
    """Return the extension of a raw view: an ISO image is one also when it was compressed."""
    if file is None or file.inside is None or file.inside.kind not in PLAIN:
        return "raw"
    return file.inside.kind


def _extension(node: ContentFile) -> str:
    """Return what is behind the name of a file of which nothing is known now."""
    if node.extension or node.content is None:
        return node.extension or "raw"
    return claimed(node.content.format, node.content.media).extension


def _without(name: str, extension: str) -> str:
    """Return a file's name without its extension, if it has that."""
    return with_extension(name, extension)[0]
