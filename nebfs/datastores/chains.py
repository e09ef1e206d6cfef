"""``SOURCE.snap``: the file that an image's content is in now, and the files beneath it.

What OpenNebula's transfer drivers leave in an image datastore (7.4: qcow2, which is also shared,
local, ssh; and its datastore driver fs):

* Copies: SOURCE is the content, ``SOURCE.snap/<id>`` is what it was. So for raw images everywhere,
  and for all images of ``ssh``.
* A chain: SOURCE is the oldest file, ``SOURCE.snap/0`` a link to it, and each further number is a
  qcow2 file over another one; the highest is the content. A link ``<name>.snap -> .`` in the
  directory makes relative names work. Of snapshot k the content is ``SOURCE.snap/k``, or the file
  that ``k.current`` names, when a running VM has merged files.
* ``local``: a chain that is all in the directory, and SOURCE itself is a link to the content.

Links, and the names of backing files in qcow2 headers, are relative or absolute; they may be those
of another time or another place. So only their last part counts, and only among the image's own
files: nothing leads out of it, whatever is written there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from nebfs.content.layers.qcow2_header import parse
from nebfs.content.views import DEEPEST
from nebfs.datastores.entries import CURRENT, Entry
from nebfs.errors import BadAnswer, Refused, Unsupported
from nebfs.model import Image, shown_line

SNAP = ".snap"

_NUMBER = re.compile(r"[0-9]{1,18}")

_LINKING = frozenset({"qcow2", "shared"})
"""The transfer drivers (TM_MAD) that make chains over SOURCE; they are the same one."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What was found: SOURCE, which may be a link, and what is in ``SOURCE.snap``."""

    source: Entry
    entries: tuple[Entry, ...]
    crowded: bool = False
    """There are too many: none of them was looked at."""


class Files:
    """The files of one image, and how they build on each other.

    Raises BadAnswer, Refused or Unsupported, which say what is wrong with this image.
    """

    def __init__(
        self, chain: Chain, image: Image, transfer: str, others: Collection[str] = ()
    ) -> None:
        """`transfer` is the datastore's TM_MAD, `others` the names of other images' files."""
        self._source = chain.source
        self._entries = {entry.name: entry for entry in chain.entries}
        self._crowded = chain.crowded
        self._others = others
        # The first bytes of a raw disk are its VM's to write: never taken for a header.
        self._linked = image.format.lower() in {"qcow2", "qcow"}
        self._transfer = transfer

    def current(self) -> tuple[Entry, ...]:
        """Return the files of the content as a VM would see it, the topmost first."""
        source = self._source
        if source.kind == "link":
            return self._beneath(source)
        if self._crowded:
            raise BadAnswer("there are too many files in its snapshot directory")
        numbered = [name for name in self._entries if _NUMBER.fullmatch(name)]
        if not numbered or not self._linked:
            return self._beneath(source)
        top = self._entries[max(numbered, key=int)]
        return self._beneath(top if self._chained(numbered, top) else source)

    def snapshot(self, number: int) -> tuple[Entry, ...]:
        """Return the files of what was frozen as snapshot `number`, the topmost first."""
        if self._crowded:
            raise BadAnswer("there are too many files in its snapshot directory")
        merged = self._entries.get(f"{number}{CURRENT}")
        if merged is not None:
            return self._beneath(self._named(merged.text.strip()))
        found = self._entries.get(str(number))
        if found is None:
            raise BadAnswer("the snapshot's file is not there")
        return self._beneath(found)

    def _chained(self, numbered: Iterable[str], top: Entry) -> bool:
        """Whether the numbered files build on SOURCE, or on what did so. Else they are copies."""
        itself = self._entries.get(f"{self._source.name}{SNAP}")
        if itself is not None and itself.kind == "link":
            return True
        links = (self._entries[name] for name in numbered)
        if any(e.kind == "link" and _last(e.text) == self._source.name for e in links):
            return True
        # One that may not be read is not taken for a copy: then SOURCE would be the wrong content.
        return self._transfer in _LINKING and (top.is_qcow2 or top.failed != 0)

    def _beneath(self, entry: Entry) -> tuple[Entry, ...]:
        found: list[Entry] = []
        seen: set[str] = set()
        while True:
            file = self._followed(entry)
            if file.path in seen:
                raise BadAnswer("its files build on each other in a circle", file=file.name)
            if len(found) == DEEPEST:
                raise BadAnswer("its chain of files is too long", limit=DEEPEST)
            seen.add(file.path)
            found.append(file)
            if not self._linked or not file.is_qcow2:
                return tuple(found)
            header = parse(file.head)
            if not header.backing_name:
                return tuple(found)
            entry = self._named(header.backing_name)
            if header.backing_format not in {"", "qcow2"} and self._followed(entry).is_qcow2:
                # A guest can write a header to a raw disk; what is meant cannot be known.
                raise Unsupported("a file of it is of another format than it is said to be")

    def _followed(self, entry: Entry) -> Entry:
        """Follow links, by what they say, to a file."""
        seen: set[str] = set()
        while entry.kind == "link":
            if entry.path in seen:
                raise BadAnswer("a link of its snapshots leads to itself", file=entry.name)
            seen.add(entry.path)
            entry = self._named(entry.text)
        if entry.kind != "file":
            raise Unsupported(f"a {entry.kind} is where a file of it should be", file=entry.name)
        if entry.failed:
            raise Refused("a file of its chain may not be read", file=entry.name)
        return entry

    def _named(self, text: str) -> Entry:
        """Return the file of the image that `text`, a path that somebody wrote, means."""
        if self._crowded:
            raise BadAnswer("there are too many files in its snapshot directory")
        own = self._source.name
        directory, slash, name = text.rpartition("/")
        within = _last(directory)
        shown = shown_line(text)[:120]
        if ":" in text.partition("/")[0]:
            # What QEMU takes for a protocol: json:{...}, nbd://...
            raise Refused("a file of it builds on something that is no file", name=shown)
        if name == own and not within.endswith(SNAP):
            return self._source
        if slash and within != "." and not within.endswith(SNAP):
            raise Refused("a file of it builds on one that is outside of it", name=shown)
        owner = within.removesuffix(SNAP)
        if owner not in {within, own} and owner in self._others:
            raise Refused("a file of it builds on one of another image", name=shown)
        found = self._entries.get(name)
        if found is None and (merged := self._entries.get(f"{name}{CURRENT}")) is not None:
            found = self._entries.get(_last(merged.text.strip()))
        if found is None:
            raise BadAnswer("a file that it builds on is not there", name=shown)
        return found


def _last(path: str) -> str:
    return path.rpartition("/")[2]
