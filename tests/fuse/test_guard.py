"""No exception but FUSEError leaves a handler: anything else would end the whole mount."""

from __future__ import annotations

import errno

import pyfuse3
import pytest
import trio

from nebfs import errors
from nebfs.fuse.guard import guarded, number_of
from nebfs.fuse.operations import Operations

KINDS = [kind("said") for kind in errors.KINDS.values()]


@pytest.mark.parametrize("failure", KINDS, ids=lambda f: type(f).__name__)
async def test_each_failure_has_its_errno(failure):
    @guarded
    async def handler():
        raise failure

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await handler()
    assert caught.value.errno == failure.errno


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (ZeroDivisionError(), errno.EIO),
        (KeyError("fh"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError("no number"), errno.EIO),
        (trio.TooSlowError(), errno.ETIMEDOUT),
        (RecursionError(), errno.EIO),
        (MemoryError(), errno.EIO),
        (ExceptionGroup("several", [ValueError(), KeyError()]), errno.EIO),
    ],
)
async def test_a_bug_of_any_type_is_an_errno(failure, number):
    @guarded
    async def handler():
        raise failure

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await handler()
    assert caught.value.errno == number == number_of(failure)


async def test_cancellation_is_not_swallowed():
    @guarded
    async def handler():
        await trio.sleep_forever()

    with trio.move_on_after(0) as scope:
        await handler()
    assert scope.cancelled_caught


def test_every_handler_is_guarded_or_cannot_fail():
    bare = {"forget", "releasedir", "release", "flush", "stacktrace", "init"}
    for name in vars(Operations):
        handler = getattr(Operations, name)
        if name.startswith("_") or not callable(handler) or not hasattr(pyfuse3.Operations, name):
            continue
        refused = handler is Operations._refuse
        assert refused or name in bare or hasattr(handler, "__wrapped__"), name
