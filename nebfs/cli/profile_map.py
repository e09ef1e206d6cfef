"""A boot profile drawn as text: where in the image a boot reads, and when."""

from __future__ import annotations

import time
from collections.abc import Iterator

from nebfs.cli.door import printable
from nebfs.content.profiling import Profile
from nebfs.units import format_size

WIDTH, LINES = 64, 16
NOTHING = "."
TENTHS = "0123456789"


def drawn(profile: Profile, *, ranges: bool) -> Iterator[str]:
    """Yield lines: what is known of the profile, a map of the image and, with `ranges`, its parts
    in the order of reading.
    """
    size = profile.revision.size
    shared = sum(part.length for part in profile.parts if part.boots.bit_count() > 1)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(profile.recorded))
    yield f"id      {profile.key}"
    yield f"image   {printable(profile.image) or '-'}"
    yield f"boots   {profile.boots}, the last at {when}"
    yield (
        f"reads   {format_size(profile.length)} of {format_size(size)} in {len(profile.parts)} "
        f"ranges; {format_size(shared)} in more than one boot"
    )
    yield ""
    yield f"Each character is {format_size(size / (WIDTH * LINES))}: the tenth of the boot in which"
    yield f"it is read first, or {NOTHING} where nothing is read."
    cells = _cells(profile)
    for line in range(LINES):
        offset = format_size(line * size / LINES)
        yield f"{offset:>9}  {''.join(cells[line * WIDTH : (line + 1) * WIDTH])}"
    if ranges:
        yield ""
        yield f"{'OFFSET':>16}  {'LENGTH':>12}  BOOTS"
        for part in profile.parts:
            yield f"{part.offset:>16}  {part.length:>12}  {part.boots.bit_count():>5}"


def _cells(profile: Profile) -> list[str]:
    count = WIDTH * LINES
    cells = [NOTHING] * count
    done, total, size = 0, profile.length, profile.revision.size
    for part in profile.parts:
        tenth = TENTHS[min(9, 10 * done // total)]
        done += part.length
        for cell in range(part.offset * count // size, (part.end - 1) * count // size + 1):
            if cells[cell] == NOTHING:
                cells[cell] = tenth
    return cells
