"""``vcenter``: images are files in a datastore of a vCenter (OpenNebula 5.0 to 6.10).

SOURCE is a path in it, with ``%20`` for a space. The file is read over HTTPS; where it is the small
descriptor of a disk, the file beside it with the disk's raw bytes is read instead. VCENTER_HOST,
VCENTER_DC_NAME and VCENTER_DS_NAME say where it is, VCENTER_USER and VCENTER_PASSWORD who asks. No
vCenter was at hand: this is written by the API's description, and tested against a fake that
answers by it.
Source: OpenNebula's datastore driver of this name, 6.10; vSphere Web Services API, FileManager.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import trio

from nebfs.datastores.rest import Login, base_of, judge
from nebfs.datastores.state import listed, trouble_of
from nebfs.datastores.vmdk_descriptor import MOST, flat_extent, is_descriptor
from nebfs.errors import BadAnswer, Missing, NebfsError, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import Call, CallAnswer, CallRequest
from nebfs.model import Content, Datastore, Holding, Image, ImageType, Locator, Trouble

TRANSPORT = "vsphere"
_WHO = "vCenter"
_TIMEOUT = 30.0

_AT_ONCE = 4
"""Files that are asked about at a time: three questions each, and vCenter is not fast."""

_ANY_SIZE = 1 << 62
"""An answer to HEAD has no body, but announces the file's length."""


@dataclass(frozen=True, slots=True)
class _Place:
    """One datastore of a vCenter."""

    base: str
    query: str
    login: Login

    def url(self, path: str) -> str:
        return f"{self.base}/folder/{quote(path)}?{self.query}"


@dataclass(frozen=True, slots=True)
class _Looked:
    """What HEAD says about a file."""

    size: int
    version: str


class VcenterDatastore:
    """Asks a vCenter what the images' files are."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],  # noqa: ARG002 - its directories are elsewhere
        call: Call | None,
        settings: Mapping[str, Any] | None = None,  # noqa: ARG002 - it has none
    ) -> None:
        """See DriverFactory."""
        self._call = call

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Raises Unreachable or Refused when no file can be asked about."""
        place = self._place(datastore)
        found: dict[int, Content | Trouble] = {}
        shown = listed(datastore, images)
        asked: list[tuple[Image, str]] = []
        for image in shown:
            judged = trouble_of(image, datastore)
            path = judged or (place if isinstance(place, Trouble) else _path(image))
            if isinstance(path, Trouble):
                found[image.id] = path
            else:
                asked.append((image, path))
        if asked and isinstance(place, _Place):
            found |= await self._look_at(place, asked)
        return tuple(_holding(image, found[image.id]) for image in shown)

    def _place(self, datastore: Datastore) -> _Place | Trouble:
        template = datastore.template
        base = base_of(template.get("VCENTER_HOST"), template.get("VCENTER_PORT"))
        store = template.get("VCENTER_DS_NAME").strip()
        centre = template.get("VCENTER_DC_NAME").strip()
        if not base or not store or not centre:
            return Trouble(
                errno.EIO,
                "the datastore's template does not say where its files are: VCENTER_HOST,"
                " VCENTER_DC_NAME and VCENTER_DS_NAME",
            )
        if self._call is None:
            return Trouble(errno.EOPNOTSUPP, "a vCenter cannot be reached from here")
        user, password = template.get("VCENTER_USER"), template.get("VCENTER_PASSWORD")
        login = Login.of_user(user, password, base, "VCENTER_PASSWORD")
        return _Place(
            base, f"dcPath={quote(centre, safe='')}&dsName={quote(store, safe='')}", login
        )

    async def _look_at(
        self, place: _Place, asked: Sequence[tuple[Image, str]]
    ) -> dict[int, Content | Trouble]:
        """Raises what is wrong with all of them."""
        found: dict[int, Content | Trouble] = {}
        failed: dict[int, NebfsError] = {}
        waiting = iter(asked)

        async def work() -> None:
            for image, path in waiting:
                try:
                    found[image.id] = await self._look(place, image, path)
                except NebfsError as exc:
                    failed[image.id] = exc
                    if _is_of_all(exc):
                        nursery.cancel_scope.cancel()
                        return

        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(work)
        failures = list(failed.values())
        failure = next((exc for exc in failures if _is_of_all(exc)), None)
        if failure is None and len(failures) == len(asked):
            failure = failures[0]
        if failure is None:
            return found | {number: _trouble(exc) for number, exc in failed.items()}
        missing = place.login.missing(failure) if isinstance(failure, Refused) else None
        if missing is None and not isinstance(failure, (Unsupported, BadAnswer)):
            raise failure
        return dict.fromkeys((image.id for image, _ in asked), missing or _trouble(failure))

    async def _look(self, place: _Place, image: Image, path: str) -> Content | Trouble:
        """Say where the bytes of one image are. Raises NebfsError."""
        looked = await self._head(place, path)
        if looked is None:
            return _NO_FILE
        text = b""
        if 0 < looked.size <= MOST:
            text = (await self._ask(place, "GET", path, MOST)).body
        if is_descriptor(text):
            return await self._flat(place, image, path, text)
        # OpenNebula calls everything here vmdk, CDs as well.
        form = "raw" if image.type is ImageType.CDROM else image.format
        return _content(place, path, looked.version, image, form)

    async def _flat(self, place: _Place, image: Image, path: str, text: bytes) -> Content | Trouble:
        try:
            extent = flat_extent(text)
        except ValueError as exc:
            return Trouble(errno.EOPNOTSUPP, f"of the image there is a descriptor: {exc}")
        directory, slash, _ = path.rpartition("/")
        beside = f"{directory}{slash}{extent.name}"
        looked = await self._head(place, beside)
        if looked is None:
            return Trouble(
                errno.EIO, "the file with the image's bytes is not beside its descriptor"
            )
        if looked.size != extent.size:
            return Trouble(
                errno.EIO,
                f"the image's descriptor says {extent.size} bytes, and its file has {looked.size}",
            )
        version = f"{extent.content_id}.{looked.version}"
        return _content(place, beside, version, image, "raw")

    async def _head(self, place: _Place, path: str) -> _Looked | None:
        """Look at a file; return None if there is none. Raises NebfsError."""
        answer = await self._ask(place, "HEAD", path, _ANY_SIZE)
        if answer.status in {404, 410}:
            return None
        judge(answer, place.url(path), _WHO)
        length = answer.header("Content-Length").strip()
        if not length.isascii() or not length.isdigit() or len(length) > 19:
            raise Unsupported("vCenter does not say how long the file is")
        # It need not give more than the length (govmomi finds none); what there is counts.
        version = f"{length}.{answer.header('ETag')}.{answer.header('Last-Modified')}"
        return _Looked(int(length), version)

    async def _ask(self, place: _Place, method: str, path: str, most: int) -> CallAnswer:
        assert self._call is not None  # noqa: S101 - else there was no place
        request = CallRequest(
            method,
            place.url(path),
            place.login.headers,
            timeout=_TIMEOUT,
            max_body=most,
            transport=TRANSPORT,
        )
        answer = await self._call(request)
        if method == "GET":
            judge(answer, request.url, _WHO)
        return answer


