"""Where a datastore's files are when they are on another machine, and looking at them there.

BRIDGE_LIST, an attribute of the datastore, names hosts with a space between; its files have the
same path on each of them. OpenNebula takes one of them by the image's id, so that they share the
work, and so does nebfs; the others are the ones to turn to when it does not answer. Source:
OpenNebula 7.4, get_destination_host() of its datastore drivers.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nebfs.content.layers.qcow2_header import HEAD, MAGIC
from nebfs.datastores.chains import SNAP, Chain
from nebfs.datastores.entries import CURRENT, MOST, Entry
from nebfs.datastores.look import Looked
from nebfs.datastores.places import SFTP, PathMap, plain
from nebfs.errors import BadAnswer, Missing
from nebfs.fetcher.messages import Call, CallRequest
from nebfs.model import Datastore, Locator

MAX_HOSTS = 32

_HOST = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*\$?)@)?"
    r"(?P<name>\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\]|[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_BARE_IPV6 = re.compile(r"(?:(?P<user>[^@]*)@)?(?P<name>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*)")

_LONGEST_PATH = 8192
"""Characters: a path as JSON, most of whose letters may have to be written as six."""

_CHAINS = 64 << 20
"""Characters about all chains of one question: some hundred for each file of one, so that two
thousand images have room for fifty snapshots each."""

_ENTRIES = MOST * _LONGEST_PATH
"""Characters about one directory. The first bytes of a qcow2 file are about 700 of them."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The hosts that have a datastore's files, each as ``[user@]host[:port]``."""

    hosts: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    """Which key to show, and where the host keys are; empty: the user's own."""

    @property
    def shown(self) -> str:
        """Their names, for people."""
        return ", ".join(self._names)

    @property
    def _names(self) -> list[str]:
        return [host.rpartition("@")[2] for host in self.hosts]

    def address(self, path: str) -> str:
        """Return the address of a path: the same whichever host is asked, and first."""
        return f"{SFTP}{','.join(sorted(self._names))}{path}"

    def _asked(self, turn: int) -> tuple[tuple[str, str], ...]:
        first = turn % len(self.hosts)
        order = self.hosts[first:] + self.hosts[:first]
        return (("bridges", " ".join(order)), *self.options)

    def locator(self, path: str, turn: int) -> Locator:
        """Return where `path` is; `turn` decides which host is asked first."""
        return Locator("sftp", self.address(path), self._asked(turn))

    async def look(self, call: Call, base: str, paths: Sequence[str]) -> tuple[Looked, ...]:
        """Look at `paths`, all of them below `base` as text. Raises what `call` raises."""
        body = {"base": base, "paths": list(paths), "options": dict(self._asked(0))}
        request = CallRequest(
            "LOOK",
            self.address(base),
            body=json.dumps(body).encode(),
            max_body=len(paths) * _LONGEST_PATH + _CHAINS,
            transport="sftp",
        )
        try:
            answer = await call(request)
            facts = json.loads(answer.body)
            looked = tuple(map(_looked, facts))
        except Missing as exc:
            # The datastore's directory is on none of the hosts.
            return tuple(Looked(path, exc.errno) for path in paths)
        except (ValueError, TypeError) as exc:
            raise BadAnswer("what was found on the bridge is not understood") from exc
        if len(looked) != len(paths):
            raise BadAnswer("the bridge says something about other files than it was asked about")
        return looked

    async def inside(
        self, call: Call, base: str, directories: Sequence[str]
    ) -> tuple[tuple[Entry, ...] | int, ...]:
        """Return what is in each of `directories`, below `base` as text, or the errno of looking.

        Raises what `call` raises.
        """
        body = {"base": base, "paths": list(directories), "options": dict(self._asked(0))}
        request = CallRequest(
            "LIST",
            self.address(base),
            body=json.dumps(body).encode(),
            max_body=len(directories) * _ENTRIES + 1024,
            transport="sftp",
        )
        try:
            facts = json.loads((await call(request)).body)
            found = tuple(map(_listed, facts))
        except Missing as exc:
            return (exc.errno,) * len(directories)
        except (ValueError, TypeError) as exc:
            raise BadAnswer("what was found on the host is not understood") from exc
        if len(found) != len(directories):
            raise BadAnswer("the host says something about other directories than it was asked")
        return found


