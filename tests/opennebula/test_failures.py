from __future__ import annotations

import errno

import pytest

from nebfs.errors import Busy, Missing, NebfsError, Refused, Unreachable, Unsupported
from nebfs.opennebula import BadCall, CannotSend, RpcError
from nebfs.opennebula.failures import failure


@pytest.mark.parametrize(
    ("code", "text", "kind", "number", "temporary"),
    [
        (0x0100, "User couldn't be authenticated", Refused, errno.EACCES, False),
        (0x0200, "Not authorized to perform USE", Refused, errno.EACCES, False),
        (0x0400, "Error getting image [9].", Missing, errno.ENOENT, False),
        (0x0800, "Delete disabled for market", Busy, errno.EBUSY, False),
        (0x1000, "Incorrect filter_flag", BadCall, errno.EINVAL, False),
        (0x2000, "Internal error", RpcError, errno.EIO, False),
        (0x2000, "Cannot process request, in election mode", Unreachable, errno.EIO, True),
        (0x2000, "Error Replicating Log entry", Unreachable, errno.EIO, True),
        (0x2000, "No leader found", Unreachable, errno.EIO, True),
        (0x4000, "NAME is already taken by IMAGE 0.", RpcError, errno.EEXIST, False),
        (0x4000, "Invalid NAME", RpcError, errno.EIO, False),
        (0x8000, "locked", Busy, errno.EBUSY, False),
        (0x10000, "not replicated", Unreachable, errno.EAGAIN, True),
        (-500, "Unexpected error", CannotSend, errno.EIO, False),
        (-501, "Not enough parameters", BadCall, errno.EINVAL, False),
        (-503, "Call XML not a proper XML-RPC call", BadCall, errno.EINVAL, False),
        (-506, "not defined", Unsupported, errno.ENOSYS, False),
        (-32700, "some other library's fault", RpcError, errno.EIO, False),
        (0x7777, "a code of the future", RpcError, errno.EIO, False),
    ],
)
def test_every_code_has_its_class_and_errno(code, text, kind, number, temporary):
    error = failure(code, text, method="one.image.info")
    assert isinstance(error, kind)
    assert isinstance(error, RpcError)
    assert isinstance(error, NebfsError)
    assert (error.errno, error.temporary, error.code) == (number, temporary, code)
    assert error.facts == {"method": "one.image.info", "code": code}


def test_a_refused_login_can_be_told_from_a_missing_right():
    assert failure(0x0100, "x").login_refused
    assert not failure(0x0200, "x").login_refused