_NO_FILE = Trouble(
    # Not ENOENT: rsync takes that for "vanished" and carries on without the image.
    errno.EIO,
    "vCenter has no such file; OpenNebula's record is wrong, or this user may not see it",
)


def _is_of_all(exc: NebfsError) -> bool:
    """Whether nothing can be known of the other files, either: nobody answers, or lets us in.

    A login that is refused again and again is locked out.
    """
    return "login" in exc.facts or (isinstance(exc, Unreachable) and "status" not in exc.facts)


def _trouble(exc: NebfsError) -> Trouble:
    number = errno.EIO if isinstance(exc, Missing) else exc.errno
    return Trouble(number, str(exc))


def _path(image: Image) -> Trouble | str:
    """Return the path of the image's file in its datastore, or why there is none, by its text."""
    path = image.source.replace("%20", " ")
    parts = path.split("/")
    if not path or not path.isprintable():
        return Trouble(errno.EIO, "OpenNebula's record of the image has no path to its file")
    if "\\" in path or path.startswith("[") or {"", ".", ".."} & set(parts):
        return Trouble(
            errno.EACCES, "its file is not in the datastore's directory, where nebfs reads"
        )
    return path


def _content(place: _Place, path: str, version: str, image: Image, form: str) -> Content:
    options = tuple((f"header:{name}", text) for name, text in place.login.headers)
    return Content(
        Locator(TRANSPORT, place.url(path), options),
        format=form,
        media="cdrom" if image.type is ImageType.CDROM else "",
        version=f"{version}.{image.regtime}",
        # A VM may have it next, and write to it. Others are written once.
        volatile=image.persistent,
    )


def _holding(image: Image, known: Content | Trouble) -> Holding:
    if isinstance(known, Trouble):
        return Holding(image, trouble=known)
    return Holding(image, known)
