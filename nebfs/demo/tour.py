"""The guided tour: mount the demonstration cloud with the real command and use real tools on it.

Every step says what it does and gives its result in one line. The program under demonstration runs
as a process of its own; this one only looks at the mount, as any other program would.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nebfs.demo.cloud import Cloud
from nebfs.demo.demonstration import PASSWORD, demonstration_cloud
from nebfs.demo.server import DemonstrationServers, serve
from nebfs.errors import NebfsError, UserError
from nebfs.units import GIB, MIB, format_size

COMMAND = (sys.executable, "-m", "nebfs.cli")
_MOUNT_TIMEOUT = 60.0  # seconds; a mount takes about one, an overloaded machine more
_STEP_TIMEOUT = 120.0  # seconds; each step moves at most 64 MiB over loopback
_MOST_FETCHED = 4 * MIB  # for a read of 1 MiB: read-ahead included
_DEPTH = 3
_DEGRADED = 4  # what `nebfs status` exits with when some place has trouble, as some here have


class Console(Protocol):
    """Where the tour prints; rich.console.Console is one."""

    def print(
        self, *objects: object, markup: bool | None = None, highlight: bool | None = None
    ) -> None:
        """Print one line; square brackets in it are no markup."""
        ...


class StepError(NebfsError):
    """A step of the tour did not give what it must."""


def tour(*, directory: Path, keep: bool, mount: Sequence[str] = COMMAND, console: Console) -> int:
    """Run the tour; return 0, or 1 after a message when something was not as it must be.

    `directory` holds the images and datastores and is kept for the next time; everything else is in
    a temporary directory that is removed. With `keep`, the mount stays until Ctrl-C. `mount` are
    the words that start nebfs, before its command's name. Raises UserError where the tour cannot
    begin (a tool is missing).
    """
    for tool, package in (("rsync", "rsync"), ("fusermount3", "fuse3")):
        if shutil.which(tool) is None:
            raise UserError(f"the tour uses {tool}; install the package {package}")
    _say(console, "Making disk images", f"in {directory}")
    started = time.monotonic()
    cloud = demonstration_cloud(directory)
    _result(console, f"{time.monotonic() - started:.1f} s")
    # Short, because the control socket in it has a path of at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="nebfs-demo-", ignore_cleanup_errors=True) as scratch,
        serve(cloud) as servers,
    ):
        guide = _Guide(console, cloud, servers, Path(scratch), tuple(mount))
        try:
            with guide.mounted():
                guide.walk()
                if keep:
                    guide.wait()
        except StepError as failure:
            console.print(f"FAILED: {failure}", markup=False, highlight=False)
            return 1
        except KeyboardInterrupt:
            console.print("interrupted; unmounted", markup=False, highlight=False)
            return 130
        wrong = servers.failures()
    if wrong:
        console.print(f"FAILED: the demonstration's servers: {wrong[0]!r}", markup=False)
        return 1
    console.print("Everything was as it must be.", markup=False, highlight=False)
    return 0


def _say(console: Console, what: str, how: str = "") -> None:
    console.print(f"* {what}{f': {how}' if how else ''}", markup=False, highlight=False)


def _result(console: Console, text: str) -> None:
    console.print(f"    {text}", markup=False, highlight=False)


@dataclass(slots=True)
class _Guide:
    """The steps, one method each; all raise StepError."""

    console: Console
    cloud: Cloud
    servers: DemonstrationServers
    scratch: Path
    command: tuple[str, ...]
    _output: list[str] = field(default_factory=list)

    @property
    def mountpoint(self) -> Path:
        return self.scratch / "mnt"

    @property
    def _run_dir(self) -> tuple[str, str]:
        return ("--run-dir", str(self.scratch / "run"))

    @property
    def app(self) -> Path:
        return self.mountpoint / "marketplaces" / "OpenNebula Public" / "Alpine Linux 3.20"

    def walk(self) -> None:
        """Take every step between mounting and unmounting."""
        self._tree()
        self._copy_app()
        self._copy_image()
        self._checksums()
        self._raw_disk()
        self._middle()
        self._status()

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount; unmount however the steps end."""
        for name in ("mnt", "cache", "run"):
            (self.scratch / name).mkdir(mode=0o700)
        auth = self.scratch / "one_auth"
        auth.touch(mode=0o600)
        auth.write_text(f"oneadmin:{PASSWORD}\n")
        mount = [
            *(*self.command, "mount", self.servers.frontend_url, str(self.mountpoint)),
            *("--auth-file", str(auth), "--cache-dir", str(self.scratch / "cache")),
            *self._run_dir,
        ]
        _say(self.console, "Mounting", _shown(mount))
        started = time.monotonic()
        process = subprocess.Popen(
            mount,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tour, which then unmounts
        )
        reader = threading.Thread(target=self._collect, args=(process,), daemon=True)
        reader.start()
        try:
            self._await_mount(process)
            _result(self.console, f"mounted in {time.monotonic() - started:.1f} s")
            yield
        except BaseException:
            self._take_down(process, quietly=True)
            raise
        else:
            self._take_down(process, quietly=False)
        finally:
            reader.join(1.0)
            if process.stdout is not None and not reader.is_alive():
                process.stdout.close()

    def wait(self) -> None:
        """Leave the mount to the user until Ctrl-C."""
        _say(self.console, "The mount stays", str(self.mountpoint))
        _result(self.console, f"front-end {self.servers.frontend_url}, user oneadmin")
        _result(self.console, "Ctrl-C here unmounts and cleans up; look around in another shell:")
        _result(self.console, self._way_in())
        try:
            while _is_mounted(self.mountpoint):  # or until somebody unmounts it by hand
                time.sleep(0.5)
        except KeyboardInterrupt:
            self.console.print("")

    def _way_in(self) -> str:
        """Return what makes another shell stand in the mount, and nebfs find its daemon there."""
        exported = f"NEBFS_RUN_DIR={shlex.quote(str(self.scratch / 'run'))}"
        beside = Path(sys.executable).parent
        if (beside / "nebfs").exists() and shutil.which("nebfs") is None:
            exported += f' PATH={shlex.quote(str(beside))}:"$PATH"'
        return f"export {exported}; cd {shlex.quote(str(self.mountpoint))}"

    def _environment(self) -> dict[str, str]:
        """Return the environment of nebfs: no proxy in between, nothing of the user's own cloud."""
        foreign = ("http_proxy", "https_proxy", "all_proxy", "one_", "nebfs_")
        kept = {k: v for k, v in os.environ.items() if not k.lower().startswith(foreign)}
        return {**kept, "PYTHONUNBUFFERED": "1"}

    def _collect(self, process: subprocess.Popen[str]) -> None:
        # A full pipe would stop the daemon: read what it prints until it closes its output.
        if process.stdout is not None:
            for line in process.stdout:
                self._output = [*self._output[-20:], line.rstrip()]

    def _await_mount(self, process: subprocess.Popen[str]) -> None:
        """Wait until the mount is there, whether or not the command goes into the background."""
        deadline = time.monotonic() + _MOUNT_TIMEOUT
        while not _is_mounted(self.mountpoint):
            if process.poll() not in (None, 0):
                said = " / ".join(self._output[-3:]) or "nothing"
                raise StepError(f"mount exited with {process.returncode} and said: {said}")
            if time.monotonic() > deadline:
                raise StepError("no mount after a minute", said=" / ".join(self._output[-3:]))
            time.sleep(0.05)
        if process.poll() not in (None, 0):
            raise StepError(f"mount exited with {process.returncode}", said=self._output[-3:])

    def _take_down(self, process: subprocess.Popen[str], *, quietly: bool) -> None:
        """Unmount with the real command, by force if it must be; raise only when not `quietly`."""
        umount = [*self.command, "umount", str(self.mountpoint), *self._run_dir]
        problem = ""
        if _is_mounted(self.mountpoint):
            if not quietly:
                _say(self.console, "Unmounting", _shown(umount))
            try:
                problem = self._run(umount, allowed=range(256)).strip()
            except StepError as failure:
                problem = str(failure)
        if _is_mounted(self.mountpoint):
            problem = problem or "it was still mounted"
            for force in ("fusermount3", "-uz"), ("umount", "-l"):  # the latter is root's
                with suppress(StepError):
                    self._run([*force, str(self.mountpoint)])
                    break
        else:
            problem = ""
        try:
            process.wait(_MOUNT_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            problem = problem or "the mount command did not end"
        if problem and not quietly:
            raise StepError(f"umount failed: {problem}")
        if not quietly:
            _result(self.console, "unmounted")

    def _tree(self) -> None:
        _say(self.console, "What is there", f"the first {_DEPTH} levels of {self.mountpoint}")
        lines = list(_tree(self.mountpoint, _DEPTH))
        for line in lines:
            _result(self.console, line)
        names = {line.strip().rstrip("/") for line in lines}
        for wanted in ("OpenNebula Public", "Alpine Linux 3.20", "default"):
            if not any(name.startswith(wanted) for name in names):
                raise StepError(f"{wanted!r} is not in the tree")

    def _copy_app(self) -> None:
        disk, copy = self.app / f"{self.app.name}.qcow2", self.scratch / "copy.qcow2"
        self._step("Copying an app's disk", ["cp", str(disk), str(copy)])
        original = self.cloud.published["/public/alpine.qcow2"]
        sums = self._run(["sha256sum", str(copy), str(original)]).split()
        if sums[0] != sums[2]:
            raise StepError("the copy differs from what was published", copy=sums[0])
        size = format_size(copy.stat().st_size)
        _result(self.console, f"{size}, SHA-256 as published: {sums[0][:16]}...")

    def _copy_image(self) -> None:
        disk = self.mountpoint / "datastores" / "default" / "tiny raw.raw"
        copy = self.scratch / "copy.raw"
        self._step("Copying a datastore's image", ["rsync", "-a", str(disk), str(copy)])
        original = self.cloud.resolve(self.cloud.image(0).source)
        self._run(["cmp", str(copy), original])
        _result(self.console, f"{format_size(copy.stat().st_size)}, identical to the original")

    def _checksums(self) -> None:
        _say(self.console, "Verifying with what was published", "sha256sum -c CHECKSUMS")
        # Either tool passes over the lines of the other; one of them must find its own.
        said = []
        for tool in ("sha256sum", "md5sum"):
            argv = [tool, "--check", "CHECKSUMS"]
            said.append(self._run(argv, cwd=self.app, allowed=(0, 1)).strip())
        good = [line for text in said for line in text.splitlines() if line.endswith(": OK")]
        if not good or any("FAILED" in text for text in said):
            raise StepError("CHECKSUMS do not verify", said=" / ".join(said))
        _result(self.console, ", ".join(good))

    def _raw_disk(self) -> None:
        published = self.app / f"{self.app.name}.qcow2"
        disk = self.mountpoint / "raw" / published.relative_to(self.mountpoint).with_suffix(".raw")
        argv = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(published), str(disk)]
        self._step("The disk inside the image, as a plain raw disk", argv)
        packed, plain = published.stat().st_size, disk.stat().st_size
        _result(
            self.console,
            f"{format_size(packed)} as published, {format_size(plain)} as a disk, the same bytes",
        )

    def _middle(self) -> None:
        name = "Big Sparse Disk"
        disk = self.app.parent / name / f"{name}.raw"
        size = disk.stat().st_size  # opens its directory: what that asks for is not the read's
        before, started = self.servers.bytes_sent(), time.monotonic()
        piece, block = self.scratch / "piece", 2 * GIB // MIB
        argv = ["dd", f"if={disk}", f"of={piece}", "bs=1M", "count=1", f"skip={block}"]
        self._step(f"Reading 1 MiB out of the middle of {format_size(size)}", argv)
        took, fetched = time.monotonic() - started, self.servers.bytes_sent() - before
        with self.cloud.published["/public/big.raw"].open("rb") as original:
            original.seek(2 * GIB)
            if original.read(MIB) != piece.read_bytes():
                raise StepError("the bytes differ from what was published")
        _result(self.console, f"1 MiB read, {format_size(fetched)} fetched, {took:.2f} s")
        if fetched > _MOST_FETCHED:
            raise StepError("too much was fetched", fetched=fetched, most=_MOST_FETCHED)

    def _status(self) -> None:
        argv = [*self.command, "status", str(self.mountpoint), *self._run_dir]
        _say(self.console, "How it is doing", _shown(argv))
        text = self._run(argv, allowed=(0, _DEGRADED))
        for line in text.rstrip().splitlines():
            _result(self.console, line)
        if any(word in text for word in ("dead", "silent")):  # these exit with 4 as well
            raise StepError("the daemon does not answer")

    def _step(self, what: str, argv: list[str]) -> None:
        _say(self.console, what, _shown(argv))
        self._run(argv)

    def _run(
        self, argv: list[str], *, cwd: Path | None = None, allowed: Sequence[int] = (0,)
    ) -> str:
        """Run a tool to its end; return all it printed."""
        try:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_STEP_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise StepError(f"{_shown(argv)}: no end after {exc.timeout:.0f} s") from exc
        except OSError as exc:
            raise StepError(f"{_shown(argv)}: {exc.strerror}") from exc
        if done.returncode not in allowed:
            said = " / ".join(done.stdout.strip().splitlines()[-3:]) or "nothing"
            raise StepError(f"{_shown(argv)}: exit code {done.returncode}, said: {said}")
        return done.stdout


def _shown(argv: Sequence[str]) -> str:
    """Write a command line as a person would type it."""
    words = list(argv)
    if tuple(words[:3]) == COMMAND:
        words[:3] = ["nebfs"]
    return shlex.join(words)


def _is_mounted(place: Path) -> bool:
    """Look into the kernel's table: it answers even where the mount itself hangs or is dead."""
    wanted = str(place.resolve().parent / place.name)
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        if line.split(" ")[4].replace("\\040", " ") == wanted:
            return True
    return False


def _tree(directory: Path, depth: int, indent: str = "") -> Iterator[str]:
    """Yield one line per entry, to a depth, with sizes; what cannot be listed says why."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as exc:
        yield f"{indent}({exc.strerror})"
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield f"{indent}{entry.name}/"
            if depth > 1:
                yield from _tree(Path(entry.path), depth - 1, indent + "  ")
        else:
            size = format_size(entry.stat(follow_symlinks=False).st_size)
            yield f"{indent}{entry.name}  {size}"
