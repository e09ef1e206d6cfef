"""The files of one disk of a VM, in the VM's directory of a system datastore. Blocking.

``disk.N`` is the disk, or a link: to a file of its own in ``disk.N.snap/``, to its image, or to a
device. What a link or a qcow2 header says is only a name: of the disk's own files it picks one, and
what lies elsewhere is not looked at here.
Source: OpenNebula's transfer drivers ssh, local, qcow2 (which is also shared), 7.4.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from nebfs.model import Revision

DEEPEST = 64
"""Files of one disk; OpenNebula's users flatten chains of 10 to 30."""

_QCOW2 = b"QFI\xfb"
_HEADER = 32
_LONGEST_NAME = 1023  # QEMU's docs/interop/qcow2.txt
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Strange(Exception):
    """The files are not as a transfer driver leaves them; the text says how."""

    def __init__(self, text: str, number: int = errno.EIO) -> None:
        super().__init__(text)
        self.errno = number


@dataclass(frozen=True, slots=True)
class File:
    """One file. `qcow2`: it is one, and `beneath` the name of what shows through it, if any."""

    path: str
    revision: Revision
    allocated: int
    qcow2: bool = False
    beneath: str = ""


def files_of(directory: str, number: int, *, chained: bool) -> tuple[tuple[File, ...], str]:
    """Return the files of disk `number`, the topmost first, and the name of what is beneath them;
    without files, of what the disk is a link to.

    `chained`: the disk is a qcow2 image by OpenNebula's record. Of any other the first bytes are
    the VM's to write, and not taken for a header. Raises OSError, Strange.
    """
    if not stat.S_ISDIR(os.lstat(directory).st_mode):
        raise Strange("the VM's directory is none")
    disk = f"disk.{number}"
    path, found = f"{directory}/{disk}", list[File]()
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        text = os.readlink(path)
        path = _own(directory, disk, path, text)
        if not path:
            return (), text
    seen: set[str] = set()
    while True:
        if path in seen or len(found) == DEEPEST:
            raise Strange("its files build on each other in a circle, or too deep")
        seen.add(path)
        file = _file(path, chained=chained)
        found.append(file)
        path = _own(directory, disk, path, file.beneath) if file.beneath else ""
        if not path:
            return tuple(found), file.beneath


def _own(directory: str, disk: str, current: str, text: str) -> str:
    """Return the path of the disk's own file that `text`, found in `current`, means; or nothing.

    Names may be those of another time or place, so their last parts count.
    """
    parts = [part for part in text.split("/") if part not in {"", "."}]
    snapshots = f"{disk}.snap"
    within = parts[-2] if len(parts) > 1 else ""
    beside = current.startswith(f"{directory}/{snapshots}/")
    if not parts or not parts[-1].isascii() or not parts[-1].isdigit():
        return ""
    if within != snapshots and not (len(parts) == 1 and beside):
        return ""
    machine = os.path.basename(directory)
    if len(parts) > 2 and parts[-3].isdigit() and parts[-3] != machine:
        raise Strange("it builds on a file of another VM", errno.EACCES)
    if not stat.S_ISDIR(os.lstat(f"{directory}/{snapshots}").st_mode):
        raise Strange("the directory of its snapshots is none")
    return f"{directory}/{snapshots}/{parts[-1]}"


def _file(path: str, *, chained: bool) -> File:
    try:
        fd = os.open(path, _OPEN)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise Strange("a link is where a file of it should be") from exc
        if exc.errno == errno.ENXIO:
            raise Strange("it is no file", errno.EOPNOTSUPP) from exc
        raise
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise Strange("it is no file", errno.EOPNOTSUPP)
        head = os.pread(fd, _HEADER, 0) if chained else b""
        qcow2 = len(head) == _HEADER and head.startswith(_QCOW2)
        beneath = _beneath(fd, head) if qcow2 else ""
    finally:
        os.close(fd)
    revision = Revision(facts.st_size, f"{facts.st_dev}:{facts.st_ino}", str(facts.st_mtime_ns))
    return File(path, revision, facts.st_blocks * 512, qcow2, beneath)


def _beneath(fd: int, head: bytes) -> str:
    """Return the name of the backing file: its place is at offset 8, its length at 16."""
    place, length = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
    if not place:
        return ""
    if not 0 < length <= _LONGEST_NAME or place >= 1 << 21:  # within the first cluster
        raise Strange("its qcow2 header is damaged")
    name = os.pread(fd, length, place)
    if len(name) < length:
        raise Strange("its qcow2 header is damaged")
    return name.decode("utf-8", "surrogateescape")
