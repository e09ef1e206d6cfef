"""Try the Debian package on a fresh Debian: put it in, mount by /etc/fstab, read, put a newer one
in while a file is open, take it out.

All of it happens in a mount and a process namespace of its own: when that ends, however it ends,
so does every mount and every process in it. The cloud's servers run outside the chroot, of this
checkout, so that nothing is in the chroot that the package did not bring.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nebfs.demo import demonstration_cloud, serve
from nebfs.demo.demonstration import PASSWORD
from scripts.packaging import lintian
from scripts.packaging.listing import appeared, listing
from scripts.packaging.newer import newer

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
IMAGE = "/mnt/one/marketplaces/OpenNebula Public/Alpine Linux 3.20/Alpine Linux 3.20.qcow2"
NEWER = "newer.deb"
FSTAB = "nebfs /mnt/one nebfs ro,_netdev,nofail,config=/etc/nebfs/demo.toml 0 0\n"
APT = ("apt-get", "-qq", "--no-install-recommends", "-y")


def in_namespaces(package: Path) -> int:
    """Run the check of `package`; returns an exit code. Raises OSError where a tool is missing."""
    # The shell is the first process, to bury daemons: one that is dead and unburied seems to live.
    return subprocess.run(
        [
            *(
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                '"$@"; exit $?',
            ),
            *("sh", sys.executable, "-m", "scripts.packaging.check", str(package)),
        ],
        check=False,
    ).returncode


def check(package: Path) -> None:
    """Do it, and print what was seen. Raises CalledProcessError, or SystemExit with a message."""
    lintian.ask(package)
    with tempfile.TemporaryDirectory(prefix="nebfs-check-", ignore_cleanup_errors=True) as scratch:
        root, images = Path(scratch) / "root", Path(scratch) / "images"
        run("debootstrap", "--variant=minbase", SUITE, str(root), MIRROR)
        try:
            prepare(root)
            shutil.copy(package, root / package.name)
            newer(package, root / NEWER)
            with serve(demonstration_cloud(images)) as servers:
                inside(root, package.name, servers.frontend_url)
        finally:
            # The images must not be removed through it, nor /proc be walked.
            run("umount", "--recursive", "--lazy", str(root))


def prepare(root: Path) -> None:
    """Make a machine of the fresh directory tree: devices, names, no service starts."""
    run("mount", "--bind", str(root), str(root))
    run("mount", "-t", "proc", "proc", str(root / "proc"))
    if not (root / "dev/fuse").exists():
        run("mknod", "-m", "666", str(root / "dev/fuse"), "c", "10", "229")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)


def inside(root: Path, package: str, url: str) -> None:
    """From apt-get install to purge."""
    before = listing(root)
    started = time.monotonic()
    chroot(root, *APT, "update")
    chroot(root, *APT, "install", f"/{package}")
    print(chroot(root, "nebfs", "--version").decode().strip())
    settings(root, url)
    chroot(root, "mount", "-a")
    first = chroot(root, "head", "-c", "1048576", IMAGE)
    seconds = time.monotonic() - started
    if not first.startswith(b"QFI\xfb"):
        sys.exit(f"{IMAGE} does not begin as a qcow2 image")
    print(f"{seconds:.1f} s from a fresh Debian to the first MiB of an image", flush=True)
    upgrade(root)
    chroot(root, "umount", "/mnt/one")
    wait_for_end(root)
    chroot(root, "mount", "-a")
    chroot(root, "umount", "/mnt/one")
    wait_for_end(root)
    chroot(root, *APT, "purge", "nebfs")
    chroot(root, *APT, "autoremove", "--purge")
    for name in ("etc/nebfs/demo.toml", "etc/nebfs/demo.auth"):
        (root / name).unlink()
    (root / "etc/nebfs").rmdir()
    (root / "mnt/one").rmdir()
    if left := appeared(before, listing(root)):
        sys.exit("\n".join(("left over after the purge:", *left)))
    print("nothing is left over after the purge")


def upgrade(root: Path) -> None:
    """Put the newer package in while the mount is in use: what is open is read to its end."""
    before = chroot(root, "nebfs", "--version")
    with (root / IMAGE.removeprefix("/")).open("rb") as image:
        chroot(root, *APT, "install", f"/{NEWER}")
        size = len(image.read())
    if size != (root / IMAGE.removeprefix("/")).stat().st_size:
        sys.exit(f"{IMAGE} ends after {size} bytes")
    # 4: one of the demonstration's places is in trouble, as it has to be.
    told = chroot(root, "sh", "-c", "nebfs status || test $? = 4")
    if b"/mnt/one" not in told or chroot(root, "nebfs", "--version") != before:
        sys.exit("the newer package does not know the mount of the older one")
    if said := chroot(root, "dpkg", "--verify", "nebfs").decode().strip():
        sys.exit(f"what was put in is not what is in the package:\n{said}")
    print("a newer package was put in while an image was open", flush=True)


def settings(root: Path, url: str) -> None:
    """Write what an administrator writes."""
    (root / "mnt/one").mkdir()
    secret = root / "etc/nebfs/demo.auth"
    secret.touch(mode=0o600)
    secret.write_text(f"oneadmin:{PASSWORD}\n")
    (root / "etc/nebfs/demo.toml").write_text(
        f'source = "{url}"\nauth_file = "/etc/nebfs/demo.auth"\n'
    )
    (root / "etc/fstab").write_text(FSTAB)


def wait_for_end(root: Path) -> None:
    """Wait until no process has the chroot as its root; umount(8) does not wait for the daemon."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(lives_in(process, root) for process in Path("/proc").glob("[0-9]*")):
            return
        time.sleep(0.1)
    sys.exit("the daemon did not end within a minute after umount")


def lives_in(process: Path, root: Path) -> bool:
    """Tell whether a process, by its directory in /proc, has `root` as its root."""
    try:
        return os.readlink(process / "root") == str(root)
    except OSError:
        return False


def chroot(root: Path, *words: str) -> bytes:
    """Run a command in the chroot and return what it prints."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    command = ["chroot", str(root), *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return done.stdout


def run(*words: str) -> None:
    """Run a command of this machine; its output is on stderr."""
    subprocess.run(words, stdout=sys.stderr, check=True)


if __name__ == "__main__":
    check(Path(sys.argv[1]))
