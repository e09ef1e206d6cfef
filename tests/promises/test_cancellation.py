"""Whoever gives up leaves nothing behind: at every checkpoint of every reader, store and client.

And the same readers, read by many at once of whom some give up, against the bytes that they have.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType

import pytest
import structlog
import trio
from trio.testing import MockClock

from tests.promises.cancelling import (
    Found,
    Readers,
    cancel_readers,
    cancelled_everywhere,
    read_together,
)
from tests.promises.subjects import SUBJECTS
from tests.promises.threads import in_place

ROOMS = ("nebfs.blocks", "nebfs.catalog", "nebfs.content", "nebfs.fetcher.client")
"""Where every class and function that may wait has to be cancelled by some subject."""

PROFILING = "nebfs.content.profiling"
"""Not this one: nobody waits for what it does in the background, and it serves no bytes."""

EXEMPT = {
    "nebfs.catalog.callers.Callers": "what other users may see; tests/catalog/test_callers.py",
    "nebfs.catalog.lists.datastores_of": "questions of one place; tests/catalog/test_one_place.py",
    "nebfs.catalog.lists.marketplaces_of": "as datastores_of",
    "nebfs.catalog.lists.objects_of": "the questions of lists_of, which is cancelled",
    "nebfs.catalog.usable.usable_by": "waits for objects_of alone",
    "nebfs.blocks.store.MemoryStore": "waits for nothing of its own",
    "nebfs.content.decodings._nothing": "waits for nothing",
    "nebfs.content.layers.activated.Activated": "reads with another's functions; never waits",
    "nebfs.content.layers.vmdk._footer": "reads as the other parts of a header, if there is one",
    "nebfs.content.layers.decoded_file.Settled": "asks the disk below it, once more at most",
    "nebfs.content.layers.kept._as_it_is": "waits for nothing",
    "nebfs.content.layers.kept._nothing": "waits for nothing",
    "nebfs.content.ova._Part": "closes nothing, and reads as the window that it is",
    "nebfs.content.peeking.Peeked": "answers from memory",
}
"""Those that are not, and why."""

FOUND: dict[str, Found] = {}
"""What came of each subject in this process."""


@pytest.fixture(autouse=True)
def quiet():
    """Errors are what this is about: nothing of them is shown."""
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    yield
    structlog.configure(**before)


def _drop(*_: object) -> None:
    raise structlog.DropEvent


def run(work: Callable[[Path], object], home: Path, chance: random.Random | None = None) -> object:
    """Run `work` without threads, on a clock that jumps. With `chance` they take long or short."""
    with in_place(chance):
        return trio.run(partial(work, home), clock=MockClock(autojump_threshold=0))


async def _cancel(name: str, home: Path) -> Found:
    async with SUBJECTS[name](home) as made:
        if isinstance(made, Readers):
            return await cancel_readers(made)
        return await cancelled_everywhere(made.run, made.check, made.prepare)


def cancel(name: str, home: Path) -> Found:
    """Return what cancelling a subject has found; it is done once."""
    if name not in FOUND:
        FOUND[name] = run(partial(_cancel, name), home)
    return FOUND[name]


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_cancellation_at_any_checkpoint_leaves_nothing_behind(name, tmp_path):
    assert cancel(name, tmp_path).cancelled > 1


@pytest.mark.parametrize("name", SUBJECTS)
def test_many_readers_at_once_have_the_right_bytes(name, tmp_path):
    async def work(home: Path) -> int:
        async with SUBJECTS[name](home) as made:
            if not isinstance(made, Readers):
                return 0
            return sum([await read_together(made, seed=seed) for seed in range(2)])

    run(work, tmp_path, random.Random(1))


def test_every_reader_layer_source_and_store_is_cancelled_somewhere(tmp_path):
    for name in SUBJECTS:
        (tmp_path / name).mkdir()
        cancel(name, tmp_path / name)
    seen = set().union(*(found.codes for found in FOUND.values()))
    known = dict(one for module in _modules() for one in _with_async_code(module))
    missing = {name for name, codes in known.items() if not codes & seen} - set(EXEMPT)
    assert not missing, "no subject cancels these:\n" + "\n".join(sorted(missing))
    assert set(EXEMPT) <= set(known), "what is exempt is not there any more"


def _modules() -> Iterator[ModuleType]:
    for room in ROOMS:
        module = importlib.import_module(room)
        yield module
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{room}."):
            if not found.name.startswith(f"{PROFILING}."):
                yield importlib.import_module(found.name)


def _with_async_code(module: ModuleType) -> Iterator[tuple[str, set[CodeType]]]:
    """Return the classes and functions of a module that may wait, with where they do: no Protocols,
    and nothing abstract.
    """
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            if not getattr(thing, "_is_protocol", False):
                codes = {code for method in vars(thing).values() for code in _code(method)}
                if codes:
                    yield f"{module.__name__}.{name}", codes
        elif codes := set(_code(thing)):
            yield f"{module.__name__}.{name}", codes


def _code(thing: object) -> list[CodeType]:
    function = inspect.unwrap(getattr(thing, "__func__", thing))  # type: ignore[arg-type]
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    return [function.__code__] if is_async else []
