"""Repositories of restic on a host that is reached by SFTP, and in object stores."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from nebfs.errors import BadAnswer, Damaged, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.transports.restic_s3 import S3Store
from nebfs.fetcher.transports.restic_sftp import SftpStore
from tests.datastores.restic_pool import PASSWORD, Restic, packs
from tests.fetcher.restic_asking import (
    KNOWN,
    QUICK,
    SLOT,
    Reads,
    bring,
    locator,
    look,
    no_waiting,  # noqa: F401 - a fixture
    run,
)
from tests.fetcher.s3_asking import no_keys_of_this_machine  # noqa: F401 - a fixture
from tests.fetcher.service import Service, Told, make_certificates
from tests.fetcher.sshd import Sshd, keygen

DATA = random.Random(9).randbytes((6 << 20) + 99)
ALL = (0, len(DATA) // SLOT + 1)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("far")


@pytest.fixture(scope="module")
def disk(home):
    directory = home / "datastores/0/42/backup"
    directory.mkdir(parents=True)
    (directory / "disk.0.0").write_bytes(DATA)
    return directory / "disk.0.0"


@pytest.fixture(scope="module")
def made(home, disk):
    """A repository with one backup of it."""
    restic = Restic(home / "datastores/107/42", home).init()
    return SimpleNamespace(path=home / "datastores/107/42", snapshot=restic.backup(disk))


@pytest.fixture
def target(make_target):
    return make_target(DATA, SLOT)


async def whole(transport, address, snapshot, target, options):
    """Bring all of the disk."""
    (files,) = await look(transport, address, snapshot, options=options)
    where = locator(address, files["disk.0.0"], options)
    return await bring(transport, where, target, ALL)


# --- SFTP -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sshd(home):
    key = keygen(home / "key")
    one = Sshd(home / "host", key)
    (home / "known").write_text(one.known)
    yield one
    one.stop()


@pytest.fixture
def there(sshd, home, made):
    """The repository's address, its path through a link, and the options for it."""
    facts = {"bridges": sshd.bridge, "identity": str(home / "key"), **KNOWN}
    facts["known-hosts"] = str(home / "known")
    link = home / "link"
    if not link.exists():
        link.symlink_to(home / "datastores")
    return SimpleNamespace(
        address=f"sftp://backup.example.org{link}/107/42",
        options=facts,
        snapshot=made.snapshot,
        path=made.path,
    )


def test_a_disk_on_a_host(there, target):
    run(lambda transport: whole(transport, there.address, there.snapshot, target, there.options))
    assert target.slots == set(range(*ALL))
    target.check()


def test_a_host_is_asked_for_the_blob_of_a_read_in_the_middle(there, target, monkeypatch):
    reads = Reads(monkeypatch, SftpStore)

    async def use(transport):
        (files,) = await look(transport, there.address, there.snapshot, options=there.options)
        where = locator(there.address, files["disk.0.0"], there.options)
        revision, _ = await bring(transport, where, target)
        transport._repositories._blobs.clear()
        del reads.paths[:]
        await bring(transport, where, target, (24, 25), expected=revision)

    run(use)
    assert len(reads.paths) in (1, 2)  # a slot may lie across the border of two blobs
    target.check()


def test_a_repository_that_is_not_on_the_host_is_missing(there, target):
    with pytest.raises(Missing, match="no repository"):
        run(lambda t: whole(t, f"{there.address}7", there.snapshot, target, there.options))


def test_a_password_for_a_host_may_be_in_the_file_of_credentials(there, target, tmp_path):
    path = tmp_path / "credentials.toml"
    above = there.address.rpartition("/")[0]
    path.write_text(f'["{above}"]\nrepository-password = "{PASSWORD}"\n')
    path.chmod(0o600)
    settings = replace(QUICK, credentials_file=str(path))
    options = {**there.options, "password": ""}
    run(lambda t: whole(t, there.address, there.snapshot, target, options), settings)
    target.check()


def test_a_host_that_goes_away_and_comes_back(there, target, sshd, monkeypatch):
    async def use(transport):
        (files,) = await look(transport, there.address, there.snapshot, options=there.options)
        where = locator(there.address, files["disk.0.0"], there.options)
        revision, _ = await bring(transport, where, target)
        transport._repositories._blobs.clear()
        sshd.stop()
        with pytest.raises(Unreachable):
            await bring(transport, where, target, ALL, expected=revision)
        sshd.start()
        await bring(transport, where, target, ALL, expected=revision)

    run(use)
    target.check()


