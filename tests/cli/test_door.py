"""What every command shares: help, the exit codes, and how failures are told."""

import re
import subprocess
import sys

import pytest

from nebfs import __version__, cli
from nebfs.cli import exits
from nebfs.cli.door import explain, printable
from nebfs.errors import (
    BadAnswer,
    Busy,
    Missing,
    Refused,
    TimedOut,
    Unreachable,
    UserError,
)

COMMANDS = ("mount", "umount", "status", "ls", "demo")


def test_the_version(invoke):
    assert __version__ in invoke("--version").output


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_the_whole_and_of_each(invoke, flag):
    whole = invoke(flag)
    assert whole.exit_code == 0
    for command in COMMANDS:
        assert command in whole.output
        one = invoke(command, flag)
        assert one.exit_code == 0
        assert one.output.startswith(f"Usage: nebfs {command}")


def test_help_shows_every_exit_code(invoke):
    text = invoke("--help").output
    codes = {value for name, value in vars(exits).items() if name.isupper()}
    for code in codes:
        assert re.search(rf"^ +{code}  ", text, re.MULTILINE), code
        assert re.search(rf"^    {code}  ", cli.__doc__, re.MULTILINE), code


def test_an_unknown_command_is_usage(invoke):
    assert invoke("mnt").exit_code == exits.USAGE


def test_python_m_nebfs_cli(shell):
    done = shell("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert __version__ in done.stdout


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (UserError("why"), 32),
        (UserError("why", exit_code=2), 2),
        (Refused("why"), 77),
        (Unreachable("why"), 69),
        (TimedOut("why"), 69),
        (BadAnswer("why"), 32),
        (Busy("why"), 32),
        (Missing("why"), 32),
        (PermissionError(13, "why"), 32),
        (ExceptionGroup("x", [ExceptionGroup("y", [Refused("why")])]), 77),
    ],
)
def test_each_failure_has_its_code(failure, code):
    message, found = explain(failure, exits.MOUNT)
    assert (found, "why" in message) == (code, True)


def test_a_mistake_of_ours_is_one_line_and_may_hold_a_secret(invoke, monkeypatch, tmp_path):
    def broken(_path):
        raise ValueError("canary")

    monkeypatch.setattr("nebfs.cli.ls.entries_of", broken)
    done = invoke("ls", tmp_path)
    assert done.exit_code == exits.INTERNAL
    assert "canary" not in done.output
    assert "internal error: ValueError" in done.output
    assert "-v" in done.output
    assert "Traceback" not in done.output
    assert "Traceback" in invoke("ls", "-v", tmp_path).output
    assert "Traceback" in invoke("-v", "ls", tmp_path).output


def test_an_interrupt_is_no_traceback(invoke, monkeypatch, tmp_path):
    def interrupted(_path):
        raise KeyboardInterrupt

    monkeypatch.setattr("nebfs.cli.ls.entries_of", interrupted)
    assert invoke("ls", tmp_path).exit_code == exits.INTERRUPTED


def test_names_cannot_move_the_cursor():
    assert printable("a\x1b[2Jb\nc") == r"a\x1b[2Jb\nc"
    assert printable("grün [bold]") == "grün [bold]"
    assert printable("\udcff").isascii()


def test_a_command_that_there_is_not_is_answered_with_one_that_there_is(invoke):
    done = invoke("statsu")
    assert done.exit_code == 2
    assert "No such command 'statsu'" in done.output
    assert "status" in done.output


def test_a_command_s_module_alone_is_imported():
    program = "import sys; from nebfs.cli.main import nebfs_command as c; c.get_command(None, 'ls')"
    shown = f"{program}; print(*[m for m in ('nebfs.cli.ls', 'trio', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["nebfs.cli.ls"]