def elsewhere(
    datastore: Datastore, paths: PathMap, settings: Mapping[str, str]
) -> tuple[Elsewhere, str] | None:
    """Return the hosts that the datastore's files are on, and the path of its directory there.

    None where nothing names any.
    """
    options = tuple((n, settings[n]) for n in ("identity", "known-hosts") if settings.get(n))
    base = plain(datastore.base_path)
    named = datastore.template.get("BRIDGE_LIST").split()[:MAX_HOSTS]
    hosts = [host for host in map(written, dict.fromkeys(named)) if host]
    if not hosts:
        mapped, base = paths.remote(base)
        hosts = [host for host in [written(mapped)] if host]
    if not hosts or base in {"", "/"}:
        return None
    user = settings.get("user", "")
    if user:
        hosts = [host if "@" in host else f"{user}@{host}" for host in hosts]
    return Elsewhere(tuple(hosts), options), base


def written(host: str) -> str:
    """Return `host` as ``[user@]host[:port]``; empty when it is none.

    It is somebody's text, and a command in ~/.ssh/config may repeat it.
    """
    bare = _BARE_IPV6.fullmatch(host)
    if bare is not None:
        host = f"{bare['user']}@[{bare['name']}]" if bare["user"] else f"[{bare['name']}]"
    found = _HOST.fullmatch(host)
    if found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
        return ""
    return host


def _looked(facts: Sequence[object]) -> Looked:
    match facts:
        case [
            int(failed),
            str(kind),
            bool(outside),
            bool(chained),
            int(size),
            int(modified),
            str(path),
            *more,
        ] if size >= 0 and path.startswith("/") and bool(more) == (chained and not outside):
            return Looked(
                path,
                failed,
                kind=kind,
                outside=outside,
                chain=_chain(more, path) if more else None,
                size=size,
                allocated=None,
                modified_ns=modified,
            )
    raise ValueError("not what a LOOK answers")


def _chain(facts: Sequence[object], path: str) -> Chain:
    match facts:
        case [list(source), None]:
            return Chain(_entry(source, posixpath.dirname(path)), (), crowded=True)
        case [list(source), list(inside)] if len(inside) <= MOST:
            entries = tuple(_entry(one, f"{path}{SNAP}") for one in inside)
            return Chain(_entry(source, posixpath.dirname(path)), entries)
    raise ValueError("not what a LOOK answers about a chain")


def _listed(facts: object) -> tuple[Entry, ...] | int:
    match facts:
        case [0, list(entries), str(path)] if len(entries) <= MOST and path.startswith("/"):
            return tuple(_entry(one, path) for one in entries)
        case [int(failed), _, _] if failed:
            return failed
    raise ValueError("not what a LIST answers")


def _entry(facts: Sequence[object], directory: str) -> Entry:
    match facts:
        case [
            str(name),
            str(kind),
            str(text),
            str(encoded),
            int(size),
            int(modified),
            int(failed),
        ] if size >= 0 and name not in {"", ".", ".."} and "/" not in name:
            head = base64.b64decode(encoded, validate=True)
            if name.endswith(CURRENT):
                text = text or head.decode("utf-8", "surrogateescape")
            return Entry(
                name,
                posixpath.join(directory, name),
                kind,
                text=text,
                # The zeros at the end are not sent.
                head=head.ljust(min(HEAD, size), b"\0") if head.startswith(MAGIC) else b"",
                size=size,
                allocated=None,
                modified_ns=modified,
                failed=failed,
            )
    raise ValueError("not what is said about an entry")
