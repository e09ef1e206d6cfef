"""The disk images of the demonstration: real ones, made by the real tools, the same every time.

Contents come from a counter through SHA-256, so that no two 4 KiB blocks are alike and a misplaced
read shows. A directory that holds intact images is left as it is: a manifest says what was made.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nebfs.demo.cloud import digests
from nebfs.errors import UserError
from nebfs.units import GIB, KIB, MIB

RECIPE = 1
"""Counts changes of what is made: images of another recipe are made again."""

EPOCH = 1_767_225_600
"""2026-01-01 00:00 UTC: the time of every file inside the images."""

DISK_SIZE = 64 * MIB
SPARSE_SIZE = 4 * GIB
SPARSE_ISLANDS = (
    (0, 2 * MIB),
    (2 * GIB, 4 * MIB),
    (SPARSE_SIZE - 2 * MIB, 2 * MIB),
)
"""(offset, length) of what is not a hole in the sparse disk."""

# The digests of the sparse disk are known, so that nobody waits for 4 GiB to be hashed; a test
# computes them.
_SPARSE_MD5 = "e307c897bb9a37132e42fd0559c6081e"
_SPARSE_SHA256 = "3cf713fde964d9901bf62eedfc2190b191ac7c4f42bdd2dab6cfb509014c11a4"

_UUID = "6e656266-7364-4d65-8d6f-000000000001"
_MANIFEST = "manifest.json"
_BLOCK = 4 * KIB
_PACKAGES = {"mke2fs": "e2fsprogs", "qemu-img": "qemu-utils", "xorriso": "xorriso"}
_TOOL_TIMEOUT = 60.0  # seconds; each takes less than one
_README = b"This disk was made by `nebfs demo`. It boots nothing.\n"


@dataclass(frozen=True, slots=True)
class MadeImage:
    """One file: where it is, its exact length, its digests, the disk that it holds."""

    path: Path
    size: int
    virtual_size: int
    md5: str
    sha256: str
    format: str

    @property
    def size_mb(self) -> int:
        """The virtual size in MiB, rounded up, as OpenNebula gives it."""
        return -(-self.virtual_size // MIB)


@dataclass(frozen=True, slots=True)
class DemonstrationImages:
    """All images of the demonstration."""

    raw: MadeImage
    """A raw disk that holds an ext4 filesystem with files."""
    qcow2: MadeImage
    """The same disk as qcow2."""
    sparse: MadeImage
    """A raw disk of 4 GiB with data in SPARSE_ISLANDS only."""
    iso: MadeImage
    data: MadeImage
    """A small raw disk without any structure."""
    data_gz: MadeImage
    """The small raw disk, compressed with gzip."""
    kernel: MadeImage


_NAMES = {
    "raw": ("disk.raw", "raw"),
    "qcow2": ("disk.qcow2", "qcow2"),
    "sparse": ("sparse.raw", "raw"),
    "iso": ("rescue.iso", "raw"),
    "data": ("data.raw", "raw"),
    "data_gz": ("data.raw.gz", "raw"),
    "kernel": ("vmlinuz", "raw"),
}


def pattern(start: int, length: int, label: str = "nebfs") -> bytes:
    """Return `length` bytes of the pattern at offset `start`, both multiples of 4 KiB.

    Every block of 4 KiB repeats the SHA-256 of its own number and of `label`.
    """
    return b"".join(
        hashlib.sha256(f"{label} {number}".encode()).digest() * (_BLOCK // 32)
        for number in range(start // _BLOCK, (start + length) // _BLOCK)
    )


def make_images(directory: Path) -> DemonstrationImages:
    """Make all images in `directory`, or find them there. UserError names a missing package."""
    directory.mkdir(parents=True, exist_ok=True)
    found = _read_manifest(directory)
    if found is not None:
        return found
    for tool, package in _PACKAGES.items():
        if shutil.which(tool, path=_search_path()) is None:
            raise UserError(
                f"the demonstration makes its images with {tool}, which is not installed; "
                f"install the package {package}"
            )
    # An old file may be a hard link into somebody's datastore: never write into it.
    for name, _ in _NAMES.values():
        (directory / name).unlink(missing_ok=True)
    _make_disk(directory / "disk.raw")
    _run("qemu-img", "convert", "-O", "qcow2", directory / "disk.raw", directory / "disk.qcow2")
    _make_sparse(directory / "sparse.raw")
    _make_iso(directory / "rescue.iso")
    (directory / "data.raw").write_bytes(pattern(0, 8 * MIB, "data"))
    (directory / "data.raw.gz").write_bytes(
        gzip.compress((directory / "data.raw").read_bytes(), compresslevel=1, mtime=0)
    )
    _make_kernel(directory / "vmlinuz")
    made = {key: _describe(key, directory) for key in _NAMES}
    _write_manifest(directory, made)
    return DemonstrationImages(**made)


def _describe(key: str, directory: Path) -> MadeImage:
    name, form = _NAMES[key]
    path = directory / name
    size = path.stat().st_size
    virtual = {"qcow2": DISK_SIZE, "data_gz": 8 * MIB}.get(key, size)
    md5, sha256 = (_SPARSE_MD5, _SPARSE_SHA256) if key == "sparse" else digests(path)
    return MadeImage(path, size, virtual, md5, sha256, form)


def _read_manifest(directory: Path) -> DemonstrationImages | None:
    """Return what was made here before, or None when anything of it is not as it was."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
        if manifest["recipe"] != RECIPE:
            return None
        made = {}
        for key, entry in manifest["images"].items():
            path = directory / _NAMES[key][0]
            status = path.stat()
            if (status.st_size, status.st_mtime_ns) != (entry["size"], entry["modified"]):
                return None
            made[key] = MadeImage(
                path,
                entry["size"],
                entry["virtual_size"],
                entry["md5"],
                entry["sha256"],
                _NAMES[key][1],
            )
        return DemonstrationImages(**made)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing there, or the leavings of a broken run: make them again


