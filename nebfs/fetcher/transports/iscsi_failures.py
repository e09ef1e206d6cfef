"""What QEMU says when an iSCSI unit cannot be opened, in words that name the remedy.

The numbers are the protocol's own, the words those of libiscsi 1.19 and QEMU 7.2: where they are
others, what was said is shown as it is.
Source: RFC 7143, 11.13.5 (status class and detail of a login's answer); SPC-4, additional sense.
"""

from __future__ import annotations

import re

from nebfs.errors import Missing, NebfsError, Refused, Unreachable, Unsupported
from nebfs.fetcher.transports.qsd import REMEDY, Node
from nebfs.model import shown_line

# "Failed to log in to target. Status: Authentication failure(513)": class and detail in one number.
_LOGIN = re.compile(r"log ?in to target.{0,40}?\((\d{3,5})\)")
_AUTHENTICATION, _AUTHORIZATION, _NOT_FOUND, _REMOVED = 0x0201, 0x0202, 0x0203, 0x0204
_NO_UNIT = "(0x2500)"  # LOGICAL UNIT NOT SUPPORTED
_NO_DRIVER = ("Unknown driver", "failed to open module", "Failed to open module")


def explain(node: Node, said: str) -> NebfsError:
    """Say why the unit could not be opened."""
    where = node.shown
    # What precedes it are the options: they hold no secret, but whatever somebody has put there.
    told = said.rpartition("}: ")[2]
    login = _LOGIN.search(told)
    status = int(login[1]) if login else 0
    if status in (_AUTHENTICATION, _AUTHORIZATION):
        if node.secrets:
            return Refused("the target does not accept this CHAP user or password", where=where)
        return Refused(
            "the target does not let us in: it may want a CHAP user and password, which the file of"
            " credentials has by its address, or know only other initiators",
            where=where,
        )
    if status in (_NOT_FOUND, _REMOVED):
        return Missing("there is no such target, or not for this initiator", where=where)
    if _NO_UNIT in told:
        return Missing("the target has no such LUN", where=where)
    if any(words in told for words in _NO_DRIVER):
        return Unsupported(f"QEMU has no driver for iSCSI here; {REMEDY}")
    reason = shown_line(told.rpartition("iSCSI:")[2]) or "it said nothing"
    return Unreachable("the target cannot be reached", where=where, reason=reason)
