"""``nebfs support-bundle``: what somebody who helps wants to know, in one file, without secrets."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

import click

import nebfs
from nebfs.cli.config_command import Given, as_mount_reads, overrides_of
from nebfs.cli.doctor import examine, told, typed_run_dir
from nebfs.cli.door import say, verbose_option
from nebfs.cli.mounts import MOUNTINFO, tool
from nebfs.cli.status import report_on
from nebfs.cli.written import told as settings_told
from nebfs.config import Settings, load
from nebfs.daemon import registry
from nebfs.errors import NebfsError, UserError

LOG_LINES = 2000
LOG_BYTES = 1 << 20
"""The end of each log: hours of an ordinary day, some minutes of a bad one."""
PATIENCE = 5.0
KERNEL = ("/proc/version", "/proc/meminfo", "/proc/filesystems", "/proc/sys/fs/file-nr")
README = """\
Made by 'nebfs support-bundle'. Look through it before you hand it on.

Secrets that nebfs knows of (session, credentials, keys, tokens, what URLs carry) were replaced by
[removed], and so was what looks like one. Names of hosts, users, images and directories are in it.
"""
Part = tuple[str, Callable[[], str]]


@as_mount_reads
@click.command("support-bundle")
@click.argument("source", default="")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write to this file; else to nebfs-support-DATE.tar.gz here.",
)
@verbose_option
def support_bundle(source: str, output: Path | None, **flags: Given) -> None:
    """Gather what somebody who helps wants to know in one file (tar.gz, mode 0600).

    In it: versions, what 'nebfs doctor' finds, the settings, the status and the end of the log of
    every mount of this user, the mount table, facts of the kernel. Secrets are taken out; look
    through it all the same.
    """
    from nebfs.cli.scrubbing import Scrubber, secrets_of  # noqa: PLC0415 - as the doctor's checks

    overrides = overrides_of(source, flags)
    settings, refused = _settings(overrides)
    scrubber = Scrubber(secrets_of(settings, os.environ, Path.home()))
    output = output or Path(time.strftime("nebfs-support-%Y%m%dT%H%M%S.tar.gz"))
    with _opened(output) as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for name, make in _parts(settings, refused, overrides):
            try:
                text = make()
            except (NebfsError, OSError, ValueError) as exc:
                text = f"not to be had: {exc}\n"
            _add(bundle, name, scrubber.clean(text))
    say(f"written to {output}; look through it before you hand it on")


def _settings(overrides: dict[str, object]) -> tuple[Settings | None, str]:
    try:
        return load(None, overrides), ""
    except UserError as exc:
        return None, str(exc)


def _opened(path: Path) -> io.BufferedWriter:
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except FileExistsError as exc:
        raise UserError(f"{path} is there already: remove it, or name another file") from exc
    return open(descriptor, "wb")


def _parts(settings: Settings | None, refused: str, overrides: dict[str, object]) -> Iterator[Part]:
    run_dir = settings.run_dir if settings else typed_run_dir(overrides)
    yield "README", lambda: README
    yield "versions.json", _versions
    yield "settings.txt", partial(_settings_text, settings, refused, overrides)
    yield "doctor.txt", partial(_doctor, overrides)
    yield "mountinfo.txt", partial(MOUNTINFO.read_text, "utf-8", "replace")
    yield "fuse.txt", _fuse
    for path in KERNEL:
        yield f"kernel/{Path(path).name}", partial(Path(path).read_text, "utf-8")
    for one in registry.registered(run_dir):
        name = f"mounts/{registry.name_of(Path(one.mountpoint))}"
        yield f"{name}/status.json", partial(_status, one)
        if one.log_file:
            yield f"{name}/log.txt", partial(tail, Path(one.log_file))


def _doctor(overrides: dict[str, object]) -> str:
    findings = examine(overrides, None, PATIENCE)
    return "\n".join(map(click.unstyle, told(findings))) + "\n"


def _status(one: registry.Registration) -> str:
    return json.dumps(report_on(one).record, indent=2) + "\n"


def _versions() -> str:
    facts = {
        "nebfs": nebfs.__version__,
        "python": sys.version,
        "system": _os_release(),
        "kernel": " ".join(platform.uname()),
        "user": os.geteuid(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "packages": _packages(),
    }
    return json.dumps(facts, indent=2) + "\n"


def _packages() -> dict[str, str]:
    """Return the versions of what nebfs requires, optional or not."""
    found = {}
    for line in metadata.requires("nebfs") or ():
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _os_release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return "unknown"


def _settings_text(settings: Settings | None, refused: str, overrides: dict[str, object]) -> str:
    if settings is None:
        return f"the settings are refused:\n{refused}\n"
    lines = [
        f"{one.name} = {one.value}  # {one.origin}" for one in settings_told(settings, overrides)
    ]
    return "\n".join(lines) + "\n"


def _fuse() -> str:
    program = tool("fusermount3")
    if program is None:
        return "fusermount3 is not installed\n"
    done = subprocess.run(
        [program, "-V"], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    return done.stdout or done.stderr


def tail(path: Path) -> str:
    """Return the last lines of a log. Raises OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LOG_BYTES))
        lines = file.read(LOG_BYTES).decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-LOG_LINES:]) + "\n"


def _add(bundle: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    member = tarfile.TarInfo(f"nebfs-support/{name}")
    member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
    bundle.addfile(member, io.BytesIO(data))
