"""From the path that a command names to an image of the mount."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nebfs.content import views
from nebfs.content.decodings import Decompressed
from nebfs.content.layers.here import TRANSPORTS
from nebfs.content.library import object_key
from nebfs.daemon.web import Request
from nebfs.daemon.wiring import House
from nebfs.errors import Changed, NebfsError, Unready, Unsupported, UserError
from nebfs.model import Content, Revision
from nebfs.tree import ContentFile, Directory, Node
from nebfs.tree.troubles import NO_BYTES
from nebfs.tree.walk import find

DIRECTORY = "{path} is a directory: name an image"


@dataclass(frozen=True, slots=True)
class File:
    """One file that an image is made of, in the version that was found."""

    content: Content
    revision: Revision

    @property
    def key(self) -> str:
        """The name of its object in the cache."""
        return object_key(self.content, self.revision)

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine, and read where it is."""
        return self.content.locator.transport in TRANSPORTS


@dataclass(frozen=True, slots=True)
class Image:
    """An image of the mount; `files` are several for a view of a chain, the topmost first.

    `decompressed` is the object of the cache that its file is decompressed into, if it is. Until
    that was done once the length of the image may not be known: it is not `measured` then, and
    `revision` is that of its file.
    """

    node: ContentFile
    content: Content
    revision: Revision
    files: tuple[File, ...]
    decompressed: Decompressed | None = None
    measured: bool = True

    @property
    def size(self) -> int | None:
        """How long it is; None while that is not known."""
        return self.revision.size if self.measured else None

    @property
    def keys(self) -> set[str]:
        """The names of all its objects in the cache."""
        found = {file.key for file in self.files}
        return found if self.decompressed is None else found | {self.decompressed.key}

    @property
    def unkept(self) -> str:
        """Why nothing of it is kept in the cache; or empty."""
        if self.content.volatile:
            return "others may write to it while it is read, so nothing of it is kept"
        if self.decompressed is None and all(file.is_here for file in self.files):
            return "it is on this machine and read where it is, so nothing of it is copied"
        return ""


def path_in(request: Request) -> str:
    """Return the path that was asked for: from the mount's root on. Raises UserError."""
    path = request.query.get("path", "")
    if not path:
        raise UserError("name a path in the mount")
    return path


def paths_in(said: dict[str, object]) -> list[str]:
    """Return the paths that were asked for, as ``path_in`` one. Raises UserError."""
    paths = said.get("paths")
    if not isinstance(paths, list) or not paths or not all(isinstance(p, str) for p in paths):
        raise UserError("name at least one path")
    return paths


async def image_at(house: House, path: str, *, fresh: bool = False, unready: bool = False) -> Image:
    """Return the image at `path`. `fresh`: its place is asked whether it still has this version.
    `unready`: it may be one whose length is not known yet.

    Raises UserError for what is no image, the image's own trouble, and what looking for it raises.
    """
    return await image_of(house, await file_at(house, path), fresh=fresh, unready=unready)


async def file_at(house: House, path: str, directory: str = DIRECTORY) -> ContentFile:
    """Return the file of the image at `path`. Raises UserError for what is none, which of a
    `directory` says that, and what looking for it raises.
    """
    node = await find(house.tree, path)
    if isinstance(node, Directory):
        raise UserError(directory.format(path=path))
    if not isinstance(node, ContentFile):
        raise UserError(f"{path} is no image: name an image")
    return node


async def image_of(
    house: House, node: ContentFile, *, fresh: bool = False, unready: bool = False
) -> Image:
    """Return the image that `node` stands for. Raises as ``image_at``."""
    content, revision = node.content, node.revision
    if node.unready and content is not None:
        if not unready:
            raise Unready(
                f"{node.name}: its length is known once it was decompressed: 'nebfs warm' does that"
            )
        return await _unmeasured(house, node, content, BELIEVED if fresh else math.inf)
    if node.trouble is not None or content is None or revision is None:
        reason = (node.trouble or NO_BYTES).reason
        raise NebfsError(f"{node.name} cannot be read: {reason}")
    if fresh:
        await house.operations.opening.confirm(node)
    if not content.view:
        return Image(node, content, revision, (File(content, revision),))
    files = []
    for file in views.files(content):
        probed = house.prober.known(file)
        if probed is None:
            raise NebfsError("its place was not asked yet; open it once")
        files.append(File(replace(file, volatile=content.volatile), probed.revision))
    return Image(node, content, revision, tuple(files), house.library.decodings.of(content))


async def _unmeasured(house: House, node: ContentFile, view: Content, max_age: float) -> Image:
    """Return an image whose length is not known, with the version of its file for its own."""
    (content, *_) = views.files(view)
    probed = await house.prober.ask(content, max_age=max_age)
    decompressed = house.library.decodings.of(view)
    if decompressed is None:
        raise Changed("its place has another version now: list its directory again")
    file = File(content, probed.revision)
    return Image(node, view, probed.revision, (file,), decompressed, measured=False)


async def images_below(
    house: House, path: str
) -> tuple[list[ContentFile], list[tuple[str, NebfsError]]]:
    """Return the images at `path`, which may be a directory, and below it; and which directories
    could not be listed, and why. Links in directories are not followed, and images that cannot be
    read now are left out.

    Raises Unsupported when there are more than anybody can mean, and what finding `path` and
    listing it raises.
    """
    start = await find(house.tree, path)
    found: list[ContentFile] = []
    failed: list[tuple[str, NebfsError]] = []
    ahead: list[Node] = [start]
    while ahead:
        node = ahead.pop()
        if isinstance(node, Directory) and not node.passing:
            try:
                entries = await house.tree.listing(node)
            except NebfsError as exc:
                if node is start:
                    raise
                failed.append((path_of(node), exc))
            else:
                ahead += [entry for _, entry in reversed(entries)]
        elif isinstance(node, ContentFile) and (node.unready or _is_readable(node)):
            found.append(node)
            if len(found) > MOST:
                raise Unsupported("there are too many images below it", limit=MOST)
    return found, failed


MOST = 10_000

BELIEVED = 60.0
"""Seconds for which it is believed what a place said of the version that it has."""


def _is_readable(node: ContentFile) -> bool:
    return node.trouble is None and node.revision is not None


def path_of(node: Node) -> str:
    """Return where a node is, from the mount's root on."""
    names: list[str] = []
    at: Node | None = node
    while at is not None and at.parent is not None:
        names.append(at.name)
        at = at.parent
    return "/".join(reversed(names))
