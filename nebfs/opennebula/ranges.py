"""Asking for a pool by ranges of ids, around objects that the front-end cannot send.

One object that holds an emoji makes every answer that would include it a fault. What can be asked
instead are ranges of ids, so a range that faults is cut in two, and again, until single ids remain.
All ids are covered, also those that nobody told us of: the ranges touch, and the last one is open.
Ranges are by id, never by row number: rows shift while objects come and go, ids do not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nebfs.opennebula.document import MalformedDocument
from nebfs.opennebula.failures import CannotSend

T = TypeVar("T")

# Ids are 32-bit signed integers in OpenNebula; a range that ends here is asked as an open one.
LAST = (1 << 31) - 1

# Objects asked for at once: some 2.5 MB of apps, 20 ms of the front-end's time, 250 ms of ours.
PAGE = 1000

# An unreadable object costs two calls for each halving, and others succeed in between, from the
# empty range above all ids on. So many faults without one answer are not about single objects.
HOPELESS = 64


@dataclass(frozen=True, slots=True)
class Range:
    """The ids from `first` to `last`, both included."""

    first: int = 0
    last: int = LAST

    @property
    def bounds(self) -> tuple[int, int]:
        """The pool call's parameters ``start`` and ``end``; -1 is "no bound"."""
        if self.last < LAST:
            return self.first, self.last
        return (self.first, -1) if self.first else (-1, -1)


@dataclass(frozen=True, slots=True)
class Survey(Generic[T]):
    """What was found, the ids that cannot be sent (and why), and the calls that it took."""

    found: tuple[T, ...]
    unreadable: dict[int, str]
    calls: int


def plan(known: Sequence[int], page: int = PAGE) -> tuple[Range, ...]:
    """Return ranges of at most `page` of the ascending ids in `known`; the last one is open.

    A pool of up to `page` objects is one range.
    """
    ends = [known[at] for at in range(page - 1, len(known), page)] if len(known) > page else []
    firsts = [0, *(end + 1 for end in ends)]
    return tuple(Range(*bounds) for bounds in zip(firsts, [*ends, LAST], strict=True))


def split(span: Range, known: Sequence[int]) -> tuple[Range, Range]:
    """Cut `span` (of more than one id) in two, with equally many of the ids in `known` if possible.

    Where no id is known it is cut in the middle, or, when it is open, after twice as many ids as
    were below its start: nobody tried 2**30 ids, and the next one is never far.
    """
    low, high = bisect_left(known, span.first), bisect_right(known, span.last)
    if high - low > 1:
        cut = known[(low + high) // 2 - 1]
    elif high - low == 1:
        # One id that we know of: it is the likely one, so take what is below it off, then it.
        cut = known[low] - 1 if span.first < known[low] else known[low]
    elif span.last == LAST:
        cut = min(2 * span.first + 1, LAST - 1)
    else:
        cut = (span.first + span.last) // 2
    cut = min(cut, span.last - 1)
    return Range(span.first, cut), Range(cut + 1, span.last)


async def survey(
    ask: Callable[[Range], Awaitable[Sequence[T]]], known: Sequence[int], *, page: int = PAGE
) -> Survey[T]:
    """Ask for everything, with one call at a time; `known` are ascending ids.

    Raises what `ask` raises for any other reason than an object that cannot be sent, and that too
    when nothing at all can be had.
    """
    found: list[T] = []
    unreadable: dict[int, str] = {}
    calls = faults = answers = 0
    # A stack, highest range on top: ranges without objects answer first, and a whole front-end that
    # is broken shows itself before every id has been tried.
    todo = list(plan(known, page))
    while todo:
        span = todo.pop()
        calls += 1
        try:
            found.extend(await ask(span))
        except (CannotSend, MalformedDocument) as exc:
            faults += 1
            if faults >= HOPELESS and not answers:
                raise
            if span.first == span.last:
                unreadable[span.first] = exc.message
            else:
                todo.extend(split(span, known))
        else:
            answers += 1
    return Survey(tuple(found), unreadable, calls)
