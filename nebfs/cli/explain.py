"""``nebfs explain``: where an image comes from, and what every layer below it has done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from nebfs.cli.answers import dicts, number
from nebfs.cli.daemons import place_of
from nebfs.cli.door import printable, verbose_option
from nebfs.cli.flags import json_option, run_dir_option
from nebfs.daemon import control
from nebfs.units import format_duration, format_size

PATIENCE = 60.0
"""Seconds: a directory on the way may have to be listed first."""

VERIFIED = {
    "yes": "yes, it is what was published",
    "no": "not yet: it is compared with what was published when all of it is here",
    "mismatch": "NO: it differs from what was published",
    "": "nothing was published to compare it with",
}
WORDS = {"waits": "reads that waited", "seconds": "answering took"}
SIZES = {"bytes", "here", "hashed", "frontier"}
TIMES = {"seconds", "waited"}
UNMEASURED = "not known before it was decompressed: 'nebfs warm' does that, and so does opening it"
ALWAYS = {"requests", "retries", "waits", "here"}
"""What is shown also where it is none; the rest goes without saying."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
@run_dir_option
@verbose_option
def explain(path: Path, as_json: bool, run_dir: Path) -> None:
    """Explain the image at PATH: where its bytes are, how many of them are here, and how it goes.

    Shows the layers that a read passes, from the top down, with what each has counted since the
    image was opened. Nothing is fetched to answer this.
    """
    place = place_of(path, run_dir)
    query = {"path": place.inside}
    answer = control.ask(place.socket, "GET", "/v1/explain", query=query, timeout=PATIENCE)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for line in lines(answer):
        click.echo(printable(line))


def lines(answer: Mapping[str, object]) -> Iterator[str]:
    """Yield what is said to a person."""
    yield str(answer.get("path", ""))
    files = dicts(answer.get("files"))
    kinds = {str(file.get("format")): None for file in files}
    of = f", the disk in {' over '.join(kinds)}" if answer.get("view") else ""
    yield _fact("format", f"{answer.get('format')}{of}")
    measured = isinstance(answer.get("size"), int)
    yield _fact("size", _size(answer.get("size")) if measured else UNMEASURED)
    if answer.get("access") == "sequential":
        yield _fact("access", "from the beginning only: a read waits for everything before it")
    if answer.get("kept"):
        yield _fact("cache", answer["kept"])
    opened = answer.get("open_files")
    hits = f"reads that were answered at once: {answer.get('hits')}"
    yield _fact("open", f"by {opened}; {hits}" if opened else "no")
    decompressed = answer.get("decompressed")
    if isinstance(decompressed, dict):
        yield from _decompressed(decompressed)
    unpacked = answer.get("unpacked")
    if isinstance(unpacked, dict):
        here = f"{_size(unpacked.get('cached'))} of {_size(unpacked.get('size'))} are kept"
        yield _fact("unpacked", f"{here}, as {str(unpacked.get('key'))[:16]}")
    for position, file in enumerate(files, 1):
        if len(files) > 1:
            yield f"file {position} of {len(files)}"
        yield from _file(file, kept=not answer.get("kept"))


def _file(file: Mapping[str, object], *, kept: bool) -> Iterator[str]:
    yield _fact("source", file.get("source"))
    version = [str(file[name]) for name in ("etag", "modified") if file.get(name)]
    yield _fact("version", ", ".join(version) or "told by its size alone")
    if kept and isinstance(file.get("cached"), int):
        yield _fact("cached", f"{_size(file.get('cached'))} of {_size(file.get('size'))}")
        yield _fact("object", str(file.get("key", ""))[:16])
    yield _fact("verified", VERIFIED.get(str(file.get("verified")), file.get("verified")))
    latency, rate = number(file.get("latency")), number(file.get("rate"))
    pace = [
        *([f"answers in {format_duration(latency)}"] if latency else []),
        *([f"gives {format_size(rate)}/s"] if rate else []),
    ]
    if pace:
        yield _fact("its place", ", ".join(pace))
    if file.get("last_error"):
        yield _fact("last error", file["last_error"])
    yield from _layers(file)


def _decompressed(one: Mapping[str, object]) -> Iterator[str]:
    """Yield what is said of the object that a compressed file is decompressed into."""
    yield f"decompressed ({one.get('compression')})"
    size = f" of {_size(one.get('size'))}" if isinstance(one.get("size"), int) else ""
    yield _fact("cached", f"{_size(one.get('cached'))}{size}")
    yield _fact("frontier", f"{_size(one.get('frontier'))} from its beginning are decompressed")
    yield _fact("object", str(one.get("key", ""))[:16])
    if one.get("last_error"):
        yield _fact("last error", one["last_error"])
    yield from _layers(one)
    yield "the compressed file"


def _layers(of: Mapping[str, object]) -> Iterator[str]:
    layers = dicts(of.get("layers"))
    if layers:
        yield "  layers, from the top down"
    for layer in layers:
        yield f"    {layer.get('name')!s:<9} {layer.get('purpose')}"
        counted = layer.get("counted")
        if isinstance(counted, dict) and (words := ", ".join(_counted(counted))):
            yield f"    {'':<9} {words}"


def _counted(counted: Mapping[str, object]) -> Iterator[str]:
    for name, value in counted.items():
        if not value and name not in ALWAYS:
            continue
        if name in SIZES:
            value = format_size(number(value))  # noqa: PLW2901 - as it is shown
        elif name in TIMES:
            value = format_duration(number(value))  # noqa: PLW2901 - as it is shown
        yield f"{WORDS.get(name, name.replace('_', ' '))} {value}"


def _fact(name: str, value: object) -> str:
    return f"  {name:<11} {value}"


def _size(value: object) -> str:
    return format_size(number(value))
