"""Sessions of other users of this machine: files that a daemon reads for them, often as root.

Nobody may have the daemon read what he could not read himself, or be taken for somebody else. So a
file counts if it belongs to the very user whose session it is to be; or to root or who runs the
daemon, if none but those could have put it where it is. Links are not followed, what is no regular
file is not read, and a secret that all users of the machine may read is none.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection
from pathlib import Path

from nebfs.errors import UserError
from nebfs.opennebula.session import MAX_FILE, Session, first_line, parse_session

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def own_session(home: Path, uid: int) -> Session:
    """Read ``.one/one_auth`` in a user's home, which must be the user's own file.

    Blocking. Raises UserError with the file and the reason.
    """
    path = home / ".one" / "one_auth"
    try:
        file = os.open(path, _READ)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    return _read(file, path, {uid})


def given_session(path: Path, uid: int, trusted: Collection[int]) -> Session:
    """Read the file at the absolute `path`, which the settings name for the user `uid`.

    It is the user's own, or belongs to one of the `trusted` uids and is where only they could put
    it. Blocking. Raises UserError with the file and the reason.
    """
    way = None
    try:
        way = _trusted_way(path, trusted)
        file = os.open(path if way is None else path.name, _READ, dir_fd=way)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    finally:
        if way is not None:
            os.close(way)
    return _read(file, path, {uid} if way is None else {uid, *trusted})


def _trusted_way(path: Path, trusted: Collection[int]) -> int | None:
    """Return a descriptor of the file's directory, if nobody but `trusted` uids and root can change
    where the path leads, else None: there is a link, or a directory of somebody else.
    """
    at = os.open("/", _WALK)
    for part in (*path.parts[1:-1], None):
        found = os.fstat(at)
        # In a sticky directory such as /tmp nobody replaces what belongs to others; but a file that
        # is not there yet could be made by anybody, as another name of one that is elsewhere.
        held = found.st_mode & stat.S_ISVTX and part is not None
        loose = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not held
        if loose or found.st_uid not in {0, *trusted}:
            break
        if part is None:
            return at
        before = at
        try:
            at = os.open(part, _WALK, dir_fd=before)
        except OSError as exc:
            if exc.errno in {errno.ENOTDIR, errno.ELOOP}:
                at = before
                break
            os.close(before)
            raise
        os.close(before)
    os.close(at)
    return None


def _read(file: int, path: Path, owners: Collection[int]) -> Session:
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is no regular file")
        if found.st_uid not in owners:
            named = "user " + " or ".join(str(uid) for uid in sorted(owners))
            raise UserError(
                f"{path} belongs to user {found.st_uid}, and does not count: give it to {named},"
                " and reach it by no link and through no directory that others may change"
            )
        if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            mode = stat.S_IMODE(found.st_mode)
            raise UserError(
                f"{path} is open to others (mode {mode:04o}), and does not count: chmod 600 it"
            )
        data = os.read(file, MAX_FILE + 1)
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    finally:
        os.close(file)
    if len(data) > MAX_FILE:
        raise UserError(f"{path} is too large to be a session: it needs a single line")
    return parse_session(first_line(data, path), str(path))


def _unreadable(path: Path, exc: OSError) -> UserError:
    if exc.errno == errno.ENOENT:
        return UserError(f"there is no session file {path}")
    if exc.errno == errno.ELOOP:
        return UserError(f"{path} is a link, and does not count: name the file itself")
    return UserError(f"{path} cannot be read ({exc.strerror})")
