"""docs/commands.md names every command, and no other."""

import re
from pathlib import Path

from nebfs.cli.main import nebfs_command

PAGE = Path(__file__).resolve().parents[2] / "docs/commands.md"


def test_every_command_is_on_the_page():
    text = PAGE.read_text()
    for name in nebfs_command.commands:
        assert re.search(rf"`(nebfs )?{name}\b", text), name


def test_every_command_of_an_example_exists():
    cache = nebfs_command.commands["cache"].commands
    for name, word in re.findall(r"^\$ nebfs (\S+) ?(\S*)", PAGE.read_text(), re.MULTILINE):
        assert name in nebfs_command.commands
        assert name != "cache" or word in cache
