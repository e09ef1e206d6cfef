"""``nebfs mount``: settings, the foreground, and a background whose word is honest."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from nebfs.daemon import life
from nebfs.errors import NebfsError, Refused, Unreachable, UserError
from nebfs.units import GIB


@pytest.fixture
def served(monkeypatch, any_fuse, tmp_path):
    """Stand in for the daemon: remember what it was called with, fail if told to."""
    monkeypatch.chdir(tmp_path)  # and back, afterwards: the command leaves the directory
    (tmp_path / "m").mkdir()
    calls = []

    def run(settings, mountpoint, ready):
        calls.append((settings, mountpoint))
        ready()
        if calls_fail:
            raise calls_fail[0]

    calls_fail = []
    monkeypatch.setattr(life, "run", run)
    monkeypatch.setenv("NEBFS_RUN_DIR", str(tmp_path / "run"))
    return calls, calls_fail


def test_everything_reaches_the_daemon(invoke, served, tmp_path):
    (tmp_path / "c.toml").write_text('cache_size = "1G"\nconnections = 7\ndeadline = 5\n')
    (tmp_path / "auth").write_text("a:b")
    done = invoke(
        *("mount", "-f", "http://h:2633/RPC2", "m", "-c", "c.toml", "--cache-size", "3G"),
        *("--auth-file", "auth", "-o", "cache-size=2G,deadline=6", "-o", "allow_other,uid=5"),
    )
    assert (done.exit_code, done.output) == (0, "")
    ((settings, mountpoint),) = served[0]
    assert mountpoint == tmp_path / "m"
    assert settings.source == "http://h:2633/RPC2"
    assert settings.cache_size == 3 * GIB, "a flag of its own wins over -o"
    assert (settings.deadline, settings.connections, settings.uid) == (6, 7, 5)
    assert settings.auth_file == tmp_path / "auth"
    assert settings.allow_other
    assert settings.run_dir.is_dir()
    assert Path.cwd() == Path("/"), "no directory is held while mounted"


def test_marketplaces_without_a_cloud(invoke, served):
    words = ("mount", "-f", "m", "--marketplace", "http://a/", "--marketplace", "http://b/")
    assert invoke(*words).exit_code == 0
    assert served[0][0][0].marketplaces == ("http://a/", "http://b/")
    assert served[0][0][0].source == ""


def test_a_link_to_the_mount_point_is_followed(invoke, served, tmp_path):
    (tmp_path / "link").symlink_to("m")
    assert invoke("mount", "-f", "link").exit_code == 0
    assert served[0][0][1] == tmp_path / "m"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["m", "-o", "cache-szie=1"], 2, "did you mean cache_size?"),
        (["m", "-o", "rw"], 2, "read-only"),
        (["m", "--cache-size", "much"], 2, "command line: cache_size: 'much' is not a size"),
        (["m", "-c", "no.toml"], 2, "no.toml cannot be read"),
        (["m", "--auth-file", "no"], 2, "there is no file"),
        (["front-end", "m"], 2, "write a whole URL"),
        (["a", "b", "c"], 2, "one SOURCE and one MOUNTPOINT"),
        (["no"], 32, "mkdir -p"),
        (["/proc"], 32, "already a mount"),
    ],
)
def test_mistakes_are_told_before_anything_starts(invoke, served, words, code, said):
    done = invoke("mount", *words)
    assert done.exit_code == code
    assert said in done.output
    assert "Traceback" not in done.output
    assert served[0] == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (UserError("what happened"), 32),
        (NebfsError("what happened"), 32),
        (Unreachable("what happened"), 69),
        (Refused("what happened"), 77),
        (RuntimeError("canary"), 70),
    ],
)
def test_a_failure_of_the_daemon_is_told_with_its_code(invoke, served, failure, code):
    served[1].append(failure)
    done = invoke("mount", "-f", "m")
    assert done.exit_code == code
    assert ("what happened" in done.output) != (code == 70)
    assert "canary" not in done.output


def test_the_log_goes_where_it_is_told(invoke, served, monkeypatch, tmp_path):
    def run(settings, mountpoint, ready):
        import structlog

        structlog.get_logger().info("hello", fact=1)
        structlog.get_logger().debug("not said")

    monkeypatch.setattr(life, "run", run)
    assert invoke("mount", "-f", "m", "--log-file", "log").output == ""
    written = (tmp_path / "log").read_text()
    assert "hello" in written
    assert "fact=1" in written
    assert "not said" not in written
    assert "hello" in invoke("mount", "-f", tmp_path / "m").output
    assert "not said" in invoke("mount", "-f", "-v", tmp_path / "m").output


# --- the background, with real processes ---

SERVE = "ready()\n(HOME / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)"


def pid_of(shell, name="pid", patience=20):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if (shell.home / name).exists() and (text := (shell.home / name).read_text()):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("the daemon never said its number")


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_command_returns_when_the_mount_is_ready(shell):
    shell.daemon(
        "facts = [os.getcwd(), os.getsid(0) == os.getpid(), os.readlink('/proc/self/fd/0'),\n"
        "    str(mountpoint), str(settings.cache_dir), settings.uid, str(settings.log_file)]\n"
        "(HOME / 'facts').write_text(json.dumps(facts))\n"
        "print('a word for the log', flush=True)\n" + SERVE
    )
    done = shell("mount", "-o", "uid=7", "--cache-dir", "here", "m")
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        facts = json.loads((shell.home / "facts").read_text())
        assert facts[:6] == ["/", True, "/dev/null", str(shell.mountpoint), f"{shell.home}/here", 7]
        assert Path(facts[6]).parent == shell.run_dir
        assert Path(facts[6]).read_text() == "a word for the log\n"
    finally:
        os.kill(pid_of(shell), signal.SIGKILL)


def test_files_in_the_current_directory_are_not_imported(shell, tmp_path):
    shell.daemon(SERVE)
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "trio.py").write_text("raise SystemExit('trapped')")
    # As the installed command is started: without the current directory in sys.path.
    shell.environment["PYTHONSAFEPATH"] = "1"
    done = shell("mount", shell.mountpoint, cwd=trap)
    assert (done.returncode, done.stderr) == (0, "")
    os.kill(pid_of(shell), signal.SIGKILL)


def test_the_daemons_failure_is_the_commands(shell):
    shell.daemon("raise Refused('the front-end said no', user='oneadmin')")
    done = shell("mount", "m")
    assert done.returncode == 77
    assert done.stderr == "nebfs: the front-end said no (user=oneadmin)\n"


def test_a_daemon_that_dies_without_a_word_shows_the_end_of_its_log(shell):
    shell.daemon("print('the last thing I saw', flush=True)\nos._exit(5)")
    done = shell("mount", "m")
    assert done.returncode == 32
    assert "exit code 5" in done.stderr
    assert "the last thing I saw" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_daemon_that_is_killed_is_told_by_its_signal(shell):
    shell.daemon("os.kill(os.getpid(), signal.SIGKILL)")
    done = shell("mount", "m")
    assert done.returncode == 32
    assert "SIGKILL" in done.stderr
    assert "nothing was written to" in done.stderr


def test_an_old_log_is_kept_and_not_shown_again(shell):
    shell.daemon("os._exit(5)")
    (shell.home / "log").write_text("an old story\n")
    done = shell("mount", "m", "--log-file", "log")
    assert "an old story" not in done.stderr
    assert (shell.home / "log").read_text().startswith("an old story\n")


def test_a_daemon_that_is_never_ready_is_given_up_and_ended(shell):
    shell.daemon("(HOME / 'pid').write_text(str(os.getpid()))\ntime.sleep(60)")
    place = shell.home / "site" / "sitecustomize.py"
    place.write_text(place.read_text() + "import nebfs.cli.mount as m\nm.READY_MARGIN = 1.5\n")
    done = shell("mount", "m", "-o", "listing_deadline=1")
    assert done.returncode == 32
    assert "not ready within 6 s" in done.stderr
    assert not is_there(pid_of(shell))


def test_a_daemon_survives_whoever_started_it_leaving_early(shell):
    shell.daemon("ready()\nready()\n" + SERVE)
    done = shell("mount", "m")
    assert done.returncode == 0
    assert is_there(pid_of(shell))
    os.kill(pid_of(shell), signal.SIGKILL)


def test_a_log_that_cannot_be_written_is_told(shell):
    shell.daemon(SERVE)
    done = shell("mount", "m", "--log-file", "no/log")
    assert done.returncode == 32
    assert "log file" in done.stderr


def test_the_settings_may_name_the_mount_point(invoke, served, tmp_path):
    (tmp_path / "c.toml").write_text(
        f'source = "http://h:2633/RPC2"\nmountpoint = "{tmp_path}/m"\n'
    )
    assert invoke("mount", "-f", "-c", "c.toml").exit_code == 0
    ((settings, mountpoint),) = served[0]
    assert (settings.source, mountpoint) == ("http://h:2633/RPC2", tmp_path / "m")


def test_a_mount_point_that_nobody_names_is_said(invoke, served, tmp_path):
    (tmp_path / "c.toml").write_text('source = "http://h:2633/RPC2"\n')
    done = invoke("mount", "-f", "-c", "c.toml")
    assert done.exit_code == 2
    assert "no MOUNTPOINT is named" in done.output
