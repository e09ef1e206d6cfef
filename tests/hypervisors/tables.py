"""Makes the tables of docs/hypervisors.md of what a run of the tests has seen.

python -m tests.hypervisors.tables RESULTS.xml docs/hypervisors.md

Each test says what it saw last of all (the fixture `seen`), so what failed is in no table.
"""

from __future__ import annotations

import datetime as dt
import json
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.hypervisors.machine import QEMU, version
from tests.hypervisors.world import AS_PUBLISHED, INSIDE


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that a test saw; `program` is the version of what did it, or empty."""

    table: str
    row: str
    what: str
    program: str
    test: str


def read(results: Path) -> Iterator[Seen]:
    """Yield what the tests that passed have seen, in their order."""
    for case in ET.parse(results).iter("testcase"):
        if case.find("failure") is None and case.find("error") is None:
            test = f"{case.get('classname', '').rpartition('.')[2]}.py"
            test += f"::{case.get('name', '').partition('[')[0]}"
            for item in case.iter("property"):
                if item.get("name") == "seen":
                    yield Seen(*json.loads(item.get("value", "")), test)


def crossed(all_seen: list[Seen], table: str, title: str) -> str:
    """Return the table whose cells say whether a row was seen with a column."""
    cells = sorted((seen for seen in all_seen if seen.table == table), key=_order)
    columns = list(dict.fromkeys(seen.what for seen in sorted(cells, key=_column)))
    lines = [[title, *columns], ["---"] * (len(columns) + 1)]
    for row in dict.fromkeys(seen.row for seen in cells):
        found = {seen.what for seen in cells if seen.row == row}
        lines.append([row, *("yes" if column in found else "" for column in columns)])
    tests = ", ".join(dict.fromkeys(f"`{seen.test}`" for seen in cells))
    return f"{_drawn(lines)}\n\nTests: {tests}"


def _order(seen: Seen) -> bool:
    """Marketplaces are before datastores; all else stays in its order."""
    return seen.row.startswith("datastore")


def _column(seen: Seen) -> int:
    """The two faces are the first columns, raw disks before others; then what is special."""
    kinds = [f"{kind}, {face}" for kind in ("raw", "qcow2") for face in (AS_PUBLISHED, INSIDE)]
    what = seen.what.rpartition(": ")[2]
    return kinds.index(what) if what in kinds else len(kinds)


def listed(all_seen: list[Seen], table: str) -> str:
    """Return the table of one row for each use."""
    lines = [["use", "seen with", "program", "test"], ["---"] * 4]
    cells = [seen for seen in all_seen if seen.table == table]
    for row in dict.fromkeys(seen.row for seen in cells):
        found = [seen for seen in cells if seen.row == row]
        what = "; ".join(dict.fromkeys(seen.what for seen in found))
        lines.append([row, what, _short(found[0].program), f"`{found[0].test}`"])
    return _drawn(lines)


def _drawn(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(program: str) -> str:
    """Return a name and a number of what a program says of itself."""
    found = re.search(r"\d+(\.\d+)+|(?<=systemd )\d+", program)
    name = program.partition(" ")[0] if program[:1].isalpha() else "libvirt"
    names = {"mount": "util-linux", "losetup": "util-linux", "qemu-img": "QEMU", "qemu-nbd": "QEMU"}
    return f"{names.get(name, name)} {found[0]}" if found else program


def written(page: str, tables: dict[str, str]) -> str:
    """Return the page with each table between its two marks."""
    for name, text in tables.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        page, count = mark.subn(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
        assert count == 1, f"{name} has {count} places in the page"
    return page


def main(results: str, page: str) -> None:
    seen = list(read(Path(results)))
    qemu = _short(version(QEMU, "--version"))
    when = dt.datetime.now(dt.UTC).date()
    kernel = ".".join(platform.release().split(".")[:2])
    distribution = platform.freedesktop_os_release()["PRETTY_NAME"]
    tables = {
        "run": f"Seen on {when} with {qemu} on {distribution}, Linux {kernel}.",
        "places": crossed(seen, "places", "place"),
        "formats": crossed(seen, "formats", "format"),
        "modes": crossed(seen, "modes", "QEMU's `-drive`"),
        "uses": listed(seen, "uses"),
    }
    path = Path(page)
    path.write_text(written(path.read_text(), tables))


if __name__ == "__main__":
    main(*sys.argv[1:])
