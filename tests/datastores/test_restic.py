"""Backups kept by ``restic``: where they are by OpenNebula's records, and what is in them."""

from __future__ import annotations

import asyncio
import errno
import json
from dataclasses import replace

import pytest
import trio

from nebfs.datastores.repositories import Repositories
from nebfs.datastores.restic import ResticDatastore
from nebfs.errors import BadAnswer, Missing, Refused, Unreachable, Unsupported
from nebfs.fetcher.messages import CallAnswer
from nebfs.fetcher.settings import FetcherSettings
from nebfs.fetcher.transports import make_transport
from nebfs.model import Datastore, DatastoreType, Template
from tests.datastores.restic_pool import PASSWORD, Restic, backup, increments
from tests.datastores.rsync_pool import VM, Repository

SFTP = {"RESTIC_SFTP_SERVER": "backup1", "RESTIC_PASSWORD": "encrypted"}
S3 = {
    "RESTIC_BACKEND": "S3",
    "RESTIC_S3_BUCKET": "one-backups",
    "RESTIC_S3_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "RESTIC_S3_SECRET_ACCESS_KEY": "canary",
}
BASE = "/var/lib/one//datastores/107"


def store(base=BASE, **template):
    facts = tuple((name, text) for name, text in template.items() if text is not None)
    return Datastore(
        107,
        "backups",
        driver="restic",
        transfer="-",
        type=DatastoreType.BACKUP,
        base_path=base,
        template=Template(facts),
    )


def where(datastore, image=None, paths=None, **ssh):
    """Return (address, options) of each place."""
    found = Repositories(paths or {}, ssh).of(datastore, image or backup())
    return [(one.address, dict(one.options)) for one in found]


# --- where a repository is --------------------------------------------------------------------


def test_a_repository_is_on_the_sftp_server():
    ((address, options),) = where(store(**SFTP))
    assert address == f"sftp://backup1/var/lib/one/datastores/107/{VM}"
    assert options == {"bridges": "oneadmin@backup1", "password": "encrypted"}


def test_who_logs_in_and_how():
    ssh = {"identity": "/key", "known-hosts": "/known"}
    ((_, options),) = where(store(**SFTP), user="backup", **ssh)
    assert options["bridges"] == "backup@backup1"
    assert (options["identity"], options["known-hosts"]) == ("/key", "/known")
    ((_, options),) = where(store(**SFTP, RESTIC_SFTP_USER="restic"), user="backup")
    assert options["bridges"] == "restic@backup1"


def test_a_backup_jobs_repository_is_the_jobs():
    image = backup(template=Template((("BACKUP_JOB_ID", "9"),)))
    ((address, _),) = where(store(**SFTP), image)
    assert address.endswith("/107/job_9")


def test_an_image_without_vm_says_it_in_its_path():
    image = backup(vm_ids=(), path="/var/lib/one/datastores/0/51/backup/disk.0.0")
    ((address, _),) = where(store(**SFTP), image)
    assert address.endswith("/107/51")


@pytest.mark.parametrize(
    "changes",
    [
        {"vm_ids": ()},
        {"vm_ids": (-1,)},
        {"vm_ids": (), "path": "/var/lib/51"},
        {"template": Template((("BACKUP_JOB_ID", "../x"),))},
        {"source": ""},
        {"source": "../etc/passwd"},
        {"source": "3F2A91C0"},
        {"source": "3f2a"},
        {"increments": increments(["3f2a91c0", "x"])},
    ],
)
async def test_a_record_that_names_no_backup_is_that_images_trouble(changes):
    driver = ResticDatastore(paths={})
    holdings = await driver.holdings(store(**SFTP), [backup(1, **changes), backup(2)])
    assert holdings[0].trouble.errno == errno.EIO
    assert "OpenNebula's record" in holdings[0].trouble.reason
    assert holdings[1].deferred
    with pytest.raises(BadAnswer, match="OpenNebula's record"):
        await driver.disks(store(**SFTP), backup(1, **changes))


def test_a_mapped_directory_is_looked_at_first():
    paths = {"/var/lib/one/datastores": "/mnt/ds"}
    here, there = where(store(**SFTP), paths=paths)
    assert here == (f"file:///mnt/ds/107/{VM}", {"password": "encrypted"})
    assert there[0].startswith("sftp://backup1/var/lib")


def test_a_directory_may_be_mapped_to_another_host():
    paths = {"/var/lib/one/datastores": "sftp://me@other:2222/srv"}
    ((address, options),) = where(store(**SFTP), paths=paths)
    assert address == f"sftp://other:2222/srv/107/{VM}"
    assert options["bridges"] == "me@other:2222"


@pytest.mark.parametrize(
    "template",
    [
        {},
        {"RESTIC_SFTP_SERVER": "-oProxyCommand=x"},
        {"RESTIC_SFTP_SERVER": "a b"},
        {"RESTIC_SFTP_SERVER": "a", "RESTIC_SFTP_USER": "x y"},
    ],
)
def test_a_datastore_that_says_no_place(template):
    with pytest.raises(BadAnswer, match="RESTIC_SFTP_SERVER"):
        where(store(**template))


