"""Things that explode: whatever a layer, a driver or the tree can raise, raised on purpose.

`whatever()` are exceptions of every type there is; `Bomb` stands for any object and raises one at
whatever is asked of it. `arm` has functions of a running daemon raise: the daemon finds, in its
PYTHONPATH, a sitecustomize that looks into a file at each call.
"""

from __future__ import annotations

import asyncio
import builtins
import json
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path

import trio

from nebfs import errors

CHECKOUT = Path(__file__).resolve().parents[2]


class Unspeakable(Exception):
    """Nothing can be said about it."""

    def __str__(self) -> str:
        raise RuntimeError("it has no text")

    __repr__ = __str__


async def stale() -> trio.Cancelled:
    """Return a Cancelled that was for somebody else, as whoever keeps exceptions may raise it."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as exc:
            kept.append(exc)
            raise
    return kept[0]


def whatever() -> Iterator[BaseException]:
    """Yield one exception of every type of Python's own, and of those that libraries raise."""
    for kind in vars(builtins).values():
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            continue
        # A coroutine that is closed must end: that is not for anybody to keep.
        if kind is GeneratorExit:
            continue
        try:
            yield kind("said")
        except TypeError:  # it wants more to be said
            if kind is UnicodeDecodeError:
                yield kind("utf-8", b"\xff", 0, 1, "said")
            elif kind is UnicodeEncodeError:
                yield kind("utf-8", "\ud800", 0, 1, "said")
            elif kind is UnicodeTranslateError:
                yield kind("\ud800", 0, 1, "said")
            elif kind is BaseExceptionGroup:
                yield kind("said", [KeyboardInterrupt(), ValueError()])
            elif kind is ExceptionGroup:
                yield kind("said", [ValueError(), ExceptionGroup("inside", [KeyError("x")])])
            else:
                raise
    yield asyncio.CancelledError()
    yield trio.TooSlowError()
    yield trio.ClosedResourceError()
    yield socket.gaierror(-2, "Name or service not known")  # its number is below zero
    yield OSError(100_000, "a number of its own")
    yield OSError("two", "words")
    yield Unspeakable()
    for failure in errors.KINDS.values():
        yield failure("said", url="http://[no-address/x", place=None)


class Bomb:
    """Stands for any object, and raises `exc` at whatever is asked of it. `fired` counts."""

    def __init__(self, exc: BaseException) -> None:
        vars(self).update(exc=exc, fired=0)

    def _fire(self, *_: object) -> None:
        vars(self)["fired"] += 1
        raise self.exc

    def __getattr__(self, name: str) -> object:
        if name == "exc":
            raise AttributeError(name)
        self._fire()
        return None

    __len__ = __iter__ = __getitem__ = __contains__ = _fire
    get = pop = items = _fire


async def _moment() -> None:
    await trio.lowlevel.checkpoint()


class SlowBomb(Bomb):
    """The same for whoever waits: what is called is awaited first, and then raises."""

    def __getattr__(self, name: str) -> object:
        if name == "exc":
            raise AttributeError(name)
        if name == "size":
            return 1 << 20
        if name == "warm":  # nothing is answered at once
            return lambda *_: None
        return lambda *_, **__: _Later(self)


class _Later:
    """Raises when it is awaited. Not a coroutine: it may also be left alone."""

    def __init__(self, bomb: Bomb) -> None:
        self._bomb = bomb

    def __await__(self) -> Iterator[object]:
        yield from _moment().__await__()
        self._bomb._fire()


BOMBS = """
    import sys
    if "--foreground" in sys.orig_argv:
        import functools, importlib, inspect, json
        import trio, trio.lowlevel

        KINDS = {
            "BaseExceptionGroup": lambda: BaseExceptionGroup(
                "armed", [SystemExit("armed"), KeyError("armed")]
            ),
            "ExceptionGroup": lambda: ExceptionGroup("armed", [ValueError("armed")]),
        }

        def check(name):
            with open(%(file)r) as file:
                armed = json.load(file)
            if name in armed:
                with open(%(file)r + ".fired", "a") as fired:
                    fired.write(name + "\\n")
                kind = armed[name]
                raise KINDS[kind]() if kind in KINDS else getattr(
                    __import__("builtins"), kind
                )("armed")

        def wrapped(name, function):
            if inspect.iscoroutinefunction(function):
                @functools.wraps(function)
                async def call(*args, **kwargs):
                    check(name)
                    return await function(*args, **kwargs)
            else:
                @functools.wraps(function)
                def call(*args, **kwargs):
                    check(name)
                    return function(*args, **kwargs)
            return call

        for name in %(names)r:
            module, _, path = name.partition(":")
            owner = importlib.import_module(module)
            *outer, last = path.split(".")
            for part in outer:
                owner = getattr(owner, part)
            setattr(owner, last, wrapped(name, vars(owner)[last]))
"""


class Armoury:
    """Functions of daemons that are started from now on, as ``module:Class.function``."""

    def __init__(self, home: Path, names: list[str]) -> None:
        self._file = home / "armed.json"
        self._fired = home / "armed.json.fired"
        self.arm({})
        said = textwrap.dedent(BOMBS) % {"file": str(self._file), "names": names}
        (home / "sitecustomize.py").write_text(said)
        self.path = f"{home}:{CHECKOUT}"

    def arm(self, kinds: dict[str, str]) -> None:
        """Have these raise an exception of the type that is named, from now on, and no others."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(kinds))
        fresh.replace(self._file)

    def fired(self) -> set[str]:
        """Return the names of those that have raised something."""
        if not self._fired.exists():
            return set()
        return set(self._fired.read_text().split())
