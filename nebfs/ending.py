"""What may pass where everything else that is raised must not: that a task is cancelled, or closed.

Whoever keeps a bug to what it concerns catches BaseException, as drivers, layers and libraries can
raise anything, and calls ``pass_on`` first.
"""

from __future__ import annotations

import math

import trio


def pass_on(exc: BaseException) -> None:
    """Raise `exc`, or what of it is cancellation, if it ends the task that runs; else return.

    A Cancelled that was not meant for this task, as somebody kept it and raised it again, is a bug
    like any other: no scope of trio would take it, and it would end everything.
    """
    if isinstance(exc, GeneratorExit):
        raise exc
    if trio.current_effective_deadline() > -math.inf:
        return
    if isinstance(exc, trio.Cancelled):
        raise exc
    if isinstance(exc, BaseExceptionGroup):
        cancelled = exc.subgroup(trio.Cancelled)
        if cancelled is not None:
            raise cancelled from None
