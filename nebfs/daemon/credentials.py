"""Who we are to the front-end: where the session is read, at the start and at every reload.

Where the settings name no file, the credential ``nebfs.auth`` that systemd hands to a service
(LoadCredential= in its unit; see systemd.exec(5)) comes before what OpenNebula's own tools read.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from nebfs.config import Settings
from nebfs.errors import UserError
from nebfs.opennebula import Session, find_session, given_session, own_session

CREDENTIAL = "nebfs.auth"


def session_of(settings: Settings) -> Session:
    """Read the session. Raises UserError with the file and the remedy."""
    return find_session(os.environ, Path.home(), path=settings.auth_file or _handed_over())


def renewed(settings: Settings, known: Session) -> Session:
    """Read the session again. Raises UserError as `session_of` does, and for another user's.

    What was listed for one user may not be shown as another's: that takes a mount of its own.
    """
    found = session_of(settings)
    if found.user != known.user:
        raise UserError(
            f"the session is of {found.user!r} now, and the mount is of {known.user!r}: "
            f"unmount, and mount again"
        )
    return found


def session_of_user(settings: Settings, uid: int) -> Session:
    """Read the session of a user of this machine, for ``others = "sessions"``. Blocking: his home
    may be far away. Raises UserError with the reason.
    """
    named = settings.users.sessions.get(uid)
    if named is not None:
        return given_session(named, uid, {0, os.geteuid()})
    if not settings.users.home_sessions:
        raise UserError(f"user {uid} is not in the table [users.sessions]")
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        raise UserError(f"user {uid} is not known to this machine, and has no home") from None
    return own_session(Path(home), uid)


def _handed_over() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(directory) / CREDENTIAL
    return path if directory and path.is_file() else None
