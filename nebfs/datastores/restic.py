"""``restic``: backups of VMs in repositories of restic, on another machine, in a bucket, or here.

Where a repository is says repositories.py. What one run of a backup has left there is a snapshot,
and its files are those of increments.py. The fetcher process reads repositories by itself, see its
transport ``restic``. It also knows their passwords: by the file of credentials before
RESTIC_PASSWORD of the template, which OpenNebula shows encrypted to whoever is no administrator.
Source: OpenNebula's datastore driver of this name, 6.6 to 7.4.
"""

from __future__ import annotations

import base64
import errno
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import trio

from nebfs.content.layers.qcow2_header import HEAD, MAGIC
from nebfs.datastores.entries import Entry
from nebfs.datastores.increments import Kept, Run, parts_of, runs_of
from nebfs.datastores.repositories import Repositories, Repository, name_of
from nebfs.datastores.rest import is_encrypted
from nebfs.datastores.state import listed, trouble_of
from nebfs.errors import BadAnswer, Missing, Refused, Unsupported
from nebfs.fetcher.messages import Call, CallRequest
from nebfs.model import Content, Datastore, Holding, Image, Locator, Part, Revision, Trouble

_SNAPSHOT = re.compile(r"[0-9a-f]{8,64}")
"""A snapshot's id: OpenNebula keeps the first eight digits."""

_PLACE = re.compile(r"[0-9a-f]{64}/(?P<name>[^/]+)")

_BATCH = 32
"""Snapshots that are looked into with one question: of each disk in each the first blob is read,
1 MiB or so."""

_TIMEOUT = 120.0
"""Seconds for one question: unlocking, the whole index, and those first blobs."""

_MAX_ANSWER = 64 << 20
"""Bytes of one answer; a file takes some hundred, a disk with its first bytes 6000 at most."""

Found = tuple[list[Kept], dict[str, Revision]]
"""What there is of each run, and the versions of the files by their places in the repository."""


