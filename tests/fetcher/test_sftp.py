"""The transport ``sftp`` with real sshds on loopback."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import socket
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import structlog

from nebfs.errors import BadAnswer, Changed, Missing, Refused, Unreachable
from nebfs.fetcher.messages import CallRequest, FetchRequest
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import sftp_sessions
from nebfs.fetcher.transports.sftp import Sftp
from nebfs.model import Locator, Revision
from tests.fetcher.sshd import Sshd, keygen

SLOT = 128 << 10
SEED = 7


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return keygen(tmp_path_factory.mktemp("key") / "id")


@pytest.fixture
def make_sshd(tmp_path, key):
    made = []

    def make(**options):
        made.append(Sshd(tmp_path / f"sshd{len(made)}", key, **options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def sshd(make_sshd):
    return make_sshd()


@pytest.fixture
def place(tmp_path, key, monkeypatch):
    """A home without keys of its own, and a datastore."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    base = tmp_path / "datastores" / "1"
    base.mkdir(parents=True)
    return SimpleNamespace(home=home, base=base.resolve(), key=key, known=home / ".ssh/known_hosts")


@pytest.fixture
def image(place):
    """5 slots and a bit, of which one is zeros."""
    data = bytearray(random.Random(3).randbytes(5 * SLOT + 1000))
    data[2 * SLOT : 3 * SLOT] = bytes(SLOT)
    path = place.base / "image"
    path.write_bytes(data)
    return path


class Heard:
    """A Listener that checks every slot against the file when it is reported."""

    def __init__(self):
        self.slots = []
        self.revisions = []
        self.handed = {}

    def found(self, revision):
        self.revisions.append(revision)

    def filled(self, slots):
        self.slots += [one.slot for one in slots]

    def early(self, offset, data):
        self.handed[offset] = data


def revision(path):
    found = path.stat()
    return Revision(found.st_size, modified=str(int(found.st_mtime) * 10**9))


def locator(place, path, *sshds, address="node1,node2", **options):
    names = " ".join(one if isinstance(one, str) else one.bridge for one in sshds)
    options = {"bridges": names, "identity": str(place.key), **options}
    return Locator("sftp", f"sftp://{address}{path}", tuple(options.items()))


def run(work, **settings):
    """Run `work(transport)` with everything closed after it."""
    facts = {"connect_timeout": 5.0, "stall_timeout": 5.0, **settings}

    async def main():
        transport = Sftp(FetcherSettings(**facts))
        try:
            async with asyncio.timeout(30):
                return await work(transport)
        finally:
            await transport.aclose()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, "something still runs"

    return asyncio.run(main())


def trust(place, *sshds):
    place.known.write_text("".join(one.known for one in sshds))


async def fetch(transport, where, expected, tmp_path, *ranges, wanted=None):
    heard = Heard()
    size = expected.size if expected else 1 << 30
    spans = tuple((a * SLOT, min(b * SLOT, size)) for a, b in ranges)
    request = FetchRequest(where, spans, expected, SLOT, SEED, wanted)
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.truncate(fd, size if expected else 0)
        found = await transport.fetch(request, fd, heard)
        return found, heard, os.pread(fd, 64 << 20, 0)
    finally:
        os.close(fd)


def test_bytes_equal_the_file_and_zeros_are_not_written(place, image, sshd, tmp_path):
    trust(place, sshd)
    expected = revision(image)

    async def work(transport):
        where = locator(place, image, sshd)
        return await fetch(transport, where, expected, tmp_path, (0, 2), (2, 6))

    found, heard, data = run(work)
    assert found == expected
    assert data == image.read_bytes()
    assert sorted(heard.slots) == [0, 1, 2, 3, 4, 5]


