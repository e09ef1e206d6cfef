"""The ways in which readers use the mount, each again and again until the time is over.

A reader is a process of its own, and only stops by what the board says:

    python -m tests.promises.soak.uses PLAN NUMBER

The plan is a JSON document, made by ``run``.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.promises.soak.oracle import Handle
from tests.promises.soak.reader import Image, Reader

CHUNK = 128 << 10
LISTS = 20
"""Deadlines for a whole walk: that of each directory that must ask its place, one after another."""


def _copy(face: str) -> Callable[[Reader], None]:
    """cp: the whole image from its beginning."""

    def copy(reader: Reader) -> None:
        image = reader.random.choice(reader.images)
        path = image.paths[face]
        with reader.opened(image, face) as handle:
            if handle is None:
                return
            for offset in range(0, handle.size, CHUNK):
                if reader.board.stop or not reader.read(handle, offset, CHUNK, path):
                    return
                reader.rest(0.5)

    return copy


def _scattered(face: str, formats: tuple[int, ...] = ()) -> Callable[[Reader], None]:
    """A guest: 4 KiB here and there, with the file open for a while."""

    def scattered(reader: Reader) -> None:
        images = [i for i in reader.images if i.number in formats] or reader.images
        image = reader.random.choice(images)
        path = image.paths[face]
        with reader.opened(image, face) as handle:
            if handle is None:
                return
            os.posix_fadvise(handle.fd, 0, 0, os.POSIX_FADV_RANDOM)
            for _ in range(reader.random.choice((20, 200))):
                length = reader.random.choice((1, 512, 4096, 4096, 4096, 70_000))
                offset = reader.random.randrange(max(1, handle.size - length))
                if reader.board.stop or not reader.read(handle, offset, length, path):
                    return
                reader.rest(0.3)
            # Or the kernel alone would answer the next time.
            os.posix_fadvise(handle.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    return scattered


def _mapped(reader: Reader) -> None:
    """mmap: an error there is a signal that ends the process, so it is a child that reads."""
    image = reader.random.choice(reader.images)
    face = reader.random.choice(("published", "raw"))
    path, began = image.paths[face], time.monotonic()
    with reader.opened(image, face) as handle:
        if handle is None:
            return
        child = os.fork()
        if child == 0:
            try:
                _read_map(reader, handle, path)
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        # What the child did is on the board: go on from there.
        _, _, longest, *counts = reader.board.line(reader.slot)
        line = reader.line
        line.longest = longest
        line.operations, line.bytes, line.errors, line.wrong = counts
        if os.WIFSIGNALED(status):
            if os.WTERMSIG(status) != signal.SIGBUS:
                reader.found("strange", f"signal {os.WTERMSIG(status)} in a map of {path}")
            reader.failed(OSError(errno.EIO, "SIGBUS"), began, f"map of {path}")
        with line.operation(0.0):
            pass


def _read_map(reader: Reader, handle: Handle, path: str) -> None:
    with mmap.mmap(handle.fd, handle.size, prot=mmap.PROT_READ) as memory:
        for _ in range(30):
            offset = reader.random.randrange(handle.size // 4096) * 4096
            with reader.within(2, f"page of {path}"):
                got = memory[offset : offset + 4096]
            if not reader.compare(handle, offset, got, path) or reader.board.stop:
                return
            reader.rest(0.3)


def _walk(reader: Reader) -> None:
    """find: every name and its attributes. A name that is missing was taken away by a failure."""
    seen: set[str] = set()
    broken = False
    left = [os.fspath(reader.mount)]
    while left:
        top, began = left.pop(), time.monotonic()
        try:
            with reader.within(2, f"list of {top}"):
                entries = list(os.scandir(top))
        except OSError as error:
            reader.failed(error, began, f"list of {top}", (errno.ENOENT,))
            broken = True
            continue
        for entry in entries:
            seen.add(entry.path)
            began = time.monotonic()
            try:
                with reader.within(2, f"stat of {entry.path}"):
                    os.lstat(entry.path)
            except OSError as error:
                # It may have been replaced since it was listed.
                reader.failed(error, began, f"stat of {entry.path}", (errno.ENOENT,))
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.path)
        if reader.board.stop:
            return
        reader.rest(0.2)
    missing = set(reader.plan["names"]) - seen
    if missing and not broken:
        reader.found("vanished", f"{min(missing)}, of {len(missing)}")


def _tool(*words: str) -> Callable[[Reader], None]:
    """ls, find, stat: the real ones."""

    def tool(reader: Reader) -> None:
        began = time.monotonic()
        with reader.within(LISTS, words[0]):
            done = subprocess.run(
                [words[0], reader.mount, *words[1:]], capture_output=True, text=True, check=False
            )
        # What is replaced meanwhile may be gone when its turn comes.
        if done.returncode and "No such file" not in done.stderr:
            said = done.stderr.strip().splitlines()[-1] if done.stderr else "no word"
            reader.failed(OSError(errno.EIO, said), began, f"{words[0]}: {said}")
        reader.rest(40)

    return tool


def _churn(reader: Reader) -> None:
    """Open, read a byte, close."""
    image = reader.random.choice(reader.images)
    face = reader.random.choice(("published", "raw"))
    with reader.opened(image, face) as handle:
        if handle is not None:
            reader.read(handle, reader.random.randrange(handle.size), 1, image.paths[face])


def _attributes(reader: Reader) -> None:
    """getfattr: all extended attributes of an image."""
    image: Image = reader.random.choice(reader.images)
    path, began = image.paths["published"], time.monotonic()
    try:
        with reader.within(2, f"attributes of {path}"):
            for name in os.listxattr(path):
                os.getxattr(path, name)
    except OSError as error:
        if error.errno != errno.ENODATA:  # one that was listed may have no value any more
            reader.failed(error, began, f"attributes of {path}")


def _asking(reader: Reader) -> Callable[[Reader], None]:
    """Prometheus, a dashboard and somebody who types `nebfs status`."""
    from nebfs.daemon.control import ask
    from nebfs.errors import NebfsError

    socket = Path(reader.plan["socket"])
    commands = iter(range(1 << 30))

    def asking(reader: Reader) -> None:
        try:
            with reader.within(1, "status"):
                ask(socket, "GET", "/v1/status", timeout=60)
                (reader.mount / ".nebfs/status.json").read_text()
            with reader.within(1, "metrics"):
                urllib.request.urlopen(reader.plan["metrics"], timeout=60).read()
            if next(commands) % 60 == 0:
                with reader.within(2, "nebfs status"):
                    where = [reader.mount, "--run-dir", socket.parent]
                    subprocess.run(
                        [sys.executable, "-m", "nebfs.cli", "status", *where],
                        capture_output=True,
                        check=False,
                    )
        except (NebfsError, OSError) as error:
            reader.found("failed", f"status: {error!r}")
        reader.rest(20)

    return asking


PACKED = (1, 3, 5, 7)
"""The images that are not raw disks."""

USES: dict[str, Callable[[Reader], Callable[[Reader], None]]] = {
    "copy": lambda _: _copy("published"),
    "copy raw": lambda _: _copy("raw"),
    "random": lambda _: _scattered("published"),
    "random raw": lambda _: _scattered("raw", PACKED),
    "map": lambda _: _mapped,
    "walk": lambda _: _walk,
    "ls": lambda _: _tool("ls", "-lR"),
    "find": lambda _: _tool("find", "-printf", "%p %s\n"),
    "churn": lambda _: _churn,
    "attributes": lambda _: _attributes,
    "asking": _asking,
}
"""By the name that a plan has for it; each is given its reader once."""

MIX = {
    "copy": 5,
    "copy raw": 2,
    "random": 6,
    "random raw": 4,
    "map": 4,
    "walk": 2,
    "ls": 1,
    "find": 1,
    "churn": 3,
    "attributes": 2,
    "asking": 2,
}
"""The 32 readers of a long run."""

FEW = dict.fromkeys(MIX, 1)
"""Those of a short one."""


def main() -> None:
    """Use the mount until the board says stop."""
    plan, slot = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])
    reader = Reader(plan, slot)
    use = USES[plan["readers"][slot]](reader)
    while not reader.board.stop:
        try:
            use(reader)
        except Exception as error:
            reader.found("bug", f"{plan['readers'][slot]}: {error!r}")
            raise
        reader.rest()
    reader.found("errors", json.dumps(reader.failures))


if __name__ == "__main__":
    main()
