"""docs/commands.md names every command, and no other."""

import re
from pathlib import Path

from nebfs.cli.cache_command import cache_command
from nebfs.cli.main import MODULES

PAGE = Path(__file__).resolve().parents[2] / "docs/commands.md"


def test_every_command_is_on_the_page():
    text = PAGE.read_text()
    for name in MODULES:
        assert re.search(rf"`(nebfs )?{name}\b", text), name


def test_every_command_of_an_example_exists():
    for name, word in re.findall(r"^\$ nebfs (\S+) ?(\S*)", PAGE.read_text(), re.MULTILINE):
        assert name in MODULES
        assert name != "cache" or word in cache_command.commands
