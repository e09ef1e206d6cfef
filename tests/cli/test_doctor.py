"""``nebfs doctor``: each broken set-up is told by its cause, with a remedy."""

import ctypes
import datetime as dt
import functools
import json
import os
import socket
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nebfs.cli.checkup.reaching import skew_of
from nebfs.daemon import registry
from nebfs.demo.cloud import Cloud
from nebfs.demo.frontend import FrontEnd, _FrontEndHandler
from nebfs.demo.listening import Listener
from nebfs.demo.records import DatastoreRecord, UserRecord
from nebfs.model import DatastoreType

PATIENCE = "1"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("nebfs.cli.checkup.machine.mount_table", list)  # of others' tests


@pytest.fixture
def cloud(tmp_path):
    made = Cloud()
    made.users["oneadmin"] = UserRecord(0, "oneadmin", "canary", gid=0, groups=(0,))
    images = tmp_path / "datastores/1"
    images.mkdir(parents=True)
    made.datastores[1] = DatastoreRecord(
        1, "default", base_path="/var/lib/one/datastores/1", total_mb=1000, free_mb=500
    )
    made.datastores[0] = DatastoreRecord(0, "system", type=DatastoreType.SYSTEM)
    return made


@pytest.fixture
def listen():
    """Start a Listener, perhaps behind TLS."""
    running = []

    def start(listener, context=None):
        if context is not None:
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
        listener.start()
        running.append(listener)
        return f"{listener.url.replace('http', 'https' if context else 'http', 1)}/RPC2"

    yield start
    for listener in running:
        listener.close()


class Doctor:
    """Runs ``nebfs doctor`` about a set-up in which nothing is wrong but what a test breaks."""

    def __init__(self, invoke, home):
        self._invoke = invoke
        self.home = home
        self.auth, self.mountpoint = home / "auth", home / "mnt"
        self.cache, self.run_dir = home / "cache", home / "run"
        self.auth.write_text("oneadmin:canary\n")
        self.auth.chmod(0o600)
        self.mountpoint.mkdir()
        self.lines = ""
        self.paths = f'[datastores.paths]\n"/var/lib/one/datastores" = "{home}/datastores"\n'

    def __call__(self, source, *words):
        config = self.home / "nebfs.toml"
        config.write_text(self.lines + self.paths)
        done = self._invoke(
            *("doctor", *([source] if source else []), self.mountpoint, "--json"),
            *("--config", config, "--auth-file", self.auth, "--cache-dir", self.cache),
            *("--run-dir", self.run_dir, "--timeout", PATIENCE, *words),
        )
        assert "canary" not in done.output
        findings = json.loads(done.stdout)
        bad = [one for one in findings if one["level"] != "ok"]
        assert done.exit_code == (4 if any(one["level"] == "problem" for one in bad) else 0)
        assert all(one["remedy"] for one in bad)
        return findings, bad


@pytest.fixture
def doctor(invoke, tmp_path):
    return Doctor(invoke, tmp_path)


@pytest.fixture
def front_end(cloud, listen):
    return listen(FrontEnd(cloud).listener())


def only(bad, about, level="problem"):
    """Return text and remedy of the one thing that is wrong."""
    (one,) = bad
    assert (one["about"], one["level"]) == (about, level), one
    return f"{one['text']} -> {one['remedy']}"


def test_nothing_is_wrong(doctor, front_end):
    findings, bad = doctor(front_end)
    assert bad == []
    said = {one["about"]: one["text"] for one in findings}
    assert "OpenNebula 7.4.0" in said["front-end"]
    assert said["credentials"] == "user oneadmin is let in"
    assert said["datastore default"].endswith("can be listed")
    assert said["clock"] == "agrees with the front-end"
    assert "datastore system" not in said