def test_quotes_around_a_password_are_none_of_it():
    ((_, options),) = where(store(**{**SFTP, "RESTIC_PASSWORD": "'a\"b'"}))
    assert options["password"] == "ab"


@pytest.mark.parametrize(
    ("template", "address"),
    [
        ({}, "https://one-backups.s3.us-east-1.amazonaws.com/42"),
        (
            {"RESTIC_S3_REGION": "eu-west-3"},
            "https://one-backups.s3.eu-west-3.amazonaws.com/42",
        ),
        (
            {"RESTIC_S3_FORCE_PATH_STYLE": "yes"},
            "https://s3.us-east-1.amazonaws.com/one-backups/42",
        ),
        ({"RESTIC_S3_BUCKET": "with.dots"}, "https://s3.us-east-1.amazonaws.com/with.dots/42"),
        (
            {"RESTIC_S3_ENDPOINT": "https://s3.example.org"},
            "https://s3.example.org/one-backups/42",
        ),
        ({"RESTIC_S3_ENDPOINT": "http://store:8080/"}, "http://store:8080/one-backups/42"),
        ({"RESTIC_S3_ENDPOINT": "store:8080"}, "https://store:8080/one-backups/42"),
    ],
)
def test_a_repository_is_at_the_top_of_a_bucket(template, address):
    ((found, options),) = where(store(**{**S3, **template}))
    assert found == address
    assert found == f"{options['base']}42"
    assert (options["access-key-id"], options["secret-access-key"]) == ("AKIAEXAMPLE", "canary")
    assert "insecure-tls" not in options


def test_certificates_are_not_checked_where_the_datastore_says_so():
    ((_, options),) = where(store(**S3, RESTIC_S3_INSECURE_TLS="YES"))
    assert options["insecure-tls"] == "yes"


@pytest.mark.parametrize(
    "template",
    [
        {"RESTIC_S3_BUCKET": ""},
        {"RESTIC_S3_BUCKET": "../x"},
        {"RESTIC_S3_BUCKET": "a/b"},
        {"RESTIC_S3_ENDPOINT": "file:///etc"},
        {"RESTIC_S3_ENDPOINT": "https://user:pass@host"},
        {"RESTIC_S3_ENDPOINT": "https://host/path"},
        {"RESTIC_S3_REGION": "a b"},
    ],
)
def test_a_bucket_that_cannot_be_one(template):
    with pytest.raises(BadAnswer, match="RESTIC_S3") as caught:
        where(store(**{**S3, **template}))
    assert "pass" not in str(caught.value)


# --- what is in it, by a repository that answers as a test says -------------------------------

TREE = "ab" * 32


class Answers:
    """A repository with `snapshots`: id -> errno, or entries."""

    def __init__(self, snapshots, failures=()):
        self.snapshots = snapshots
        self.failures = list(failures)
        self.requests = []

    async def __call__(self, request):
        self.requests.append(request)
        assert (request.method, request.transport) == ("LOOK", "restic")
        if self.failures:
            raise self.failures.pop(0)
        asked = json.loads(request.body)["snapshots"]
        told = [self.snapshots.get(name, errno.ENOENT) for name in asked]
        facts = [(one, []) if isinstance(one, int) else (0, one) for one in told]
        return CallAnswer(200, (), json.dumps({"snapshots": facts}).encode())


def file(name, size=5, failed=0, kind="file", etag="e"):
    return (name, f"{TREE}/{name}", kind, size, etag, "", failed)


async def parts(call, image=None, datastore=None, paths=None):
    driver = ResticDatastore(paths=paths or {}, call=call)
    found = await driver.disks(datastore or store(**SFTP), image or backup())
    return {part.name: part for part in found}


async def test_a_full_backup_is_its_files_with_their_versions():
    call = Answers({"3f2a91c0": [file("disk.0.0"), file("vm.xml", 7, etag="v")]})
    found = await parts(call)
    assert set(found) == {"disk.0.0", "vm"}
    disk, document = found["disk.0.0"].content, found["vm"].content
    assert disk.locator.transport == "restic"
    base = f"sftp://backup1/var/lib/one/datastores/107/{VM}"
    assert disk.locator.address == f"{base}/trees/{TREE}/disk.0.0"
    assert (disk.revision.size, disk.revision.etag, disk.format) == (5, "e", "raw")
    assert (document.revision.size, document.revision.etag, document.format) == (7, "v", "xml")
    assert found["disk.0.0"].date == 1_600_000_000


async def test_secrets_are_in_no_text_about_a_backup():
    datastore = store(**{**S3, "RESTIC_PASSWORD": "canary-2"})
    call = Answers({"3f2a91c0": [file("disk.0.0")]})
    found = await parts(call, datastore=datastore)
    (request,) = call.requests
    for thing in (found, found["disk.0.0"].content.locator.shown, request):
        assert "canary" not in repr(thing)


async def test_a_disk_that_is_damaged_is_its_own_trouble():
    call = Answers({"3f2a91c0": [file("disk.0.0", failed=errno.EIO), file("disk.1.0")]})
    found = await parts(call)
    assert found["disk.0.0"].trouble.errno == errno.EIO
    assert found["disk.1.0"].content is not None


