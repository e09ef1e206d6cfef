"""LVM's own commands: run within limits, and what they report read strictly.

Reports are asked for with ``--readonly``: LVM then takes no lock and does not talk to the kernel's
device mapper, so that looking never waits for somebody who changes the volume group.
Source: lvmreport(7), lvs(8), pvs(8), lvchange(8) of LVM 2.03.

Everything here blocks. A command may hang with its disk, and cannot even be killed then: call it
in a thread that is abandoned when nobody waits any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from nebfs.errors import BadAnswer, Missing, TimedOut, Unreachable, Unsupported
from nebfs.model import shown_line

NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}", re.ASCII)
"""What LVM lets a volume or a group be called (lvm(8)), and nothing that is a command's option."""

_MAX_REPORT = 32 << 20
"""Bytes. A segment takes some 250: this is as much as the metadata of a large group can hold."""

_AFTER_KILL = 1.0  # seconds
_MAX_NUMBER = 1 << 62
_SBIN = ("/usr/sbin", "/sbin")  # not in the PATH of ordinary users


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a volume, in bytes. `ranges` is where it is: ``device:first-last`` in extents."""

    kind: str
    start: int
    size: int
    ranges: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A logical volume as its group's metadata has it."""

    name: str
    uuid: str
    size: int
    attributes: str
    """lv_attr; what needs a look at the kernel is ``X`` in it."""
    segments: tuple[Segment, ...]

    @property
    def is_plain(self) -> bool:
        """Whether its own segments are all of it: it is no snapshot, pool, or part of another.

        An origin is plain, too: what is written to it goes to its own place.
        """
        return self.attributes[:1] in {"-", "o"}

    @property
    def kind(self) -> str:
        """How it is laid out: ``linear``, ``thin`` and so on; ``mixed`` if its parts differ."""
        kinds = {segment.kind for segment in self.segments}
        return kinds.pop() if len(kinds) == 1 else "mixed"


@dataclass(frozen=True, slots=True)
class Disk:
    """A physical volume: where its first extent starts, in bytes, and how long an extent is."""

    path: str
    start: int
    extent: int


def volumes(group: str, timeout: float) -> dict[str, Volume]:
    """Return the volumes of a group by name. `timeout` is in seconds.

    Raises Missing (no such group here), Unsupported (no LVM here), TimedOut, Unreachable or
    BadAnswer.
    """
    fields = "lv_name,lv_uuid,lv_size,lv_attr,segtype,seg_start,seg_size,seg_pe_ranges"
    rows = _rows("lvs", "lv", ["--segments", "-o", fields, "--", group], timeout, "seg")
    parts: dict[str, list[Segment]] = {}
    known: dict[str, tuple[str, int, str]] = {}
    for row in rows:
        name = row["lv_name"].strip("[]")  # so are those shown that others are made of
        parts.setdefault(name, []).append(
            Segment(
                row["segtype"],
                _number(row["seg_start"]),
                _number(row["seg_size"]),
                row["seg_pe_ranges"].strip(),
            )
        )
        uuid = row["lv_uuid"].replace("-", "")
        known[name] = uuid, _number(row["lv_size"]), row["lv_attr"]
    return {
        name: Volume(name, *known[name], tuple(sorted(found, key=lambda one: one.start)))
        for name, found in parts.items()
    }


def disks(group: str, timeout: float) -> dict[str, Disk]:
    """Return the disks of a group by path. Raises as ``volumes``."""
    fields = "pv_name,pe_start,vg_extent_size"
    rows = _rows("pvs", "pv", ["-o", fields, "-S", f"vg_name={group}"], timeout)
    return {
        row["pv_name"]: Disk(
            row["pv_name"], _number(row["pe_start"]), _number(row["vg_extent_size"])
        )
        for row in rows
    }


def is_open(volume: str, timeout: float) -> bool:
    """Whether somebody has the active `volume` (``group/name``) open. Raises as ``volumes``."""
    argv = ["--reportformat", "json", "-o", "lv_attr", "--", volume]
    (row,) = _parsed(run("lvs", argv, timeout), "lv", ("lv_attr",))
    # The sixth letter: "o" for open; anything but "-" is not known to be closed.
    return len(row["lv_attr"]) < 6 or row["lv_attr"][5] != "-"


def run(command: str, arguments: Sequence[str], timeout: float) -> bytes:
    """Run an LVM command and return what it printed. Raises as ``volumes``."""
    path = shutil.which(command, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))
    if path is None:
        raise Unsupported("LVM's commands are not on this machine: install lvm2", command=command)
    # A file, not a pipe: nobody has to read while we wait for the end.
    with _memory() as out, _memory() as said:
        argv = [path, *arguments]
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=said, env=_words()
            )
        except OSError as exc:
            raise Unreachable(f"LVM's command cannot be run: {exc.strerror}", path=path) from exc
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as exc:
            process.kill()
            # One that waits for a disk does not end before that answers.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_AFTER_KILL)
            raise TimedOut("LVM does not answer in time", command=command, after=timeout) from exc
        if code:
            said.seek(0)
            words = shown_line(said.read(4096).decode("utf-8", "replace"))
            if "not found" in words and "olume group" in words:
                raise Missing("the volume group is not on this machine", said=words)
            raise Unreachable("LVM's command failed", command=command, said=words)
        if out.seek(0, os.SEEK_END) > _MAX_REPORT:
            raise BadAnswer("LVM's report is too long", command=command)
        out.seek(0)
        return out.read()


def _memory() -> BinaryIO:
    return open(os.memfd_create("nebfs-lvm", os.MFD_CLOEXEC), "w+b")


def _words() -> dict[str, str]:
    """English, and no complaint about descriptors that Python has closed or will close."""
    return {**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}


def _rows(
    command: str, kind: str, arguments: Sequence[str], timeout: float, table: str = ""
) -> Iterable[Mapping[str, str]]:
    common = ["--readonly", "--units", "b", "--nosuffix", "--reportformat", "json"]
    fields = tuple(arguments[arguments.index("-o") + 1].split(","))
    return _parsed(run(command, [*common, *arguments], timeout), table or kind, fields)


def _parsed(report: bytes, table: str, fields: Sequence[str]) -> list[dict[str, str]]:
    try:
        found: Any = json.loads(report)
        rows = [row for part in found["report"] for row in part.get(table, ())]
        return [{field: _text(row[field]) for field in fields} for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise BadAnswer("LVM's report is not understood") from exc


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("LVM reports text")
    return value


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > _MAX_NUMBER:
        raise BadAnswer("LVM's report has something else where a number was expected")
    return int(text)
