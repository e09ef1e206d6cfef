"""Who is mounted where: one small JSON file per running daemon in the run directory.

The file outlives a daemon that is killed, so a registration counts as running only while a process
of that number *and start time* exists: numbers are used again. Nothing here is secret, but the
directory also holds control sockets, so it must be ours alone (0700).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import structlog

from nebfs.errors import UserError
from nebfs.model import without_credentials
from nebfs.private import Taken, lock_file, make_directory

log = structlog.get_logger()

# A socket's address has at most 107 bytes (sockaddr_un): enough for this name in a usual directory,
# and in any that control.py abbreviates. A digest keeps long names apart.
LONGEST_NAME = 50
SUFFIX = ".json"
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Registration:
    """One daemon. `pid_started` is in the kernel's clock ticks since boot, `started` in epoch."""

    mountpoint: str
    pid: int
    pid_started: int
    source: str
    socket: str
    started: float
    log_file: str = ""

    @classmethod
    def of_this_process(
        cls, run_dir: Path, mountpoint: Path, *, source: str, log_file: str = ""
    ) -> Self:
        """Describe the running process; its socket's name is derived from the mount point."""
        return cls(
            mountpoint=str(mountpoint),
            pid=os.getpid(),
            pid_started=process_start(os.getpid()) or 0,
            source=without_credentials(source),
            socket=str(socket_path(run_dir, mountpoint)),
            started=time.time(),
            log_file=log_file,
        )

    @property
    def alive(self) -> bool:
        """Whether that very process still exists (a zombie does not count)."""
        return process_start(self.pid) == self.pid_started


def name_of(mountpoint: Path) -> str:
    """Return a file name for `mountpoint`: as ``systemd-escape --path``, shortened if it must be.

    /mnt/one -> mnt-one. Two mount points never share a name.
    """
    text = os.fsencode(os.path.normpath(mountpoint)).strip(b"/")
    escaped = "".join(
        "-" if byte == 0x2F else chr(byte) if _plain(byte, position) else f"\\x{byte:02x}"
        for position, byte in enumerate(text)
    )
    if len(escaped) <= LONGEST_NAME:
        return escaped or "-"
    return f"{escaped[: LONGEST_NAME - 17]}-{hashlib.sha256(text).hexdigest()[:16]}"


def socket_path(run_dir: Path, mountpoint: Path) -> Path:
    """Return where the daemon of `mountpoint` listens for questions (see control.py)."""
    return run_dir / f"{name_of(mountpoint)}.sock"


def prepare(run_dir: Path) -> None:
    """Make `run_dir` with mode 0700, or check that it is ours and nobody else may write to it.

    Raises UserError: in /tmp anybody could have made it first and own our sockets.
    """
    try:
        make_directory(run_dir)
        found = run_dir.lstat()
    except OSError as exc:
        raise UserError(f"run directory {run_dir} cannot be made: {exc.strerror}") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(f"run directory {run_dir} is not a directory")
    if found.st_uid != os.geteuid():
        raise UserError(
            f"run directory {run_dir} belongs to user {found.st_uid}, not to us: "
            f"remove it or choose another with --run-dir"
        )
    if found.st_mode & 0o022:
        raise UserError(f"others may write to run directory {run_dir}: chmod go-w {run_dir}")


def register(run_dir: Path, registration: Registration) -> None:
    """Write `registration`, replacing what an earlier daemon of that mount point left behind."""
    prepare(run_dir)
    final = run_dir / f"{name_of(Path(registration.mountpoint))}{SUFFIX}"
    partial = final.with_name(f".{final.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(registration), file)
    partial.replace(final)  # a reader sees the old one or the new one, whole


@contextlib.contextmanager
def claimed(run_dir: Path, mountpoint: Path, *, exit_code: int) -> Iterator[None]:
    """Have `mountpoint` for this process alone: from a look at what is there until it is mounted.

    Raises UserError (with `exit_code`) when another process of this user has it: two that are
    started at once find nothing mounted yet, and one mount would hide the other.
    """
    prepare(run_dir)
    path = run_dir / f"{name_of(mountpoint)}{LOCK}"
    try:
        fd = lock_file(path)
    except Taken as exc:
        raise UserError(
            f"{mountpoint} is being mounted just now by another nebfs, process {exc.owner}: wait "
            f"for it, or name another directory",
            exit_code=exit_code,
        ) from exc
    except OSError as exc:
        raise UserError(f"{path} cannot be made: {exc.strerror}", exit_code=exit_code) from exc
    try:
        yield  # the file stays: whoever removed it could remove another's
    finally:
        os.close(fd)


def unregister(run_dir: Path, mountpoint: Path, *, pid: int = 0) -> None:
    """Remove the registration and the socket of `mountpoint`; no error if there is none.

    `pid`: only if they are of this process. One that was detached with files open ends later, and
    another may be mounted there by then.
    """
    if pid:
        found = find(run_dir, mountpoint)
        if found is None or found.pid != pid:
            return
    (run_dir / f"{name_of(mountpoint)}{SUFFIX}").unlink(missing_ok=True)
    socket_path(run_dir, mountpoint).unlink(missing_ok=True)


def registered(run_dir: Path) -> list[Registration]:
    """Return every registration, of living and dead daemons, by mount point."""
    try:
        files = sorted(run_dir.glob(f"[!.]*{SUFFIX}"))
    except OSError:  # the directory does not exist, or may not be read: nobody of ours is in it
        return []
    return sorted(filter(None, map(_read, files)), key=lambda one: one.mountpoint)


def running(run_dir: Path) -> list[Registration]:
    """Return the registrations whose daemon is alive, by mount point."""
    return [one for one in registered(run_dir) if one.alive]


def find(run_dir: Path, mountpoint: Path) -> Registration | None:
    """Return the registration of `mountpoint`, alive or not."""
    return _read(run_dir / f"{name_of(mountpoint)}{SUFFIX}")


def process_start(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks since boot; None if there is none.

    From field 22 of /proc/PID/stat, see proc(5).
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may itself hold brackets and blanks.
    fields = line[line.rindex(b")") + 2 :].split()
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


def _plain(byte: int, position: int) -> bool:
    char = chr(byte)
    return (byte < 0x80 and char.isalnum()) or char in ":_" or (char == "." and position > 0)


def _read(file: Path) -> Registration | None:
    with contextlib.suppress(FileNotFoundError):
        try:
            return _registration(json.loads(file.read_bytes()))
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                raise
            log.warning("registration_unreadable", file=str(file), error=exc.strerror)
        except (ValueError, TypeError) as exc:  # not ours, or of another version
            log.warning("registration_not_understood", file=str(file), error=str(exc))
    return None


def _registration(said: object) -> Registration:
    if not isinstance(said, dict):
        raise TypeError("not a JSON object")
    found = Registration(**said)  # TypeError for a missing or unknown field
    for name, kind in (("mountpoint", str), ("pid", int), ("pid_started", int), ("socket", str)):
        if not isinstance(getattr(found, name), kind):
            raise TypeError(f"{name} is not {kind.__name__}")
    return found
