"""What ``nebfs status -l`` says of one daemon: its cache, rates, errors, and every place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nebfs.cli.answers import dicts
from nebfs.cli.answers import number as as_number
from nebfs.cli.door import printable
from nebfs.cli.terminal import Lines, cut
from nebfs.units import format_duration, format_size

TITLES = {"PLACE": 0, "KIND": 60, "STATE": 0, "OBJECTS": 60, "LIST": 0}
"""Of the table of places, and the columns of a window from which on it has them."""


def details(answer: Mapping[str, object], *, window: int | None = None) -> Iterator[RenderableType]:
    """Yield what is shown of a daemon that gave `answer`. In a window of so many columns places
    that ail come first, and what does not fit into a line is cut.
    """
    words = Text if window is None else cut
    kind = _at(answer, "cache", "kind")
    where = f" in memory: {BYPASSED}" if kind == "memory" else ""
    yield _fact(words, "cache", f"{cache(answer)}{where}")
    if (trouble := _at(answer, "cache", "trouble")) and isinstance(trouble, str):
        yield _fact(words, "", f"{printable(trouble)}; what is read now is kept in memory")
    reads, hits = number(answer, "reads", "reads"), number(answer, "cache", "hits")
    share = f"{100 * hits / reads:.1f} % answered at once" if reads else "none yet"
    yield _fact(words, "reads", f"{reads:.0f}, {share}" if reads else share)
    if isinstance(answer.get("rates"), dict) and answer["rates"]:
        served, fetched = number(answer, "rates", "served"), number(answer, "rates", "fetched")
        yield _fact(words, "now", f"{format_size(served)}/s read, {format_size(fetched)}/s fetched")
    opened = f"{number(answer, 'open_files'):.0f} files"
    under_way = f"{number(answer, 'fetcher', 'in_flight'):.0f} requests under way"
    yield _fact(words, "open", f"{opened}, {under_way}")
    yield _fact(words, "errors", ", ".join(_errors(answer)) or "none")
    callers = answer.get("callers")
    if isinstance(callers, list):
        users = _callers(dicts(callers))
        yield _fact(words, "users", users)
    places = dicts(answer.get("places"))
    if places:
        if window is not None:
            places = sorted(places, key=lambda place: place.get("healthy") is True)
        yield _table(places, window)


def _callers(callers: list[Mapping[str, object]]) -> str:
    if not callers:
        return "nobody else came yet"
    oldest = format_duration(max(0.0, *(number(one, "age") for one in callers)))
    text = f"{len(callers)} known by their own sessions, asked about within {oldest}"
    troubled = sum(bool(one.get("trouble")) for one in callers)
    return text + (f"; no newer answer about {troubled}" if troubled else "")


BYPASSED = "the cache directory cannot be used, and nothing is kept"


def _errors(answer: Mapping[str, object]) -> Iterator[str]:
    for path, text in (
        (("reads", "errors"), "reads failed"),
        (("reads", "damaged"), "images are not what was published"),
        (("slow_operations",), "operations were slow"),
        (("fetcher", "restarts"), "restarts of the fetcher"),
        (("cache", "faults"), "faults of the cache disk"),
        (("cache", "corrupt"), "rotten blocks"),
    ):
        if count := number(answer, *path):
            yield f"{count:.0f} {text}"


def _table(places: list[Mapping[str, object]], window: int | None) -> Table:
    lines = Lines(TITLES, window, padding=(0, 0, 0, 2))
    words = lines.words
    for place in places:
        age = place.get("age")
        listed = f"{format_duration(age)} old" if isinstance(age, (int, float)) else "never had"
        healthy = place.get("healthy") is True
        lines.add(
            words(printable(str(place.get("name", "?")))),
            words(printable(str(place.get("kind", "?")))),
            words("healthy", style="green") if healthy else words("degraded", style="yellow"),
            words(f"{number(place, 'objects'):.0f}"),
            words(listed),
        )
    return lines.table


def cache(answer: Mapping[str, object]) -> str:
    """Return how full the cache is; "-" where that was not answered."""
    used, limit = _at(answer, "cache", "used"), _at(answer, "cache", "limit")
    if not isinstance(used, int):
        return "-"
    return format_size(used) + (f" of {format_size(limit)}" if isinstance(limit, int) else "")


def number(answer: Mapping[str, object], *path: str) -> float:
    """Return the number that is there; 0 where there is none."""
    return as_number(_at(answer, *path))


def _at(answer: Mapping[str, object], *path: str) -> object:
    value: object = answer
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _fact(words: Callable[[str], Text], name: str, value: str) -> Text:
    return words(f"  {name:<8} {value}")