def test_a_mistake_in_one_check_does_not_hide_the_others(doctor, front_end, monkeypatch):
    monkeypatch.setattr("nebfs.cli.checkup.run.check_kernel", lambda: 1 / 0)
    findings, bad = doctor(front_end)
    assert "ZeroDivisionError" in only(bad, "doctor")
    assert any(one["about"] == "credentials" for one in findings)


def test_it_is_told_to_people_too(invoke, doctor, front_end):
    done = invoke("doctor", front_end, doctor.home / "nowhere", "--auth-file", doctor.home / "no")
    assert done.exit_code == 4
    problem = next(line for line in done.output.splitlines() if "does not exist" in line)
    assert problem.startswith("problem  mount point")
    assert f"-> mkdir -p {doctor.home}/nowhere" in done.output
    assert f"there is no file {doctor.home}/no" in done.output


# --- this machine ---


def test_no_fuse_device(doctor, front_end, monkeypatch, tmp_path):
    monkeypatch.setattr("nebfs.cli.checks.DEVICE", tmp_path / "dev-fuse")
    said = only(doctor(front_end)[1], "FUSE")
    assert f"{tmp_path}/dev-fuse is missing -> load the kernel module" in said


def test_no_fusermount3(doctor, front_end, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("nebfs.cli.mounts.SYSTEM_PATH", str(tmp_path))
    assert "install the package fuse3" in only(doctor(front_end)[1], "FUSE", "warning")
    monkeypatch.setattr("nebfs.cli.checks.os.geteuid", lambda: 12345)
    texts = [one["text"] for one in doctor(front_end)[1]]
    assert "fusermount3 is missing" in texts


def test_others_may_not_be_let_in(doctor, front_end, monkeypatch, tmp_path):
    (tmp_path / "fuse.conf").write_text("# user_allow_other\n")
    monkeypatch.setattr("nebfs.cli.checks.FUSE_CONF", tmp_path / "fuse.conf")
    monkeypatch.setattr("nebfs.cli.checks.os.geteuid", lambda: 12345)
    bad = doctor(front_end, "-o", "allow_other")[1]
    assert any(f"'user_allow_other' in {tmp_path}/fuse.conf" in one["text"] for one in bad)


def test_the_mount_point_is_not_a_directory(doctor, front_end):
    doctor.mountpoint.rmdir()
    doctor.mountpoint.touch()
    assert "is not a directory" in only(doctor(front_end)[1], "mount point")


def test_the_mount_point_is_not_empty(doctor, front_end):
    (doctor.mountpoint / "x").touch()
    assert "is not empty" in only(doctor(front_end)[1], "mount point", "warning")


@pytest.fixture
def dead_mount(doctor):
    """What a daemon leaves that is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"cloud", bytes(doctor.mountpoint), b"fuse.nebfs", 0, options) == 0
    os.close(device)
    path = doctor.mountpoint
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.mounted
def test_the_mount_point_is_a_dead_mount(doctor, front_end, dead_mount):
    said = only(doctor(front_end)[1], "mount point")
    assert "is a dead mount of cloud (fuse.nebfs): its process is gone" in said
    assert said.endswith(f"-> nebfs umount {dead_mount}")


@pytest.mark.mounted
def test_a_dead_mount_elsewhere(doctor, front_end, dead_mount, monkeypatch):
    from nebfs.cli.mounts import mount_table

    mine = [one for one in mount_table() if one.mountpoint == dead_mount]
    monkeypatch.setattr("nebfs.cli.checkup.machine.mount_table", lambda: mine)
    doctor.mountpoint = doctor.home / "other"
    doctor.mountpoint.mkdir()
    assert only(doctor(front_end)[1], "mounts").endswith(f"-> nebfs umount {dead_mount}")


# --- settings and files ---


def test_an_unknown_setting(doctor, front_end):
    doctor.lines = 'cache_szie = "1G"\n'
    assert "did you mean cache_size?" in only(doctor(front_end)[1], "settings")


def test_no_auth_file(doctor, front_end):
    doctor.auth = doctor.home / "nothing"
    assert f"there is no file {doctor.home}/nothing" in only(doctor(front_end)[1], "settings")


def test_the_auth_file_is_no_session(doctor, front_end):
    doctor.auth.write_text("canary\n")
    assert "does not hold a session" in only(doctor(front_end)[1], "auth file")


def test_others_may_read_the_auth_file(doctor, front_end):
    doctor.auth.chmod(0o644)
    said = only(doctor(front_end)[1], "auth file", "warning")
    assert "every user of this machine may read or write it (mode 0644)" in said
    assert said.endswith(f"chmod 0600 {doctor.auth}")


def test_the_sessions_of_other_users(doctor, front_end):
    files = {name: doctor.home / name for name in ("good", "open", "none")}
    for name in ("good", "open"):
        files[name].write_text("alice:canary\n")
        files[name].chmod(0o600 if name == "good" else 0o644)
        os.chown(files[name], 77001 + (name == "open"), 0)
    doctor.lines = 'allow_other = true\nothers = "sessions"\n[users.sessions]\n' + "".join(
        f'{77001 + number} = "{path}"\n' for number, path in enumerate(files.values())
    )
    findings, bad = doctor(front_end)
    said = {one["about"]: one["text"] for one in findings}
    assert said["session of user 77001"] == f"{files['good']}: user alice"
    opened, missing = bad
    assert opened["about"] == "session of user 77002"
    assert "is open to others (mode 0644)" in opened["text"]
    assert opened["remedy"] == "chmod 600 it"
    assert missing["text"] == f"there is no session file {files['none']}"
    assert missing["remedy"].startswith(f"correct {files['none']}")


def test_a_wrong_password(doctor, front_end, cloud):
    cloud.set_password("oneadmin", "another")
    said = only(doctor(front_end)[1], "credentials")
    assert "refuses the login of user oneadmin" in said
    assert f"correct USER:PASSWORD in {doctor.auth}" in said


# --- directories ---


@pytest.fixture
def tmpfs(doctor):
    doctor.cache.mkdir()

    def mounted(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "cache", doctor.cache]
        subprocess.run(command, check=True)

    yield mounted
    subprocess.run(["umount", doctor.cache], check=True)


@pytest.mark.mounted
def test_the_cache_is_on_a_full_disk(doctor, front_end, tmpfs):
    tmpfs("size=1M")
    (doctor.cache / "VERSION").write_text("1\n")
    with pytest.raises(OSError), open(doctor.cache / "full", "wb") as file:
        file.write(bytes(2 << 20))
    assert "is full; blocks would be kept in memory" in only(doctor(front_end)[1], "cache")


@pytest.mark.mounted
def test_the_cache_leaves_no_room(doctor, front_end, tmpfs):
    tmpfs("size=64M")
    assert "nothing can be cached" in only(doctor(front_end)[1], "cache")
    doctor.lines = 'cache_min_free = "1M"\n'
    said = only(doctor(front_end)[1], "cache", "warning")
    assert "of the 10.0 GiB that cache_size allows" in said


@pytest.mark.mounted
def test_the_cache_is_read_only(doctor, front_end, tmpfs):
    tmpfs("ro")
    assert "is read-only" in only(doctor(front_end)[1], "cache")


def test_the_cache_belongs_to_somebody_else(doctor, front_end):
    doctor.cache.mkdir()
    os.chown(doctor.cache, 12345, 12345)
    said = only(doctor(front_end)[1], "cache", "warning")
    assert "belongs to user 12345" in said
    assert f"chown -R {os.geteuid()} {doctor.cache}" in said


def test_the_cache_is_no_cache(doctor, front_end):
    doctor.cache.mkdir()
    (doctor.cache / "letters.odt").touch()
    assert "neither empty nor a cache of nebfs" in only(doctor(front_end)[1], "cache")


def test_the_cache_is_in_use(doctor, front_end):
    from nebfs.blocks import DiskStore

    store = DiskStore.prepare(doctor.cache, 1 << 30, 0)
    try:
        said = only(doctor(front_end)[1], "cache")
        assert f"in use by another nebfs (process {os.getpid()})" in said
        own = registry.Registration.of_this_process(doctor.run_dir, doctor.mountpoint, source="")
        registry.register(doctor.run_dir, own)
        assert doctor(front_end)[1] == []  # it is this very mount's
    finally:
        store.unlock()


def test_the_run_directory_may_be_written_by_others(doctor, front_end):
    doctor.run_dir.mkdir()
    doctor.run_dir.chmod(0o777)
    assert f"chmod go-w {doctor.run_dir}" in only(doctor(front_end)[1], "run directory")


# --- the network ---


def test_the_front_end_is_down(doctor):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = only(doctor(f"http://127.0.0.1:{port}/RPC2")[1], "front-end")
    assert f"could not connect to 127.0.0.1:{port}: Connection refused" in said.replace(
        "[Errno", ""
    )


def test_the_front_end_hangs(doctor):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        said = only(doctor(f"http://127.0.0.1:{port}/RPC2")[1], "front-end")
    assert "no answer in time" in said


def test_the_hosts_name_is_unknown(doctor):
    url = "http://u:canary@no-such-host.invalid:2633/RPC2"
    bad = [one for one in doctor(url)[1] if one["about"] == "front-end"]
    said = only(bad, "front-end")
    assert "the name of no-such-host.invalid:2633 cannot be resolved" in said
    assert "/etc/resolv.conf" in said


def test_the_path_is_wrong(doctor, front_end):
    said = only(doctor(front_end.replace("RPC2", "RPC"))[1], "front-end")
    assert "HTTP 404" in said
    assert "usually ends in" in said


def certificate(home, name, days, issuer=None):
    """Make a certificate and its key; return them, and a server's context that shows them."""
    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signed_by = issuer or (key, subject)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=10))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    file = home / f"{name}-{days}.pem"
    file.write_bytes(
        built.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return file, (key, subject), context


@pytest.fixture
def authority(tmp_path):
    file, issuer, _ = certificate(tmp_path, "authority", 100)
    return file, issuer


@pytest.fixture
def behind_tls(cloud, listen, tmp_path, authority):
    def start(name, days):
        _, _, context = certificate(tmp_path, name, days, authority[1])
        url = listen(FrontEnd(cloud).listener(), context)
        return url.replace("127.0.0.1", "localhost")

    return start


def test_tls_with_a_good_certificate(doctor, behind_tls, authority):
    doctor.lines = f'ca_file = "{authority[0]}"\n'
    assert doctor(behind_tls("localhost", 100))[1] == []


def test_a_certificate_of_an_unknown_authority(doctor, behind_tls):
    said = only(doctor(behind_tls("localhost", 100))[1], "front-end")
    assert "the certificate of localhost:" in said
    assert "is not trusted: unable to get local issuer certificate" in said
    assert "ca_file" in said


def test_a_certificate_that_has_expired(doctor, behind_tls, authority):
    doctor.lines = f'ca_file = "{authority[0]}"\n'
    said = only(doctor(behind_tls("localhost", -1))[1], "front-end")
    assert "certificate has expired -> renew the server's certificate" in said


def test_a_certificate_that_expires_soon(doctor, behind_tls, authority):
    doctor.lines = f'ca_file = "{authority[0]}"\n'
    said = only(doctor(behind_tls("localhost", 3))[1], "front-end", "warning")
    assert "expires in 3 d" in said


def test_a_certificate_of_another_name(doctor, behind_tls, authority):
    doctor.lines = f'ca_file = "{authority[0]}"\n'
    said = only(doctor(behind_tls("other.example", 100))[1], "front-end")
    assert "certificate is not valid for 'localhost'" in said
    assert "use the name that the certificate is for" in said


def test_plain_http_where_tls_is_expected(doctor, front_end):
    said = only(doctor(front_end.replace("http:", "https:"))[1], "front-end")
    assert "TLS with 127.0.0.1" in said


@pytest.fixture
def proxy(monkeypatch):
    """One that lets nobody through."""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(403)

        do_CONNECT = do_HEAD = do_POST  # noqa: N815 - the base's way to name them

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://u:canary@127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("https_proxy", url)
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxy_refuses(doctor, proxy, scheme):
    bad = doctor(f"{scheme}://one.example:2633/RPC2")[1]
    said = only([one for one in bad if one["about"] == "front-end"], "front-end")
    assert "403" in said
    assert f"through the proxy {proxy}" in said
    assert "no_proxy in the environment" in said


def test_the_proxy_is_down(doctor, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
    said = only(doctor("https://one.example:2633/RPC2")[1], "front-end")
    assert f"could not connect to the proxy http://127.0.0.1:{port}" in said


@pytest.mark.parametrize(("minutes", "level"), [(10, "problem"), (-2, "warning")])
def test_the_clocks_differ(doctor, cloud, listen, minutes, level):
    class Late(_FrontEndHandler):
        def date_time_string(self, timestamp=None):
            now = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
            return now.strftime("%a, %d %b %Y %H:%M:%S UTC")

    url = listen(Listener(functools.partial(Late, front_end=FrontEnd(cloud))))
    said = only(doctor(url)[1], "clock", level)
    assert f"is {abs(minutes)} min {'behind' if minutes > 0 else 'ahead'}" in said
    assert "NTP" in said


def test_a_date_that_is_none():
    assert skew_of("", 0.0) is None
    assert skew_of("Thu, 99 Foo 1970", 0.0) is None
    assert skew_of("Thu, 01 Jan 1970 00:01:00 GMT", 0.0) == 60


# --- what the cloud names ---


def test_a_datastores_directory_is_not_here(doctor, front_end):
    doctor.paths = ""
    said = only(doctor(front_end)[1], "datastore default")
    assert "its directory /var/lib/one/datastores/1: No such file or directory" in said
    assert '"/var/lib/one/datastores/1" = "/where/it/is/here"' in said


def test_a_datastores_directory_hangs(doctor, front_end, monkeypatch):
    hanging = threading.Event()
    monkeypatch.setattr("nebfs.cli.checkup.cloud._path", lambda *_: hanging.wait(30))
    try:
        said = only(doctor(front_end)[1], "datastore default")
    finally:
        hanging.set()
    assert "datastores/1 does not answer" in said


def test_the_file_of_credentials_is_wrong(doctor, front_end):
    file = doctor.home / "credentials.toml"
    file.write_text('["https://h"]\npasswort = "canary"\n')
    file.chmod(0o600)
    doctor.lines = f'credentials_file = "{file}"\n'
    assert "did you mean password?" in only(doctor(front_end)[1], "credentials file")


def test_a_datastores_driver_is_unknown(doctor, front_end, cloud):
    cloud.datastores[1].driver = "storpool"
    said = only(doctor(front_end)[1], "datastore default", "warning")
    assert "'storpool' is not known" in said
    assert "[datastores.mappings]" in said


def test_a_drivers_library_is_missing(doctor, front_end, cloud, monkeypatch, tmp_path):
    place = tmp_path / "site"
    place.mkdir()
    (place / "asyncssh.py").write_text("raise ImportError('gone', name='asyncssh')\n")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{place}:{before}")
    cloud.datastores[1].driver = "rsync"
    said = only(doctor(front_end)[1], "datastore default")
    assert "the transport 'sftp' needs asyncssh, which is missing" in said
    assert "pip install 'nebfs[ssh]'" in said


def test_marketplaces_without_a_cloud(invoke, market, doctor):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    findings, bad = doctor("", "--marketplace", market, "--marketplace", f"http://127.0.0.1:{port}")
    assert "Connection refused" in only(bad, f"marketplace 127.0.0.1:{port}")
    assert any("answers in" in one["text"] for one in findings)
