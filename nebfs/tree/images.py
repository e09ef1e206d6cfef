"""The inside of a datastore: image files, their snapshots beside them, backups as directories.

Of most images everything is known from the listing. What is not (the length of a disk inside a
qcow2 chain, of a device, of anything that is elsewhere) is asked of its place when the directory is
opened, for all files in parallel, and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import structlog
import trio

from nebfs.catalog.snapshot import DatastoreListing
from nebfs.content.formats import claimed
from nebfs.content.prober import Probed, Prober
from nebfs.errors import NebfsError
from nebfs.model import Content, Holding, Image, ImageType, Part, Revision, Trouble
from nebfs.tree import attributes
from nebfs.tree.hostdir import HostRoot, Spot
from nebfs.tree.names import distinct, encode, with_extension
from nebfs.tree.nodes import FOREVER, SOON, Attributes, ContentFile, Node, PartsDirectory
from nebfs.tree.troubles import failure_of, trouble_of

log = structlog.get_logger()

Answers = Callable[[Content], Probed | NebfsError]
"""What the place of a content said about it."""

_FILES = {ImageType.KERNEL, ImageType.RAMDISK, ImageType.CONTEXT, ImageType.FILESYSTEM}
"""What a files datastore holds are plain files, not disks, and what is shared with virtiofs is a
directory: no format is put behind their names."""

SNAPSHOTS = ".snapshots"


def unasked(contents: Iterable[Content | None]) -> list[Content]:
    """Return those of `contents` of which the listing alone does not tell the length."""
    return [c for c in contents if c is not None and (c.revision is None or c.view)]


def of_listing(listing: DatastoreListing) -> list[Content | None]:
    """Return the contents whose files are in the directory itself."""
    return [holding.content for holding in listing.holdings]


def doubted(listing: DatastoreListing, content: Content) -> DatastoreListing:
    """Return the listing without what it says about the version of `content`: it is asked then.

    Not of a chain: another version of a file of it may build on other files than those beneath it
    here. Only its driver can tell, at the next refresh.
    """
    if content.backing is not None:
        return listing
    holdings = tuple(
        replace(one, content=replace(content, revision=None)) if one.content == content else one
        for one in listing.holdings
    )
    return replace(listing, holdings=holdings)


async def ask(contents: Iterable[Content], prober: Prober, deadline: float) -> Answers:
    """Ask about `contents`, within `deadline` seconds. What is known is not asked again."""
    answers: dict[str, Probed | NebfsError] = {}
    late = NebfsError("its place did not answer in time")

    async def one(content: Content) -> None:
        try:
            answers[content.identity] = await prober.ask(content)
        except BaseException as exc:  # noqa: BLE001 - each is told as its file's trouble
            answers[content.identity] = failure_of(exc)
            log.warning("image.unreadable", source=content.locator.shown, error=str(exc))

    with trio.move_on_after(deadline):
        async with trio.open_nursery() as nursery:
            for content in contents:
                nursery.start_soon(one, content)
    return lambda content: answers.get(content.identity, late)


def remembered(prober: Prober) -> Answers:
    """Return what is known without asking."""
    unknown = NebfsError("its place was not asked yet")
    return lambda content: prober.known(content) or unknown


def names(listing: DatastoreListing) -> dict[int, str]:
    """Return what each image is called in the directory, by id."""
    return distinct((h.image.id, *_image_name(h)) for h in listing.holdings)


def images(listing: DatastoreListing, answers: Answers) -> dict[str, Node]:
    """Return the entries of a datastore's directory, by name."""
    holdings = {holding.image.id: holding for holding in listing.holdings}
    called = names(listing)
    entries: dict[str, Node] = {}
    for number, holding in sorted(holdings.items(), key=lambda item: called[item[0]]):
        entries[called[number]] = _image(holding, called[number], answers)
    with_snapshots = {i: h for i, h in holdings.items() if h.snapshots}
    if with_snapshots:
        # An image that somebody called so keeps its name.
        wanted = [(i, _stem(called[i], h), SNAPSHOTS) for i, h in with_snapshots.items()]
        for number, name in distinct(wanted, called.values()).items():
            entries[name] = _parts(with_snapshots[number], name, snapshots=True)
        entries = dict(sorted(entries.items()))
    return entries


