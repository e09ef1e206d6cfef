"""Looking into directories through SFTP, with real sshds on loopback."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os

import pytest

from nebfs.errors import BadAnswer, Missing, Unreachable, Unsupported
from nebfs.fetcher.messages import CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import sftp_directories
from nebfs.fetcher.transports.sftp import Sftp
from nebfs.fetcher.transports.sftp_sessions import Session
from nebfs.model import Locator
from tests.fetcher.sshd import Sshd, keygen

QCOW2 = b"QFI\xfb" + bytes(range(1, 200))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    home = tmp_path_factory.mktemp("sshd")
    key = keygen(home / "key")
    one = Sshd(home / "host", key)
    (home / "known").write_text(one.known)
    options = {
        "bridges": one.bridge,
        "identity": str(key),
        "known-hosts": str(home / "known"),
    }
    yield one, options
    one.stop()


@pytest.fixture
def base(tmp_path):
    made = tmp_path.resolve() / "base"
    made.mkdir()
    return made


def run(work, stall=5.0):
    async def main():
        transport = Sftp(FetcherSettings(connect_timeout=5.0, stall_timeout=stall))
        try:
            async with asyncio.timeout(30):
                return await work(transport)
        finally:
            await transport.aclose()

    return asyncio.run(main())


async def ask(transport, sshd, base, *paths, method="LIST"):
    body = {"base": str(base), "paths": [str(path) for path in paths], "options": sshd[1]}
    request = CallRequest(method, f"sftp://x{base}", body=json.dumps(body).encode())
    return json.loads((await transport.call(request)).body)


def listed(sshd, base, *paths, **more):
    return run(lambda transport: ask(transport, sshd, base, *paths), **more)


def test_what_is_in_a_directory(sshd, base):
    directory = base / "d"
    directory.mkdir()
    (directory / "0").symlink_to("/etc/shadow")
    (directory / "1").write_bytes(QCOW2 + bytes(9000))
    (directory / "2").write_bytes(b"raw" * 5000)
    (directory / "3.current").write_text("/x/1\n")
    (directory / "dir").mkdir()
    (directory / "empty").touch()
    os.mkfifo(directory / "pipe")
    (directory / "näme\udcff").write_bytes(b"x")
    for path in directory.iterdir():
        os.utime(path, (1000, 1000), follow_symlinks=False)
    ((failed, entries, path),) = listed(sshd, base, directory)
    assert (failed, path) == (0, str(directory))
    found = {entry[0]: entry[1:] for entry in entries}
    assert found.pop("dir")[0] == "directory"
    assert found == {
        "0": ["link", "/etc/shadow", "", len("/etc/shadow"), 1000 * 10**9, 0],
        "1": ["file", "", base64.b64encode(QCOW2).decode(), len(QCOW2) + 9000, 1000 * 10**9, 0],
        "2": ["file", "", "", 15000, 1000 * 10**9, 0],
        "3.current": ["file", "", base64.b64encode(b"/x/1\n").decode(), 5, 1000 * 10**9, 0],
        "empty": ["file", "", "", 0, 1000 * 10**9, 0],
        "pipe": ["pipe", "", "", 0, 1000 * 10**9, 0],
        "näme\udcff": ["file", "", "", 1, 1000 * 10**9, 0],
    }


def test_only_directories_below_the_base_are_looked_into(sshd, base, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").touch()
    (base / "link").symlink_to(tmp_path / "secret")
    (base / "in").mkdir()
    (base / "in" / "link").symlink_to(tmp_path / "secret")
    (base / "file").touch()
    (base / "well").mkdir()
    paths = [base / "link", base / "in/link", base / "file", base / "none", base / "well"]
    answers = listed(sshd, base, *paths)
    assert [one[0] for one in answers] == [
        errno.ENOTDIR,
        errno.ENOTDIR,
        errno.ENOTDIR,
        errno.ENOENT,
        0,
    ]
    assert all(one[1] == [] for one in answers)


def test_a_base_that_is_a_link_is_resolved(sshd, base, tmp_path):
    (base / "d").mkdir()
    (tmp_path / "other").symlink_to(base)
    ((failed, _, path),) = listed(sshd, tmp_path / "other", tmp_path / "other" / "d")
    assert (failed, path) == (0, str(base / "d"))


def test_a_base_that_is_not_there(sshd, base):
    with pytest.raises(Missing):
        listed(sshd, base / "none", base / "none" / "x")


def test_too_much_in_a_directory_is_not_read(sshd, base, monkeypatch):
    for name in ("many", "most"):
        (base / name).mkdir()
    for number in range(sftp_directories.MOST + 1):
        (base / "many" / f"{number}").touch()
    for number in range(sftp_directories.MOST):
        (base / "most" / f"{number}").touch()
    many, most = listed(sshd, base, base / "many", base / "most")
    assert many[0] == errno.EOVERFLOW
    assert len(most[1]) == sftp_directories.MOST


def test_a_file_that_was_replaced_is_looked_at_anew_and_probed_anew(sshd, base):
    directory = base / "d"
    directory.mkdir()
    path = directory / "1"
    path.write_bytes(QCOW2)
    os.utime(path, (1000, 1000))

    async def work(transport):
        where = Locator("sftp", f"sftp://x{path}", tuple(sshd[1].items()))
        fd = os.memfd_create("probe")
        probe = FetchRequest(where, ((0, 1024),), None, 1024)

        class Listener:
            def found(self, revision):
                pass

            filled = early = found

        first = await transport.fetch(probe, fd, Listener())
        before = await ask(transport, sshd, base, directory)
        other = directory / "new"
        other.write_bytes(QCOW2[:100])
        os.utime(other, (1000, 1000))
        other.replace(path)
        after = await ask(transport, sshd, base, directory)
        second = await transport.fetch(probe, fd, Listener())
        os.close(fd)
        return first, before, after, second

    first, before, after, second = run(work)
    assert (first.size, second.size) == (len(QCOW2), 100)
    assert (before[0][1][0][4], after[0][1][0][4]) == (len(QCOW2), 100)


def test_a_host_that_gives_less_than_was_asked_for(sshd, base, monkeypatch):
    (base / "d").mkdir()
    (base / "d" / "1").write_bytes(QCOW2 + bytes(9000))
    read = Session.read
    monkeypatch.setattr(
        Session, "read", lambda self, file, a, b: read(self, file, a, min(b, a + 100))
    )
    ((_, (entry,), _),) = listed(sshd, base, base / "d")
    assert base64.b64decode(entry[3]) == QCOW2


def test_a_host_that_falls_silent_is_an_error(sshd, base):
    (base / "d").mkdir()

    async def work(transport):
        await ask(transport, sshd, base, base / "d")
        sshd[0].send(19)
        try:
            with pytest.raises(Unreachable):
                await ask(transport, sshd, base, base / "d")
        finally:
            sshd[0].send(18)

    run(work, stall=1.0)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"base": "/", "paths": 5}'])
def test_nonsense_is_not_looked_at(body):
    async def work(transport):
        with pytest.raises(BadAnswer):
            await transport.call(CallRequest("LIST", "sftp://x", body=body, transport="sftp"))

    run(work)


def test_another_method_is_not_known():
    async def work(transport):
        with pytest.raises(Unsupported):
            await transport.call(CallRequest("GET", "sftp://x", body=b"{}", transport="sftp"))

    run(work)
