"""What the documents of a restic repository say: snapshots, trees, indexes. Pure.

They are JSON, authenticated by the repository's keys, and still somebody's: whoever makes backups
writes them. So everything is checked, and what is not as it should be is BadAnswer.
Source: restic's doc/design.rst.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nebfs.errors import BadAnswer, Unsupported

MAX_PATHS = 256
"""Paths of one snapshot: OpenNebula names each file, a few for each disk of a VM."""

MAX_NODES = 65536
"""Entries of one directory. Those that are looked into have the files of a backup, or one entry."""

MAX_DEPTH = 64
"""Directories above a file."""

MAX_BLOB = 64 << 20
"""Bytes of one blob of a file, before it is compressed; restic makes them of 512 KiB to 8 MiB."""

_NAME = re.compile(r"[0-9a-f]{64}")
_UINT32 = 1 << 32

_KINDS = {
    "file": "file",
    "dir": "directory",
    "symlink": "link",
    "dev": "block device",
    "chardev": "character device",
    "fifo": "pipe",
    "socket": "socket",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The root of one backup, and the absolute paths that it was made of, without ``..``."""

    tree: bytes
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """An entry of a directory. `content` has the SHA-256 of each blob of a file, one behind the
    other; `subtree` is the tree of a directory.
    """

    kind: str
    size: int = 0
    content: bytes = b""
    subtree: bytes = b""


@dataclass(frozen=True, slots=True)
class Packed:
    """A blob in a pack, as an index says: `length` bytes at `offset`, sealed. `size` is the blob's
    own length if it is compressed, else 0.
    """

    identity: bytes
    offset: int
    length: int
    size: int


def check_config(text: bytes) -> None:
    """Raise Unsupported if the repository is of a version that is not known."""
    version = _object(text, "its configuration").get("version")
    if version not in (1, 2):
        raise Unsupported("the repository is of an unknown version", version=str(version)[:20])


def read_snapshot(text: bytes) -> Snapshot:
    """Read a snapshot. Raises BadAnswer."""
    told = _object(text, "a snapshot")
    paths = told.get("paths") or []
    if not isinstance(paths, list) or len(paths) > MAX_PATHS:
        raise BadAnswer("a snapshot has too many paths", limit=MAX_PATHS)
    found = []
    for path in paths:
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise BadAnswer("a snapshot has a path that is not understood")
        plain = posixpath.normpath("/" + path.lstrip("/"))
        if plain.count("/") > MAX_DEPTH:
            raise BadAnswer("a snapshot has a path that is too deep", limit=MAX_DEPTH)
        found.append(plain)
    return Snapshot(_identity(told.get("tree")), tuple(dict.fromkeys(found)))


def read_tree(text: bytes) -> dict[str, Node]:
    """Read the entries of a directory, by name. Raises BadAnswer. Slow for large files."""
    nodes = _object(text, "a tree").get("nodes") or []
    if not isinstance(nodes, list) or len(nodes) > MAX_NODES:
        raise BadAnswer("a directory in the repository has too many entries", limit=MAX_NODES)
    found: dict[str, Node] = {}
    for node in nodes:
        if not isinstance(node, dict) or not isinstance(name := node.get("name"), str):
            raise BadAnswer("a tree of the repository is not understood")
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise BadAnswer("a tree of the repository has an impossible name in it")
        kind = _KINDS.get(str(node.get("type")), "thing of an unknown kind")
        if kind == "file":
            size = node.get("size", 0)
            if not isinstance(size, int) or not 0 <= size < 1 << 63:
                raise BadAnswer("a tree of the repository has an impossible length in it")
            found.setdefault(name, Node(kind, size, _identities(node.get("content") or [])))
        elif kind == "directory":
            found.setdefault(name, Node(kind, subtree=_identity(node.get("subtree"))))
        else:
            found.setdefault(name, Node(kind))
    return found


def read_index(text: bytes) -> Iterator[tuple[bytes, list[Packed]]]:
    """Give each pack that an index file knows, with the blobs in it. Raises BadAnswer. Slow."""
    packs = _object(text, "an index").get("packs") or []
    if not isinstance(packs, list):
        raise _not_understood("an index")
    for pack in packs:
        if not isinstance(pack, dict) or not isinstance(blobs := pack.get("blobs"), list):
            raise _not_understood("an index")
        yield _identity(pack.get("id")), [_packed(blob) for blob in blobs]


def _packed(blob: Any) -> Packed:
    match blob:
        case {"id": str(name), "offset": int(offset), "length": int(length)}:
            size = blob.get("uncompressed_length", 0)
            if (
                isinstance(size, int)
                and 0 <= offset < _UINT32
                and 0 <= length < _UINT32
                and 0 <= size < _UINT32
            ):
                return Packed(_identity(name), offset, length, size)
    raise _not_understood("an index")


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _not_understood(what) from exc
    if not isinstance(told, dict):
        raise _not_understood(what)
    return told


def _identity(name: object) -> bytes:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadAnswer("what should name a part of the repository does not")
    return bytes.fromhex(name)


def _identities(names: object) -> bytes:
    if not isinstance(names, list) or not all(isinstance(n, str) and len(n) == 64 for n in names):
        raise BadAnswer("what should name parts of the repository does not")
    try:
        found = bytes.fromhex("".join(names))
    except ValueError as exc:
        raise BadAnswer("what should name parts of the repository does not") from exc
    if len(found) != 32 * len(names):  # fromhex() skips white space
        raise BadAnswer("what should name parts of the repository does not")
    return found


def _not_understood(what: str) -> BadAnswer:
    return BadAnswer(f"{what} of the repository is not understood")
