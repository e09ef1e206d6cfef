"""The inside of an app's directory: the one place in the tree that asks the network.

What an image really is (its exact length, its version, its format) is asked of the place where its
bytes are when the directory is first opened, for all files in parallel, and remembered. A file
that could not be asked about is shown with size 0 and without permissions: seen, and never copied
by mistake.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial

import structlog
import trio

from nebfs.content.formats import Format, claimed
from nebfs.content.prober import Probed, Prober
from nebfs.errors import NebfsError
from nebfs.model import App, AppType, Content, Offer, Template, Trouble
from nebfs.tree import attributes
from nebfs.tree.documents import checksums, documents
from nebfs.tree.names import distinct, encode, with_extension
from nebfs.tree.nodes import FOREVER, SOON, AppDirectory, AppLink, ContentFile, Document, Node
from nebfs.tree.troubles import failure_of, trouble_of

log = structlog.get_logger()


async def fill(
    directory: AppDirectory,
    prober: Prober,
    deadline: float,
    path_of: Callable[[App, str], str],
    contents_of: Callable[[Offer], Awaitable[tuple[Content, ...]]],
) -> dict[str, Node]:
    """Return the entries of an app's directory, asking what is not known, within `deadline` s.

    `path_of(app, name)` is the relative path to the app that another one names. `contents_of` is
    asked for the files of an offer that is deferred.
    """
    offer = directory.offer
    if offer.deferred:
        offer = await _opened(offer, contents_of)
    answers = await _ask(offer, prober, deadline)
    entries: dict[str, Node] = {}
    files: dict[str, Content] = {}
    for name, (content, answer) in _named(directory, answers).items():
        extension = _shape(directory, content, answer).extension
        entries[name] = _file(offer, name, content, answer, extension)
        files[name] = content
    failed = any(not isinstance(answer, Probed) for _, answer in answers)
    directory.doubtful = failed or (directory.offer.deferred and offer.trouble is not None)
    texts = documents(offer)
    sums = checksums(files)
    if sums:
        texts["CHECKSUMS"] = sums
    for name, text in texts.items():
        if name not in entries:
            entries[name] = _document(offer, name, text)
    for name, wanted in _links(offer).items():
        if name not in entries:
            target = path_of(offer.app, wanted)
            entries[name] = AppLink(
                name=name,
                key=("link", offer.app.id, name, target),
                target=target,
                mtime=float(offer.app.regtime),
                app=offer.app,
                wanted=wanted,
            )
    if offer.trouble is not None and not files:
        name = "".join(with_extension(directory.name, claimed(offer.app.format).extension))
        entries[name] = _blocked(offer, name, offer.trouble)
    for node in entries.values():
        if node.attributes is dict:
            node.attributes = partial(attributes.of_app, offer.app)
    return dict(sorted(entries.items()))


async def _opened(
    offer: Offer, contents_of: Callable[[Offer], Awaitable[tuple[Content, ...]]]
) -> Offer:
    """Return a deferred offer with its files, or with what keeps them from being known."""
    try:
        return replace(offer, contents=await contents_of(offer))
    except NebfsError as exc:
        log.warning("app.unreadable", app=offer.app.name, id=offer.app.id, error=str(exc))
        return replace(offer, trouble=trouble_of(exc))


async def _ask(
    offer: Offer, prober: Prober, deadline: float
) -> list[tuple[Content, Probed | NebfsError]]:
    answers: dict[int, Probed | NebfsError] = {}
    for number, content in enumerate(offer.contents):
        known = prober.known(content)
        if known is not None:
            answers[number] = known
    if len(answers) == len(offer.contents):
        return [(content, answers[n]) for n, content in enumerate(offer.contents)]

    async def ask(number: int, content: Content) -> None:
        try:
            answers[number] = await prober.ask(content)
        except BaseException as exc:  # noqa: BLE001 - each is told as its file's trouble
            answers[number] = failure_of(exc)
            log.warning("app.unreadable", app=offer.app.name, id=offer.app.id, error=str(exc))

    with trio.move_on_after(deadline):
        async with trio.open_nursery() as nursery:
            for number, content in enumerate(offer.contents):
                if number not in answers:
                    nursery.start_soon(ask, number, content)
    late = NebfsError("its place did not answer in time")
    return [(content, answers.get(n, late)) for n, content in enumerate(offer.contents)]


def _named(
    directory: AppDirectory, answers: list[tuple[Content, Probed | NebfsError]]
) -> Mapping[str, tuple[Content, Probed | NebfsError]]:
    wanted = []
    for number, (content, answer) in enumerate(answers):
        shape = _shape(directory, content, answer)
        stem = f"{directory.name}.{encode(content.label)}" if content.label else directory.name
        wanted.append((number, *with_extension(stem, shape.extension)))
    names = distinct(wanted)
    return {names[number]: answer for number, answer in enumerate(answers)}


def _shape(directory: AppDirectory, content: Content, answer: Probed | NebfsError) -> Format:
    """Return what a file is, or was when its place was last asked, or else is said to be."""
    if isinstance(answer, Probed):
        directory.shapes[content.label] = answer.format
        return answer.format
    before = directory.shapes.get(content.label)
    return claimed(content.format, content.media) if before is None else before


def _file(
    offer: Offer, name: str, content: Content, answer: Probed | NebfsError, extension: str
) -> ContentFile:
    known = answer if isinstance(answer, Probed) else None
    revision = known.revision if known is not None else None
    trouble = None
    if isinstance(answer, NebfsError):
        trouble = trouble_of(answer)
    return ContentFile(
        name=name,
        key=("file", offer.app.id, content.identity, revision, None if known else name),
        content=content,
        revision=revision,
        trouble=trouble,
        mtime=_written(revision.modified if revision else "") or float(offer.app.regtime),
        timeout=FOREVER if trouble is None else SOON,
        extension=extension,
    )


def _blocked(offer: Offer, name: str, trouble: Trouble) -> ContentFile:
    return ContentFile(
        name=name,
        key=("blocked", offer.app.id, trouble.reason),
        content=None,
        trouble=trouble,
        mtime=float(offer.app.regtime),
        timeout=SOON,
    )


def _document(offer: Offer, name: str, text: bytes) -> Document:
    return Document(
        name=name,
        # What it says is part of what it is: the kernel keeps the pages of one text only.
        key=("document", offer.app.id, name, len(text), zlib.crc32(text)),
        data=text,
        mtime=float(offer.app.regtime),
    )


def _written(modified: str) -> float:
    """Return an HTTP date as seconds, or 0."""
    try:
        return parsedate_to_datetime(modified).timestamp() if modified else 0.0
    except (ValueError, TypeError):
        return 0.0


_NAMES = {AppType.VMTEMPLATE: "DISK", AppType.SERVICE_TEMPLATE: "ROLE"}
"""In which attribute a template app names others."""


def _links(offer: Offer) -> dict[str, str]:
    """Return the apps that a template app names, in order and by the names of their links."""
    if offer.app.type not in _NAMES:
        return {}
    named = [v for v in offer.app.template.all(_NAMES[offer.app.type]) if isinstance(v, Template)]
    wanted = [
        (number, encode(value.get("APP")), "")
        for number, value in enumerate(named)
        if value.get("APP")
    ]
    names = distinct(wanted)
    return {names[number]: named[number].get("APP") for number, _, _ in wanted}
