"""What is cancelled at each checkpoint: every reader, layer, source, store, list and client.

A subject is an async context manager that is given an empty directory and yields ``Readers``, or an
``Operation`` where nothing is read. They are found by name in SUBJECTS; the test of ../
test_cancellation.py fails for an async function of nebfs in which none of them was ever cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.promises.cancelling import Readers


@dataclass
class Operation:
    """Something that is done, and what must hold however far it came."""

    run: Callable[[], Awaitable[object]]
    check: Callable[[], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]] | None = None


Made = Readers | Operation
Subject = Callable[[Path], AbstractAsyncContextManager[Made]]

SUBJECTS: dict[str, Subject] = {}


def subject(make: Callable[[Path], AsyncIterator[Made]]) -> Subject:
    """Register a subject by its name."""
    made = asynccontextmanager(make)
    SUBJECTS[make.__name__] = made
    return made


from tests.promises.subjects import (  # noqa: E402, F401 - they register themselves
    compressed,
    disks,
    far,
    lists,
    local,
    stores,
    worker,
)