def test_a_part_is_only_that_part(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        return await fetch(transport, where, revision(image), tmp_path, (1, 2), (4, 5))

    _, heard, data = run(work)
    assert sorted(heard.slots) == [1, 4]
    assert data[4 * SLOT : 5 * SLOT] == image.read_bytes()[4 * SLOT : 5 * SLOT]
    assert not any(data[:SLOT])


def test_what_somebody_waits_for_comes_early_from_far_away(
    place, image, sshd, tmp_path, monkeypatch
):
    trust(place, sshd)
    monkeypatch.setattr("nebfs.fetcher.transports.sftp.FAR", 0.0)
    at = SLOT + 50_000

    async def work(transport):
        where = locator(place, image, sshd)
        await fetch(transport, where, None, tmp_path, (0, 1))
        wanted = (at, at + 4096)
        return await fetch(transport, where, revision(image), tmp_path, (1, 2), wanted=wanted)

    _, heard, _ = run(work)
    assert heard.handed == {at: image.read_bytes()[at : at + 4096]}


def test_a_probe_takes_what_is_there(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        return await fetch(transport, where, None, tmp_path, (0, 100))

    found, heard, data = run(work)
    assert found == revision(image)
    assert heard.revisions == [found]
    assert data == image.read_bytes()


def test_many_at_once_share_one_connection(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        await asyncio.gather(
            *(
                fetch(transport, where, revision(image), tmp_path, (n % 5, n % 5 + 1))
                for n in range(20)
            )
        )

    run(work)
    assert sshd.logins == 1


def test_another_version_is_changed_and_nothing_is_written(place, image, sshd, tmp_path):
    trust(place, sshd)
    old = revision(image)
    heard = Heard()

    async def work(transport):
        where = locator(place, image, sshd)
        await fetch(transport, where, old, tmp_path, (0, 1))
        os.utime(image, (1, 1))
        fd = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        try:
            with pytest.raises(Changed):
                await transport.fetch(FetchRequest(where, ((0, SLOT),), old, SLOT), fd, heard)
            assert os.fstat(fd).st_size == 0
        finally:
            os.close(fd)

    run(work)
    assert heard.slots == []


def test_a_file_that_took_the_place_of_an_open_one_is_found(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        await fetch(transport, where, revision(image), tmp_path, (0, 1))
        other = place.base / "other"
        other.write_bytes(b"other" * SLOT)
        os.utime(other, (99, 99))
        other.rename(image)
        return await fetch(transport, where, revision(image), tmp_path, (0, 5))

    _, _, data = run(work)
    assert data == b"other" * SLOT


def test_a_link_or_pipe_in_the_files_place_is_not_opened(place, image, sshd, tmp_path):
    trust(place, sshd)
    expected = revision(image)
    image.rename(place.base / "moved")
    for make in (lambda: image.symlink_to("moved"), lambda: os.mkfifo(image)):
        make()

        async def work(transport):
            with pytest.raises(Changed):
                where = locator(place, image, sshd)
                await fetch(transport, where, expected, tmp_path, (0, 1))

        run(work)
        image.unlink()


def test_a_file_that_is_gone_is_missing(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        with pytest.raises(Missing):
            where = locator(place, place.base / "no", sshd)
            await fetch(transport, where, revision(image), tmp_path, (0, 1))

    run(work)


# --- bridges ----------------------------------------------------------------------------------


def dead_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_a_dead_bridge_is_skipped_and_remembered(place, image, sshd, tmp_path):
    trust(place, sshd)
    dead = f"127.0.0.1:{dead_port()}"

    async def work(transport):
        where = locator(place, image, dead, sshd)
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                _, _, data = await fetch(transport, where, revision(image), tmp_path, (0, 6))
                assert data == image.read_bytes()
        return [entry for entry in logs if entry["event"] == "bridge.failed"]

    (failed,) = run(work)
    assert failed["host"] == dead


def test_a_bridge_that_lives_again_is_found_without_anybody_waiting(
    place, image, make_sshd, tmp_path, monkeypatch
):
    first, second = make_sshd(), make_sshd()
    trust(place, first, second)
    first.stop()
    monkeypatch.setattr("nebfs.fetcher.transports.sftp_hosts.DEAD_FOR", -1.0)

    async def work(transport):
        where = locator(place, image, first, second)
        await fetch(transport, where, revision(image), tmp_path, (0, 1))
        first.start()
        first.send(signal.SIGSTOP)
        await fetch(transport, where, revision(image), tmp_path, (0, 1))
        (making,) = transport._hosts._connecting.values()
        first.send(signal.SIGCONT)
        await making
        second.stop()
        await fetch(transport, where, revision(image), tmp_path, (0, 6))

    run(work)
    assert (first.logins, second.logins) == (1, 1)


def test_when_all_bridges_are_dead_each_says_why(place, image, tmp_path):
    first, second = f"127.0.0.1:{dead_port()}", "no.such.host.invalid"

    async def work(transport):
        with pytest.raises(Unreachable) as caught:
            where = locator(place, image, first, second)
            await fetch(transport, where, revision(image), tmp_path, (0, 1))
        return str(caught.value)

    text = run(work)
    assert first in text
    assert second in text
    assert "refused" in text.lower()


def test_a_bridge_that_dies_half_way_is_replaced(place, image, make_sshd, tmp_path):
    first, second = make_sshd(), make_sshd()
    trust(place, first, second)
    with open(image, "wb") as file:
        file.write(random.Random(1).randbytes(24 << 20))
    expected = revision(image)
    heard = Heard()

    class Killing(Heard):
        def filled(self, slots):
            if not heard.slots:
                first.stop()
            heard.filled(slots)

    async def work(transport):
        where = locator(place, image, first, second)
        fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
        try:
            request = FetchRequest(where, ((0, expected.size),), expected, SLOT)
            await transport.fetch(request, fd, Killing())
            return os.pread(fd, expected.size, 0)
        finally:
            os.close(fd)

    assert run(work) == image.read_bytes()
    assert sorted(heard.slots) == list(range(-(-expected.size // SLOT)))
    assert second.logins == 1


def test_a_restarted_sshd_is_asked_again_at_once(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        await fetch(transport, where, revision(image), tmp_path, (0, 1))
        sshd.stop()
        with pytest.raises(Unreachable):
            await fetch(transport, where, revision(image), tmp_path, (0, 1))
        sshd.start()
        _, _, data = await fetch(transport, where, revision(image), tmp_path, (0, 6))
        assert data == image.read_bytes()
        sshd.stop()
        sshd.start()
        await fetch(transport, where, revision(image), tmp_path, (0, 6))

    run(work)


def test_a_silent_host_is_unreachable_in_time(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        await fetch(transport, where, revision(image), tmp_path, (0, 1))
        sshd.send(signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unreachable, match="silent"):
            await fetch(transport, where, revision(image), tmp_path, (0, 6))
        with pytest.raises(Unreachable, match="no connection within"):
            await fetch(transport, where, revision(image), tmp_path, (0, 6))
        took = asyncio.get_running_loop().time() - began
        sshd.send(signal.SIGCONT)
        return took

    assert run(work, stall_timeout=0.4, connect_timeout=0.5) < 3


def test_a_cancelled_fetch_leaves_the_connection_to_the_others(place, image, sshd, tmp_path):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        await fetch(transport, where, revision(image), tmp_path, (0, 1))
        for turns in range(1, 12):
            task = asyncio.create_task(
                fetch(transport, where, revision(image), tmp_path, (0, 6), wanted=(60000, 64000))
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.cancel():
                break
            with pytest.raises(asyncio.CancelledError):
                await task
        _, _, data = await fetch(transport, where, revision(image), tmp_path, (0, 6))
        assert data == image.read_bytes()

    run(work)
    assert sshd.logins == 1


def test_more_files_than_are_kept_open(place, sshd, tmp_path, monkeypatch):
    trust(place, sshd)
    monkeypatch.setattr(sftp_sessions, "OPEN_FILES", 3)
    paths = [place.base / f"{n}" for n in range(10)]
    for n, path in enumerate(paths):
        path.write_bytes(b"%d" % n * 5000)

    async def work(transport):
        for _ in range(2):
            for path in paths:
                where = locator(place, path, sshd)
                _, _, data = await fetch(transport, where, revision(path), tmp_path, (0, 1))
                assert data == path.read_bytes()
        (session,) = transport._hosts._sessions.values()
        assert len(session._files) <= 3

    run(work)


# --- who is who -------------------------------------------------------------------------------


def refused(place, image, tmp_path, *sshds, **options):
    async def work(transport):
        with pytest.raises(Refused) as caught:
            where = locator(place, image, *sshds, **options)
            await fetch(transport, where, revision(image), tmp_path, (0, 1))
        return str(caught.value)

    return run(work)


def test_an_unknown_host_key_is_refused_with_the_remedy(place, image, sshd, tmp_path):
    text = refused(place, image, tmp_path, sshd)
    assert "host key is not known" in text
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in text
    assert sshd.logins == 0


def test_a_changed_host_key_is_refused_loudly(place, image, make_sshd, sshd, tmp_path):
    other = make_sshd()
    place.known.write_text(other.known.replace(str(other.port), str(sshd.port)))
    text = refused(place, image, tmp_path, sshd)
    assert "HOST KEY HAS CHANGED" in text
    assert sshd.logins == 0


def test_host_keys_are_checked_even_if_ssh_is_told_to_forget_them(place, image, sshd, tmp_path):
    (place.home / ".ssh/config").write_text(
        "Host *\nStrictHostKeyChecking no\nUserKnownHostsFile none\n"
    )
    assert "host key is not known" in refused(place, image, tmp_path, sshd)


def test_a_host_that_does_not_know_us(place, image, sshd, tmp_path):
    trust(place, sshd)
    stranger = keygen(tmp_path / "stranger")
    text = refused(place, image, tmp_path, sshd, identity=str(stranger))
    assert "authorized_keys" in text
    assert str(stranger) not in text


def test_a_key_that_cannot_be_read_is_said(place, image, sshd, tmp_path):
    trust(place, sshd)
    broken = tmp_path / "broken"
    broken.write_text("canary-key")
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-N", "canary-word", "-f", locked], check=True)
    for file in (broken, locked, tmp_path / "none"):
        text = refused(place, image, tmp_path, sshd, identity=str(file))
        assert "cannot be read" in text
        assert "canary" not in text


def test_a_file_of_host_keys_of_its_own(place, image, sshd, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("broken line\n" + sshd.known)

    async def work(transport):
        where = locator(place, image, sshd, **{"known-hosts": str(mine)})
        return await fetch(transport, where, revision(image), tmp_path, (0, 6))

    _, _, data = run(work)
    assert data == image.read_bytes()


def test_the_users_own_ssh_config_and_keys_are_used(place, image, sshd, tmp_path):
    (place.home / ".ssh/config").write_text(
        f"Host Bridge\nHostName 127.0.0.1\nPort {sshd.port}\nUser {sshd.bridge.split('@')[0]}\n"
        f"UserKnownHostsFile {tmp_path}/elsewhere\n"
    )
    (tmp_path / "elsewhere").write_text(sshd.known)
    (place.home / ".ssh/id_ed25519").write_bytes(place.key.read_bytes())

    async def work(transport):
        where = Locator("sftp", f"sftp://Bridge{image}")
        return await fetch(transport, where, revision(image), tmp_path, (0, 6))

    _, _, data = run(work)
    assert data == image.read_bytes()


def test_who_is_named_nowhere_is_oneadmin(place, image, sshd, tmp_path):
    trust(place, sshd)
    text = refused(place, image, tmp_path, f"127.0.0.1:{sshd.port}")
    assert "does not let us in" in text
    assert "oneadmin" in sshd.log


def test_no_key_and_no_path_is_logged(place, image, sshd, tmp_path, caplog, capfd):
    trust(place, sshd)

    async def work(transport):
        where = locator(place, image, sshd)
        await fetch(transport, where, revision(image), tmp_path, (0, 6))

    run(work)
    out = capfd.readouterr()
    seen = caplog.text + out.out + out.err
    assert "canary" not in seen
    assert str(image) not in seen
    assert str(place.key) not in seen


@pytest.mark.parametrize("name", ["", "-oProxyCommand=x", "host:0", "host:x", "host:70000"])
def test_a_host_that_is_none(place, image, tmp_path, name):
    async def work(transport):
        with pytest.raises(BadAnswer):
            where = locator(place, image, address=name)
            await fetch(transport, where, revision(image), tmp_path, (0, 1))

    run(work)


# --- looking ----------------------------------------------------------------------------------


def look(place, sshds, base, *paths, **settings):
    async def work(transport):
        body = json.dumps(
            {
                "base": str(base),
                "paths": [str(path) for path in paths],
                "options": dict(locator(place, "/", *sshds).options),
            }
        )
        request = CallRequest("LOOK", f"sftp://x{base}", body=body.encode(), transport="sftp")
        answer = await transport.call(request)
        assert answer.status == 200
        return json.loads(answer.body)

    return run(work, **settings)


def test_looking_says_what_is_where(place, image, sshd, tmp_path):
    trust(place, sshd)
    base = place.base
    (base / "image.snap").mkdir()
    (base / "plain").write_bytes(b"12345")
    (base / "plain.snap").write_bytes(b"a file is no chain")
    (base / "link").symlink_to("plain")
    (tmp_path / "secret").write_text("x")
    (base / "out").symlink_to(tmp_path / "secret")
    (base / "sub").symlink_to(tmp_path)
    (base / "loop").symlink_to("loop")
    (base / "directory").mkdir()
    names = ["image", "plain", "link", "out", "sub/secret", "loop", "directory", "none", "a\0b"]
    found = dict(zip(names, look(place, [sshd], base, *(base / n for n in names)), strict=True))
    size, modified = image.stat().st_size, int(image.stat().st_mtime) * 10**9
    assert found["image"] == [
        *[0, "file", False, True, size, modified, str(image)],
        *[["image", "file", "", "", size, modified, 0], []],
    ]
    assert found["plain"][:5] == [0, "file", False, False, 5]
    assert found["link"][:5] == [0, "file", False, False, 5]
    assert found["link"][6] == str(base / "plain")
    assert found["out"][2] is True
    assert found["sub/secret"][2] is True
    assert found["directory"][:2] == [0, "directory"]
    assert found["loop"][0] == errno.ENOENT
    assert found["none"][0] == errno.ENOENT
    assert found["a\0b"][0] == errno.ENOENT


def test_a_base_that_is_a_link_is_where_the_administrator_wants_it(place, image, sshd, tmp_path):
    trust(place, sshd)
    (tmp_path / "link").symlink_to(place.base)
    (found,) = look(place, [sshd], tmp_path / "link", tmp_path / "link" / "image")
    assert (found[2], found[6]) == (False, str(image))


def test_two_thousand_files_are_looked_at_together(place, sshd):
    trust(place, sshd)
    paths = [place.base / f"{n}" for n in range(2000)]
    for path in paths:
        path.write_bytes(b"x")
    found = look(place, [sshd], place.base, *paths)
    assert [one[4] for one in found] == [1] * 2000


def test_a_bridge_without_the_directory_leaves_it_to_the_next(
    place, image, make_sshd, tmp_path, key
):
    empty = make_sshd(extra=f"ForceCommand internal-sftp -d {tmp_path}\nMatch User nobody")
    full = make_sshd()
    trust(place, empty, full)

    async def work(transport):
        options = dict(locator(place, "/", empty, full).options)
        body = {"base": "/nonexistent/1", "paths": ["/nonexistent/1/x"], "options": options}
        request = CallRequest("LOOK", "sftp://x", body=json.dumps(body).encode(), transport="sftp")
        with pytest.raises(Missing):
            await transport.call(request)

    run(work)
    assert (empty.logins, full.logins) == (1, 1)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"base": "/", "paths": 5}'])
def test_nonsense_is_not_looked_at(place, body):
    async def work(transport):
        with pytest.raises(BadAnswer):
            await transport.call(CallRequest("LOOK", "sftp://x", body=body, transport="sftp"))

    run(work)


def test_an_answer_that_is_too_long(place, image, sshd):
    trust(place, sshd)

    async def work(transport):
        options = dict(locator(place, "/", sshd).options)
        body = {"base": str(place.base), "paths": [str(image)] * 10, "options": options}
        request = CallRequest("LOOK", "sftp://x", body=json.dumps(body).encode(), transport="sftp")
        with pytest.raises(BadAnswer):
            await transport.call(replace(request, max_body=100))

    run(work)