def _write_manifest(directory: Path, made: dict[str, MadeImage]) -> None:
    entries = {
        key: {
            "size": one.size,
            "modified": one.path.stat().st_mtime_ns,
            "virtual_size": one.virtual_size,
            "md5": one.md5,
            "sha256": one.sha256,
        }
        for key, one in made.items()
    }
    part = directory / (_MANIFEST + ".part")
    part.write_text(json.dumps({"recipe": RECIPE, "images": entries}, indent=1))
    part.replace(directory / _MANIFEST)


def _search_path() -> str:
    # On Debian, mke2fs is outside of an ordinary user's PATH.
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _run(*argv: str | Path, stdin: str = "") -> None:
    """Run a tool to its end; UserError with what it said if it fails."""
    # The variables make mke2fs and xorriso write a fixed time; old mke2fs knows the second only.
    env = {
        **os.environ,
        "LC_ALL": "C",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "E2FSPROGS_FAKE_TIME": str(EPOCH),
        "PATH": _search_path(),
    }
    done = subprocess.run(
        [str(word) for word in argv],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=_TOOL_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{argv[0]} could not make an image of the demonstration: {last}")


def _populate(directory: Path) -> list[str]:
    """Put the files of the disk and of the ISO into `directory`; return their paths inside it."""
    files = {
        "README.txt": _README,
        "etc/hostname": b"demonstration\n",
        "etc/os-release": b'NAME="Demonstration"\nID=demonstration\n',
        "srv/pattern.bin": pattern(0, 6 * MIB, "file"),
    }
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    folders = ["etc", "srv"]
    for name in [*files, *folders, "."]:
        os.utime(directory / name, (EPOCH, EPOCH))
    return [*folders, *files]


def _make_disk(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        names = _populate(Path(scratch))
        options = f"hash_seed={_UUID},root_owner=0:0,lazy_itable_init=0,nodiscard"
        _run(
            *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "demonstration"),
            *("-U", _UUID, "-E", options, "-d", scratch, path, f"{DISK_SIZE // KIB}k"),
        )
    # What mke2fs copies of the staging files and of the clock of this very moment is set by hand.
    fields = [("uid", "0"), ("gid", "0"), ("ctime", f"@{EPOCH}"), ("atime", f"@{EPOCH}")]
    fields += [(f"{stamp}_extra", "0") for stamp in ("ctime", "atime", "mtime", "crtime")]
    fields += [("crtime", f"@{EPOCH}")]
    commands = [f"sif /{name} {key} {value}" for name in names for key, value in fields]
    _run("debugfs", "-w", "-f", "-", path, stdin="\n".join(commands) + "\n")


def _make_sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(SPARSE_SIZE)
        for offset, length in SPARSE_ISLANDS:
            stream.seek(offset)
            stream.write(pattern(offset, length, "sparse"))


def _make_iso(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        _populate(Path(scratch))
        _run(
            *("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", "RESCUE"),
            *("--set_all_file_dates", "set_to_mtime", "-o", path, scratch),
        )


def _make_kernel(path: Path) -> None:
    # The x86 boot protocol's marks: 0xAA55 at 510 and "HdrS" at 514; file(1) sees a kernel.
    content = bytearray(pattern(0, MIB, "kernel"))
    content[510:512] = b"\x55\xaa"
    content[514:518] = b"HdrS"
    path.write_bytes(content)
