"""OpenNebula's own error codes as classes of the error tree.

Two families arrive over XML-RPC: the code in a failed call's result array (OpenNebula's
``RequestManager`` error codes, a bit each) and the code of an XML-RPC fault (xmlrpc-c's numbers,
negative). ``failure`` maps both, once. Every class is also a class of nebfs/errors.py where one
fits, so that the rooms above catch ``Missing`` or ``Refused`` and need not know these names.
"""

from __future__ import annotations

import errno

from nebfs.errors import Busy, Missing, NebfsError, Refused, Unreachable, Unsupported

# A message is a line of a log and of a shell: longer ones are somebody's data, not an explanation.
_MAX_TEXT = 400

# What oned answers (code INTERNAL) while a cluster of front-ends elects its leader or catches up.
_ELECTION_TEXTS = ("election mode", "replicating log", "no leader found")


class RpcError(NebfsError):
    """The front-end answered, and its answer is an error: `code` is OpenNebula's own number."""

    def __init__(
        self, message: str, *, code: int, retry_after: float | None = None, **facts: object
    ) -> None:
        """`code`: positive for a failed call, negative for an XML-RPC fault."""
        super().__init__(message, retry_after=retry_after, **facts, code=code)
        self.code = code

    @property
    def login_refused(self) -> bool:
        """Whether the session itself is not accepted: no call will work, so do not mount."""
        return isinstance(self, NotAuthenticated)


class NotAuthenticated(RpcError, Refused):
    """0x0100: unknown user, wrong or expired secret. Trying again with the same one is useless."""


class NotAuthorised(RpcError, Refused):
    """0x0200: the user is known and may not do this; also what a user's lock on an object gives."""


class NoSuchObject(RpcError, Missing):
    """0x0400: there is no object with this id."""


class ActionRefused(RpcError, Busy):
    """0x0800: the object's state, or its marketplace, does not allow this now."""


class BadCall(RpcError):
    """0x1000 and faults -501, -503: the front-end does not accept these parameters."""

    errno = errno.EINVAL


class Electing(RpcError, Unreachable):
    """0x2000 with a text of a front-end cluster without a leader: over in seconds."""


class AlreadyTaken(RpcError):
    """0x4000: the name is in use."""

    errno = errno.EEXIST


class ObjectLocked(RpcError, Busy):
    """0x8000: a user's lock; kept for versions that say so (7.4 answers 0x0200)."""


class NotReplicated(RpcError, Unreachable):
    """0x10000: the leader could not pass a change on to enough of its followers."""

    errno = errno.EAGAIN


class CannotSend(RpcError):
    """Fault -500: the call was cut off inside the front-end's XML-RPC library.

    The usual reason is one object with a character outside the Basic Multilingual Plane (an emoji)
    anywhere in its document: the whole pool that holds it can then not be sent.
    """


class UnknownMethod(RpcError, Unsupported):
    """Fault -506: this version of OpenNebula has no such call."""

    errno = errno.ENOSYS


_KINDS: dict[int, type[RpcError]] = {
    0x0100: NotAuthenticated,
    0x0200: NotAuthorised,
    0x0400: NoSuchObject,
    0x0800: ActionRefused,
    0x1000: BadCall,
    0x8000: ObjectLocked,
    0x10000: NotReplicated,
    -500: CannotSend,
    -501: BadCall,
    -503: BadCall,
    -506: UnknownMethod,
}


def failure(code: int, text: str, *, method: str = "", secret: str = "") -> RpcError:
    """Return the error for OpenNebula's `code` and `text`, to be raised by the caller.

    `secret` is replaced in the text, should the other side ever repeat it.
    """
    kind = _KINDS.get(code, RpcError)
    lowered = text.lower()
    if code == 0x2000 and any(known in lowered for known in _ELECTION_TEXTS):
        kind = Electing
    elif code == 0x4000 and "already taken" in lowered:
        kind = AlreadyTaken
    shown = text.replace(secret, "[secret]") if secret else text
    # One line, whatever the server put in: control characters would forge lines of a log.
    shown = " ".join("".join(c if c.isprintable() else " " for c in shown).split())
    message = shown[:_MAX_TEXT] or "an error without a text"
    return kind(message, code=code, method=method) if method else kind(message, code=code)
