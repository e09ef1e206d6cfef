"""A real libvirtd of our own, for the whole system, with directories that nobody else sees.

It runs as root and starts QEMU as another user, as on a host of OpenNebula: what it does to the
owner of an image before a guest starts, and after, is what this is about. It lives in a mount
namespace in which libvirt's directories are ours.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

from tests.hypervisors.guest import Guest
from tests.hypervisors.machine import cmdline, told

START = 60.0
BOOT = 120.0
USER = 64055
"""The number that Debian keeps for the user libvirt-qemu, as whom QEMU runs. He is made in our
namespace only, and not on this machine.
"""
ACCOUNTS = {
    "/etc/passwd": f"libvirt-qemu:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin\n",
    "/etc/group": f"libvirt-qemu:x:{USER}:\n",
}

OURS = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
    "run": "/run/libvirt",
}

# Debian's libvirtd asks polkit who may use its socket, which no test machine runs. QEMU's output
# goes to a file, else virtlogd would have to run, too. Controllers of cgroups are the machine's;
# and a guest gets no /dev of its own, which libvirt cannot make from one with our /dev/kvm in it.
DAEMON_CONF = 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n'
QEMU_CONF = """\
user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = {dynamic}
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
"""

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{append}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='{form}' cache='none' io='native' rerror_policy='stop'/>
      <source file={source}/>
      <target dev='vda' bus='virtio'/>
      {more}
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='{console}'/></serial>
  </devices>
</domain>
"""


class Libvirt:
    """The daemon's directories in `home`, which every user may enter."""

    def __init__(self, home: Path, guest: Guest, *, dynamic: bool) -> None:
        self.home = home
        self._socket = home / "run/libvirt-sock"
        for name in OURS:
            (home / name).mkdir()
        self.disks = home / "disks"
        self.disks.mkdir()
        os.chown(self.disks, USER, USER)
        (home / "etc/libvirtd.conf").write_text(DAEMON_CONF)
        (home / "etc/qemu.conf").write_text(QEMU_CONF.format(dynamic=int(dynamic)))
        # Guests run without KVM. Were there a /dev/kvm that QEMU's user may not open, libvirt would
        # find out anew what QEMU can do, over and over, for most of a minute.
        (home / "kvm").touch(0)
        for path, line in ACCOUNTS.items():
            ours = home / Path(path).name
            ours.write_text(Path(path).read_text().rstrip("\n") + "\n" + line)
            ours.chmod(0o644)
        # What QEMU's user cannot reach where it is.
        self._kernel, self._initrd = home / "kernel", home / "initrd"
        self._kernel.write_bytes(guest.kernel.read_bytes())
        self._initrd.write_bytes(guest.initrd.read_bytes())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        ours = {**OURS, **{Path(path).name: path for path in ACCOUNTS}}
        if os.path.exists("/dev/kvm"):
            ours["kvm"] = "/dev/kvm"
        mounts = [f"mount --bind '{self.home}/{name}' {path}" for name, path in ours.items()]
        script = " && ".join([*mounts, f"exec libvirtd --pid-file '{self.home}/pid'"])
        # The directories that libvirt's packages would have made; in ours they are hidden.
        made = [path for path in OURS.values() if not os.path.isdir(path)]
        for path in made:
            os.makedirs(path)
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        with (self.home / "said").open("wb") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        try:
            end = time.monotonic() + START
            while self.virsh("uri", check=False).returncode:
                assert process.poll() is None, self.said
                assert time.monotonic() < end, self.said
                time.sleep(0.05)
            yield
        finally:
            for name in self.virsh("list", "--name", check=False).stdout.split():
                self.virsh("destroy", name, check=False)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)
            for path in made:
                with contextlib.suppress(OSError):
                    os.rmdir(path)

    @property
    def said(self) -> str:
        return (self.home / "said").read_text(errors="replace")

    def virsh(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        where = f"qemu+unix:///system?socket={self._socket}"
        done = subprocess.run(
            ["virsh", "-c", where, *words], capture_output=True, text=True, timeout=BOOT
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}\n{self.said}"
        return done

    def create(self, name: str, source: Path, form: str, more: str = "", append: str = "") -> None:
        """Start a guest; AssertionError with libvirt's words when it does not."""
        xml = DOMAIN.format(
            name=name,
            kernel=self._kernel,
            initrd=self._initrd,
            append=cmdline(append),
            emulator="/usr/bin/qemu-system-x86_64",
            form=form,
            source=quoteattr(str(source)),
            more=more,
            console=self.disks / f"{name}.console",
        )
        (self.home / f"{name}.xml").write_text(xml)
        self.virsh("create", self.home / f"{name}.xml")

    def wait(self, name: str) -> dict[str, str]:
        """Wait for the guest's end; return what it said."""
        end = time.monotonic() + BOOT
        while name in self.virsh("list", "--name").stdout.split():
            assert time.monotonic() < end, self.said
            time.sleep(0.1)
        return told((self.disks / f"{name}.console").read_text(errors="replace"))
