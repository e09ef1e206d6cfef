"""docs/control.md: every example on the page is run, and answers what the page says it does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.mounted

PAGE = Path(__file__).parents[2] / "docs/control.md"

EXACT = {"event", "kind", "error", "view", "compression"}
"""Facts whose value on the page is what is answered, not only one of its type."""


def examples():
    """Return (the command, what it prints) of every example of the page, in their order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, said, more = [], [], True
            for line in part.splitlines():
                (command if more else said).append(line)
                more = more and line.endswith("\\")
            found.append(("\n".join(command), "\n".join(said).strip()))
    return found


def objects(text):
    """Return the JSON objects that follow each other in `text`; dots stand for what is left out."""
    text = re.sub(r",?\s*\.\.\.(?=\s*[\]}]|\s*\n|\s*$)", "", text)
    decoder, at, found = json.JSONDecoder(), 0, []
    while at < len(text):
        one, at = decoder.raw_decode(text, at)
        found.append(one)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def differences(told, answered, where):
    """Yield where an answer is not as the page tells."""
    if isinstance(told, dict) and isinstance(answered, dict):
        for name, value in told.items():
            if name not in answered:
                yield f"{where}.{name} is not answered"
            elif name in EXACT and value != "...":
                if value != answered[name]:
                    yield f"{where}.{name} is {answered[name]!r}"
            else:
                yield from differences(value, answered[name], f"{where}.{name}")
    elif isinstance(told, list) and isinstance(answered, list):
        if told and not answered:
            yield f"{where} is empty"
        for number, value in enumerate(told):
            all_of = [list(differences(value, one, f"{where}[{number}]")) for one in answered]
            yield from min(all_of, key=len, default=[])
    else:
        kinds = [float if type(value) is int else type(value) for value in (told, answered)]
        if kinds[0] is not kinds[1] and None not in (told, answered):
            yield f"{where} is {answered!r}"


@pytest.fixture
def in_use(shared):
    """The image of the examples is open, and read."""
    path = shared.mount.app("Alpine Linux 3.20") / "Alpine Linux 3.20.qcow2"
    with open(path, "rb") as file:
        file.read(4096)
        yield


def test_every_example_answers_what_the_page_says(shared, in_use):
    socket = next(shared.mount.run_dir.glob("*.sock"))
    ran = examples()
    assert len(ran) >= 15
    for command, told in ran:
        done = subprocess.run(
            ["bash", "-c", command],
            env={"SOCKET": str(socket), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (command, done.stderr)
        if "/metrics" in command:
            for line in told.splitlines():
                assert line == "..." or line.split(" ")[0] in done.stdout, line
            continue
        answered = [json.loads(line) for line in done.stdout.splitlines()]
        expected = objects(told)
        assert expected, command
        for one in expected:
            found = [list(differences(one, other, "")) for other in answered]
            assert min(found, key=len) == [], (command, one, answered[:3])
        if len(answered) > 1 or "event" in answered[0]:
            assert [one["event"] for one in expected][-1] == answered[-1]["event"] == "end"
