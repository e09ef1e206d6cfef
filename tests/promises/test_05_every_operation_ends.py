"""Promise 5: every operation ends, and no process stays unkillable beyond that."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time

import pytest


def url_of(cloud, end):
    return next(url for url in cloud.published if url.endswith(end))


def failing_read(path, offset=0, length=4096):
    """Return the errno of a read."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.pread(fd, length, offset)
    except OSError as exc:
        return exc.errno
    finally:
        os.close(fd)
    return 0


@pytest.mark.mounted
def test_a_stalled_body_ends_within_the_deadline_and_no_process_hangs(make_mount, servers, cloud):
    url = url_of(cloud, "debian-12.raw")
    mount = make_mount(servers.frontend_url, "-o", "deadline=3s,stall_timeout=1s")
    mount.start()
    path = mount.app("Debian 12") / "Debian 12.raw"
    path.stat()
    servers.files.switches(url).stall_after = 0
    before = time.monotonic()
    assert failing_read(path) in {errno.EIO, errno.ETIMEDOUT}
    assert time.monotonic() - before < 15
    reader = subprocess.Popen(
        ["dd", f"if={path}", "of=/dev/null", "iflag=direct", "bs=1M"], stderr=subprocess.DEVNULL
    )
    time.sleep(0.2)
    reader.send_signal(signal.SIGKILL)
    reader.wait(15)
    servers.files.release()
    servers.files.switches(url).stall_after = None
    assert failing_read(path) == 0