def parts(
    directory: PartsDirectory, found: Iterable[Part], answers: Answers
) -> dict[str, ContentFile]:
    """Return the files of an image's snapshots, or of a backup, by name."""
    holding = directory.holding
    listed = list(found)
    wanted = []
    for number, part in enumerate(listed):
        kind = _extension(holding.image, part.content)
        wanted.append((number, *with_extension(encode(part.name), kind)))
    called = distinct(wanted)
    entries = {
        called[number]: content_file(
            called[number],
            part.content,
            part.trouble,
            answers,
            key=("part", holding.image.id, directory.snapshots, part.name),
            date=part.date,
            shown=partial(attributes.of_image, holding.image),
        )
        for number, part in enumerate(listed)
    }
    return dict(sorted(entries.items()))


def _stem(name: str, holding: Holding) -> str:
    """Return `name`, an image's, without its extension: of ``disk.raw``, ``disk.snapshots``."""
    _, extension = _image_name(holding)
    return name.removesuffix(extension) if extension else name


def _extension(image: Image, content: Content | None) -> str:
    if content is not None and content.view:
        return content.view
    media = "cdrom" if image.type is ImageType.CDROM else ""
    return claimed((content.format if content else "") or image.format, media).extension


def _image_name(holding: Holding) -> tuple[str, str]:
    image = holding.image
    stem = encode(image.name)
    if image.type in _FILES or _is_directory(holding):
        return stem, ""
    return with_extension(stem, _extension(image, holding.content))


def _is_directory(holding: Holding) -> bool:
    return bool(holding.disks) or holding.deferred or holding.directory is not None


def _image(holding: Holding, name: str, answers: Answers) -> Node:
    image = holding.image
    if holding.directory is not None:
        shared = holding.directory.address
        return HostRoot(
            name=name,
            key=("directory", image.id, shared),
            spot=Spot(("directory", image.id, shared), shared),
            mtime=float(image.modtime or image.regtime),
            attributes=partial(attributes.of_image, image),
        )
    if _is_directory(holding):
        return _parts(holding, name, snapshots=False)
    date = image.modtime or image.regtime
    key = ("image", image.id)
    shown = partial(attributes.of_image, image)
    content, trouble = holding.content, holding.trouble
    return content_file(name, content, trouble, answers, key=key, date=date, shown=shown)


def _parts(holding: Holding, name: str, *, snapshots: bool) -> PartsDirectory:
    image = holding.image
    return PartsDirectory(
        name=name,
        key=("parts", image.id, snapshots),
        holding=holding,
        snapshots=snapshots,
        mtime=float(image.modtime or image.regtime),
        attributes=partial(attributes.of_image, image),
    )


def content_file(
    name: str,
    content: Content | None,
    trouble: Trouble | None,
    answers: Answers,
    *,
    key: tuple[object, ...],
    date: int,
    shown: Attributes,
) -> ContentFile:
    """Return the file of `content`, or one that has `trouble`. `date`, in seconds, is shown where
    it is not known when the bytes were written.
    """
    revision = content.revision if content is not None else None
    if content is not None and (revision is None or content.view):
        answer = answers(content)
        if isinstance(answer, Probed):
            revision = answer.revision
        else:
            revision, trouble = None, trouble_of(answer)
    return ContentFile(
        name=name,
        key=(*key, revision),
        content=content,
        revision=revision,
        trouble=trouble,
        mtime=_written(revision) or float(date),
        timeout=SOON if trouble is not None else FOREVER,
        attributes=shown,
    )


def _written(revision: Revision | None) -> float:
    """Return when the bytes were last written, in seconds, or 0: `modified` may be in ns."""
    text = revision.modified if revision is not None else ""
    return int(text) / 1e9 if text.isdecimal() and len(text) < 30 else 0.0