async def test_a_lost_snapshot_is_the_trouble_of_its_increment():
    image = backup(increments=increments(["00000000", "11111111"]))
    found = await parts(Answers({"00000000": [file("disk.0.0")]}), image)
    assert found["disk.0.0"].content is not None
    assert found["disk.0.1"].trouble.errno == errno.EIO
    assert "increment 1" in found["disk.0.1"].trouble.reason


async def test_a_backup_of_which_nothing_is_left_is_an_error():
    with pytest.raises(BadAnswer, match="no snapshot"):
        await parts(Answers({}))
    with pytest.raises(BadAnswer, match="no repository"):
        await parts(Answers({}, [Missing("it is not there")]))


async def test_what_is_not_on_this_machine_is_looked_for_on_the_server():
    call = Answers({"3f2a91c0": [file("disk.0.0")]}, [Missing("it is not there")])
    found = await parts(call, paths={"/var/lib/one/datastores": "/mnt/ds"})
    assert found["disk.0.0"].content.locator.address.startswith("sftp://")
    assert [one.url.partition(":")[0] for one in call.requests] == ["file", "sftp"]


async def test_a_server_that_is_away_is_no_backup_that_is_gone():
    with pytest.raises(Unreachable):
        await parts(Answers({}, [Unreachable("no answer")]))


async def test_keys_that_are_encrypted_are_said_to_be():
    secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="  # 32 bytes
    datastore = store(**{**S3, "RESTIC_S3_SECRET_ACCESS_KEY": secret})
    failure = Refused("the secret access key is wrong", status=403)
    with pytest.raises(Refused, match=r'encrypted: .*\["s3://one-backups"\]') as caught:
        await parts(Answers({}, [failure]), datastore=datastore)
    assert secret not in str(caught.value)
    with pytest.raises(Refused) as caught:
        await parts(Answers({}, [failure]), datastore=store(**S3))
    assert caught.value is failure


async def test_many_increments_are_asked_for_in_several_questions():
    names = [f"{number:08x}" for number in range(70)]
    call = Answers({name: [file(f"disk.0.{n}")] for n, name in enumerate(names)})
    found = await parts(call, backup(increments=increments(names)))
    assert len(found) == 70
    assert [len(json.loads(one.body)["snapshots"]) for one in call.requests] == [32, 32, 6]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"snapshots": []}',
        b'{"snapshots": [[0, [["disk.0.0"]]]]}',
        json.dumps({"snapshots": [[0, [file("disk.0.0", -1)]]]}).encode(),
        json.dumps({"snapshots": [[0, [("a", f"{TREE}/b", "file", 1, "", "", 0)]]]}).encode(),
        json.dumps({"snapshots": [[0, [("a", "../a", "file", 1, "", "", 0)]]]}).encode(),
        json.dumps({"snapshots": [[0, [("a", f"{TREE}/a", "file", 1, "", "*", 0)]]]}).encode(),
    ],
)
async def test_an_answer_that_makes_no_sense_is_refused(body):
    async def call(request):
        return CallAnswer(200, (), body)

    with pytest.raises(BadAnswer, match="not understood"):
        await parts(call)


async def test_without_the_fetcher_nothing_can_be_looked_at():
    with pytest.raises(Unsupported):
        await parts(None)


# --- a real one -------------------------------------------------------------------------------


async def real(request):
    """Ask the transport, as the fetcher process does."""

    async def asked():
        transport = make_transport("restic", FetcherSettings())
        try:
            return await transport.call(request)
        finally:
            await transport.aclose()

    return await trio.to_thread.run_sync(asyncio.run, asked())


def names_beneath(content):
    names = []
    while content is not None:
        names.append(content.locator.address.rpartition("/")[2])
        content = content.backing
    return names


async def test_increments_of_a_real_repository_are_put_over_each_other(tmp_path):
    kept = Repository(tmp_path / "files").incremental(3)
    base = tmp_path / "107"
    base.mkdir()
    restic = Restic(base / str(VM), tmp_path).init()
    image = backup(increments=increments(restic.back_up(kept, 3)), disk_ids=(0, 2))
    datastore = store(RESTIC_PASSWORD=PASSWORD)
    driver = ResticDatastore(paths={BASE: str(base)}, call=real)
    found = {part.name: part for part in await driver.disks(datastore, image)}
    assert sorted(found) == [
        *(f"disk.{disk}.{run}" for disk in (0, 2) for run in range(3)),
        *(f"vm.{run}" for run in range(3)),
    ]
    for disk in (0, 2):
        for run in range(3):
            content = found[f"disk.{disk}.{run}"].content
            assert content.view == "raw"
            assert names_beneath(content) == [f"disk.{disk}.{n}" for n in range(run, -1, -1)]
            while content is not None:
                path = kept.file(disk, int(content.locator.address.rpartition(".")[2]))
                assert content.revision.size == path.stat().st_size
                assert content.revision.etag
                content = content.backing
    with pytest.raises(Refused, match="encrypted"):
        await driver.disks(
            replace(datastore, template=Template((("RESTIC_PASSWORD", "x"),))), image
        )