def test_a_pack_on_a_host_that_is_cut_off_is_damaged(there, target):
    pack = packs(there.path)[0]
    data = pack.read_bytes()
    pack.chmod(0o600)
    try:
        pack.write_bytes(data[: len(data) // 2])
        with pytest.raises(Damaged):
            run(lambda t: whole(t, there.address, there.snapshot, target, there.options))
    finally:
        pack.write_bytes(data)
    target.check()


# --- object stores ----------------------------------------------------------------------------


def in_bucket(url, keys, name="42", **more):
    base = f"{url}/images/"
    facts = {"base": base, "bucket": "images", "region": "us-east-1", **KNOWN, **more}
    facts["access-key-id"], facts["secret-access-key"] = keys
    return f"{base}{name}", facts


def test_a_disk_in_a_real_object_store(radosgw, disk, home, target, monkeypatch):
    keys = radosgw.owner.access_key_id, radosgw.owner.secret_access_key
    restic = Restic(
        f"s3:{radosgw.url}/images/job_9",
        home,
        AWS_ACCESS_KEY_ID=keys[0],
        AWS_SECRET_ACCESS_KEY=keys[1],
    ).init(cheap=False)
    snapshot = restic.backup(disk)
    address, options = in_bucket(radosgw.url, keys, "job_9")
    reads = Reads(monkeypatch, S3Store)

    async def use(transport):
        (files,) = await look(transport, address, snapshot, options=options)
        where = locator(address, files["disk.0.0"], options)
        revision, _ = await bring(transport, where, target)
        transport._repositories._blobs.clear()
        del reads.paths[:]
        await bring(transport, where, target, (24, 25), expected=revision)
        touched = list(reads.paths)
        await bring(transport, where, target, (0, 24), (25, ALL[1]), expected=revision)
        return touched

    assert len(run(use)) in (1, 2)
    assert target.slots == set(range(*ALL))
    target.check()
    wrong = {**options, "secret-access-key": "canary-secret"}
    with pytest.raises(Refused, match="the secret access key is wrong") as caught:
        run(lambda transport: look(transport, address, snapshot, options=wrong))
    assert "canary" not in str(caught.value)
    with pytest.raises(Missing, match="no repository"):
        run(lambda transport: look(transport, f"{address}9", snapshot, options=options))


class Bucket:
    """An object store over a repository on this machine, which gives `page` names at a time."""

    def __init__(self, root: Path, page: int = 1) -> None:
        self.root = root
        self.page = page
        self.asked = []

    def __call__(self, asked):
        self.asked.append(asked)
        assert asked.method == "GET"
        path = unquote(asked.path).removeprefix("/images/")
        if "list-type" in asked.query:
            return Told(200, self.listing(asked.query))
        file = self.root / path.removeprefix("42/")
        if not path.startswith("42/") or not file.is_file():
            return Told(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data = file.read_bytes()
        if "range" not in asked.headers:
            return Told(200, data)
        start, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
        part = data[int(start) : int(last) + 1]
        told = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
        return Told(206, part, {"Content-Range": told})

    def listing(self, query):
        directory = query["prefix"].removeprefix("42/")
        found = sorted((self.root / directory).iterdir()) if directory else []
        names = [f"{query['prefix']}{one.name}" for one in found]
        first = int(query.get("continuation-token", "0").removeprefix("to/="))
        more = first + self.page < len(names)
        keys = "".join(
            f"<Contents><Key>{name}</Key><Size>1</Size></Contents>"
            for name in names[first : first + self.page]
        )
        token = f"<NextContinuationToken>to/={first + self.page}</NextContinuationToken>"
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token if more else ''}{keys}"
            "</ListBucketResult>"
        ).encode()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    home = tmp_path_factory.mktemp("tls")
    make_certificates(home)
    with Service(home, lambda _: Told(500)) as one:
        yield one


@pytest.fixture
def bucket(service, made):
    service.respond = Bucket(made.path)
    return service.respond


KEYS = ("AKIAEXAMPLE", "canary-secret")


def test_a_list_that_comes_in_pages(service, bucket, made, disk, home, target, tmp_path):
    """Of snapshots; there is one, and a second one behind it."""
    other = made.path / "snapshots" / ("f" * 64)
    other.write_bytes(b"nobody looks into it")
    address, options = in_bucket(service.url, KEYS, **{"insecure-tls": "yes"})
    try:
        run(lambda transport: whole(transport, address, made.snapshot, target, options))
    finally:
        other.unlink()
    target.check()
    tokens = [one.query.get("continuation-token") for one in bucket.asked]
    assert "to/=1" in tokens
    for asked in bucket.asked:
        assert "Credential=AKIAEXAMPLE" in asked.headers["authorization"]
        assert "canary" not in repr(asked)


def test_a_certificate_is_checked_unless_the_datastore_says_otherwise(service, bucket, made):
    address, options = in_bucket(service.url, KEYS)
    with pytest.raises(Unreachable, match="certificate is not trusted"):
        run(lambda transport: look(transport, address, made.snapshot, options=options))
    assert bucket.asked == []


def test_only_the_places_own_certificate_is_not_checked(service, bucket, made, home):
    """A redirect to elsewhere is not followed blindly."""
    service.respond = lambda asked: Told(
        302, b"", {"Location": f"https://127.0.0.1:{service.port}{asked.path}"}
    )
    address, options = in_bucket(service.url, KEYS, **{"insecure-tls": "yes"})
    with pytest.raises(Unreachable, match="certificate is not trusted"):
        run(lambda transport: look(transport, address, made.snapshot, options=options))


@pytest.mark.parametrize(
    ("listing", "kind"),
    [
        (b"", BadAnswer),
        (b"<html></html>", BadAnswer),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><ListBucketResult>&a;</ListBucketResult>", BadAnswer),
        (
            b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
            BadAnswer,
        ),
        (b"<ListBucketResult></ListBucketResult>", Missing),
        (
            b"<ListBucketResult><Contents><Key>42/keys/../../x</Key></Contents></ListBucketResult>",
            Refused,  # there is no key that the password opens
        ),
    ],
)
def test_a_list_that_makes_no_sense_is_not_believed(service, made, listing, kind):
    service.respond = lambda _: Told(200, listing)
    address, options = in_bucket(service.url, KEYS, **{"insecure-tls": "yes"})
    with pytest.raises(kind):
        run(lambda transport: look(transport, address, made.snapshot, options=options))


def test_a_store_that_gives_no_parts_says_so(service, bucket, made):
    def respond(asked):
        told = bucket(asked)
        if told.status != 206:
            return told
        return Told(200, (bucket.root / asked.path.removeprefix("/images/42/")).read_bytes())

    service.respond = respond
    address, options = in_bucket(service.url, KEYS, **{"insecure-tls": "yes"})

    async def use(transport):
        return await look(transport, address, made.snapshot, options=options)

    (failed,) = run(use)
    assert failed == Unsupported.errno