class ResticDatastore:
    """Knows where backups are by their records; looks at one when it is opened."""

    def __init__(
        self,
        *,
        paths: Mapping[str, str],
        call: Call | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """See DriverFactory; `settings` are those of ``fs``."""
        self._repositories = Repositories(paths, settings or {})
        self._call = call

    async def holdings(self, datastore: Datastore, images: Sequence[Image]) -> tuple[Holding, ...]:
        """See DatastoreDriver. Nobody is asked."""
        found = []
        for image in listed(datastore, images):
            trouble = trouble_of(image, datastore) or _trouble(image)
            if trouble is not None:
                found.append(Holding(image, trouble=trouble))
            else:
                found.append(Holding(image, deferred=True))
        return tuple(found)

    async def disks(self, datastore: Datastore, image: Image) -> tuple[Part, ...]:
        """See DeferringDatastore. Raises Refused for the password or the keys of a bucket,
        BadAnswer when there is nothing of the backup, Unreachable.
        """
        trouble = _trouble(image)
        if trouble is not None:
            raise BadAnswer(trouble.reason)
        if self._call is None:
            raise Unsupported("repositories of restic are read by the fetcher process alone")
        places = self._repositories.of(datastore, image)
        for place in places:
            try:
                kept, revisions = await _look(self._call, place, runs_of(image))
            except Missing:
                continue  # perhaps it is only said to be on this machine
            except Refused as exc:
                raise _explained(exc, place) from exc
            if all(one.failed == errno.ENOENT for one in kept):
                raise BadAnswer("the repository has no snapshot of the backup", url=place.address)
            locate = partial(_locator, place)
            return _versioned(parts_of(image, kept, locate), place, revisions)
        raise BadAnswer("there is no repository of the backup", url=places[-1].address)


def _trouble(image: Image) -> Trouble | None:
    """Say why the backup cannot be found, by the text of its record alone."""
    try:
        name_of(image)
    except BadAnswer as exc:
        return Trouble(errno.EIO, exc.message)
    if not all(_SNAPSHOT.fullmatch(run.source) for run in runs_of(image)):
        return Trouble(errno.EIO, "OpenNebula's record of the backup names no snapshot of it")
    return None


async def _look(call: Call, place: Repository, runs: Sequence[Run]) -> Found:
    """Ask what is in the snapshots. Raises what `call` raises, or BadAnswer."""
    kept: list[Kept] = []
    revisions: dict[str, Revision] = {}
    for start in range(0, len(runs), _BATCH):
        batch = runs[start : start + _BATCH]
        body = {"snapshots": [run.source for run in batch], "options": dict(place.options)}
        request = CallRequest(
            "LOOK",
            place.address,
            body=json.dumps(body).encode(),
            timeout=_TIMEOUT,
            max_body=_MAX_ANSWER,
            transport="restic",
        )
        answer = await call(request)
        try:
            told = await trio.to_thread.run_sync(_read, answer.body, batch)
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise BadAnswer("what was found in the repository is not understood") from exc
        kept += told[0]
        revisions |= told[1]
    return kept, revisions


def _read(body: bytes, runs: Sequence[Run]) -> Found:
    """Read an answer. Raises ValueError, KeyError or TypeError."""
    kept: list[Kept] = []
    revisions: dict[str, Revision] = {}
    for run, snapshot in zip(runs, json.loads(body)["snapshots"], strict=True):
        failed, facts = snapshot
        if not isinstance(failed, int) or not isinstance(facts, list):
            raise ValueError("not what a LOOK answers")
        entries = []
        for fact in facts:
            entry, etag = _entry(fact)
            entries.append(entry)
            revisions[entry.path] = Revision(entry.size, etag=etag)
        kept.append(Kept(run, tuple(entries), failed))
    return kept, revisions


def _entry(fact: object) -> tuple[Entry, str]:
    match fact:
        case [
            str(name),
            str(path),
            str(kind),
            int(size),
            str(etag),
            str(encoded),
            int(failed),
        ] if size >= 0:
            place = _PLACE.fullmatch(path)
            if place is not None and place["name"] == name:
                head = base64.b64decode(encoded, validate=True)
                head = head.ljust(min(HEAD, size), b"\0") if head.startswith(MAGIC) else b""
                entry = Entry(name, path, kind, head=head, size=size, allocated=None, failed=failed)
                return entry, etag
    raise ValueError("not what is said about an entry")


def _locator(place: Repository, path: str) -> Locator:
    return Locator("restic", f"{place.address}/trees/{path}", place.options)


def _versioned(
    parts: Sequence[Part], place: Repository, revisions: Mapping[str, Revision]
) -> tuple[Part, ...]:
    """Return `parts` with the versions of their files, which the repository has told already."""
    prefix = len(f"{place.address}/trees/")
    made: dict[int, Content] = {}

    def versioned(content: Content) -> Content:
        known = made.get(id(content))
        if known is None:
            below = None if content.backing is None else versioned(content.backing)
            revision = revisions.get(content.locator.address[prefix:])
            known = made[id(content)] = replace(content, revision=revision, backing=below)
        return known

    # The oldest first: each builds on the one before, so nothing here goes deep.
    return tuple(
        part if part.content is None else replace(part, content=versioned(part.content))
        for part in parts
    )


def _explained(exc: Refused, place: Repository) -> Refused:
    """Return a refusal of the keys for a bucket with what may be the reason."""
    options = dict(place.options)
    if not is_encrypted(options.get("secret-access-key", "")):
        return exc
    explained = Refused(
        f"{exc.message}; if these are the keys of the datastore's template, they are encrypted: "
        f'name access-key-id and secret-access-key under ["s3://{options.get("bucket", "")}"] in '
        "the file credentials_file"
    )
    explained.facts = exc.facts
    return explained
