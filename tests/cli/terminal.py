"""A terminal of a given size: what a command draws on it, as the one who sits there sees it."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pyte

CHECKOUT = Path(__file__).resolve().parents[2]

ALTERNATE, BACK = b"\x1b[?1049h", b"\x1b[?1049l"
SHOWN = b"\x1b[?25h"
"""What makes the cursor visible."""

START = """\
import sys
from pathlib import Path
import nebfs.cli.mounts, nebfs.cli.progress, nebfs.cli.watching
from nebfs.cli.main import main
if sys.argv[1]:
    nebfs.cli.mounts.MOUNTINFO = Path(sys.argv[1])
nebfs.cli.watching.EVERY = 0.1
nebfs.cli.progress.EVERY = 0.1
del sys.argv[1]
main()
"""


class Terminal:
    """Runs ``nebfs WORDS`` with a terminal of its own. Use as a context manager."""

    def __init__(self, words, columns=80, lines=24, table="", **environment):
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = os.openpty()
        self._size(slave, columns, lines)
        self.modes = termios.tcgetattr(slave)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEBFS_", "ONE_"))}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            kept.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(table), *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**kept, "TERM": "xterm-256color", "PYTHONPATH": str(CHECKOUT), **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._slave = slave

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self._slave)

    @staticmethod
    def _size(terminal, columns, lines):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns, lines):
        self.screen.resize(lines, columns)
        self._size(self.master, columns, lines)  # the kernel tells the command

    def read(self, until, timeout=30.0):
        """Take what is drawn until `until()` holds."""
        end = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < end, self.text
            if select.select([self.master], [], [], 0.05)[0]:
                self._take()
            elif self.process.poll() is not None:
                assert until(), self.text

    def _take(self):
        try:
            data = os.read(self.master, 1 << 16)
        except OSError as exc:
            assert exc.errno == errno.EIO
            data = b""
        self.raw += data
        self._stream.feed(data)

    @property
    def rows(self):
        return [row.rstrip() for row in self.screen.display]

    @property
    def text(self):
        return "\n".join(self.rows)

    @property
    def frames(self):
        """How often something was drawn from the window's corner on."""
        return self.raw.count(b"\x1b[H")

    @property
    def scrolled(self):
        return len(self.screen.history.top)

    def type(self, keys):
        os.write(self.master, keys)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def end(self, timeout=30.0):
        """Wait for the command's end, taking all that it says, and return its exit code."""
        end = time.monotonic() + timeout
        while self.process.poll() is None or select.select([self.master], [], [], 0.05)[0]:
            assert time.monotonic() < end, self.text
            if select.select([self.master], [], [], 0.05)[0]:
                self._take()
        return self.process.returncode

    def is_as_it_was(self):
        """Whether the terminal was left as it was found."""
        return (
            termios.tcgetattr(self._slave) == self.modes
            and self.raw.rfind(SHOWN) > self.raw.rfind(b"\x1b[?25l")
            and self.raw.count(ALTERNATE) == self.raw.count(BACK)
        )
