"""What is shipped and how it is installed: pyproject.toml, the scripts, what CI runs."""

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

import nebfs

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [ROOT / "scripts" / name for name in ("install-needs", "demo", "test", "check")]


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_one_version(project):
    assert project["version"] == nebfs.__version__


def test_the_command_is_the_cli(project):
    assert project["scripts"] == {
        "nebfs": "nebfs.cli.main:main",
        "mount.nebfs": "nebfs.cli.mount_helper:main",
    }
    for entry in importlib.metadata.entry_points(group="console_scripts", name="nebfs"):
        assert entry.value == "nebfs.cli.main:main"


def test_what_is_read_by_the_build_is_there(project):
    assert (ROOT / project["readme"]).is_file()
    for name in project["license-files"]:
        assert (ROOT / name).is_file()
    assert (ROOT / "nebfs" / "py.typed").is_file()


def test_every_imported_package_is_declared(project):
    extras = project["optional-dependencies"]
    groups = [project["dependencies"], *(extras[name] for name in extras if name != "dev")]
    declared = {re.split(r"[^a-z0-9-]", line.lower())[0] for group in groups for line in group}
    imported = set()
    for file in (ROOT / "nebfs").rglob("*.py"):
        for name in re.findall(r"^ *(?:import|from) +(\w+)", file.read_text(), re.MULTILINE):
            imported.add(name)
    foreign = imported - set(os.sys.stdlib_module_names) - {"nebfs", "__future__"}
    known = importlib.metadata.packages_distributions()
    missing = {
        name
        for name in foreign & set(known)
        if not {d.lower().replace("_", "-") for d in known[name]} & declared
    }
    # Parts of the interface of pydantic and aiohttp, which bring the version that they want.
    assert missing - {"pydantic_core"} == set()


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_are_executable_and_stop_at_the_first_error(script):
    text = script.read_text()
    assert script.stat().st_mode & stat.S_IXUSR
    assert text.startswith(("#!/bin/sh\n", "#!/bin/bash\n"))
    assert "\nset -eu\n" in text
    subprocess.run([text.splitlines()[0][2:], "-n", script], check=True)


def test_ci_runs_the_checks_and_the_readmes_test_command():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-2:] == ["scripts/check", "scripts/test"]
    assert "scripts/test" in (ROOT / "README.md").read_text()


# --- scripts/install-needs on a machine made of a few links ---

TOOLS = (
    *("cat", "chmod", "cksum", "dirname", "env", "id", "mkdir", "rm", "sh", "tee", "touch"),
    *("fusermount3", "gcc", "mke2fs", "pkg-config", "qemu-img", "rsync", "xorriso"),
)


@pytest.fixture
def machine(tmp_path):
    """A checkout with a finished .venv, and a PATH that holds nothing but what is put into it."""
    root, tools = tmp_path / "a checkout", tmp_path / "bin"
    (root / "scripts").mkdir(parents=True)
    tools.mkdir()
    # The one change: no other directory is looked in than ours.
    script = (ROOT / "scripts" / "install-needs").read_text()
    head = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin\n"
    assert head in script
    script = script.replace(head, "").replace("/usr/bin/python3", "python3")
    script = script.replace("/usr/sbin/policy-rc.d", f"{tmp_path}/policy-rc.d")
    (root / "scripts" / "install-needs").write_text(script)
    (root / "pyproject.toml").write_text("[project]\n")
    for name in TOOLS:
        put(tools / name, f'exec {shutil.which(name)} "$@"' if shutil.which(name) else "")
    put(tools / "pkg-config", "")
    put(tools / "python3", PYTHON)
    return root, tools


PYTHON = """\
case "$*" in
    -) exit 0 ;;
    --version) echo Python 3.11.99 ;;
    "-m venv --clear "*)
        mkdir -p "$4/bin"; cat "$0" >"$4/bin/python"; chmod 755 "$4/bin/python"; echo venv >>"$4/said" ;;
    "-m pip install "*) d=$(dirname "$0"); echo pip >>"$d/../said"; touch "$d/nebfs"; chmod 755 "$d/nebfs" ;;
esac
"""  # noqa: E501


def put(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def install(machine, *words):
    root, tools = machine
    return subprocess.run(
        ["/bin/sh", root / "scripts" / "install-needs", *words],
        env={"PATH": str(tools), "HOME": "/nowhere"},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def said(machine):
    return (machine[0] / ".venv" / "said").read_text().split()


def test_the_second_time_nothing_is_done(machine):
    assert install(machine).returncode == 0
    assert said(machine) == ["venv", "pip"]
    again = install(machine)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert said(machine) == ["venv", "pip"]


def test_other_dependencies_are_installed_into_the_same_venv(machine):
    install(machine)
    (machine[0] / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert install(machine).returncode == 0
    assert said(machine) == ["venv", "pip", "pip"]


def test_a_broken_venv_is_made_anew(machine):
    install(machine)
    put(machine[0] / ".venv" / "bin" / "python", "exit 1")
    assert install(machine).returncode == 0
    assert said(machine) == ["venv", "pip", "venv", "pip"]


def test_a_failed_installation_is_tried_again(machine):
    put(machine[1] / "python3", PYTHON.replace('echo pip >>"$d/../said"', "exit 1"))
    assert install(machine).returncode == 1
    put(machine[1] / "python3", PYTHON)
    put(machine[0] / ".venv" / "bin" / "python", PYTHON)
    assert install(machine).returncode == 0


APT = """\
echo "$*" >>{log}
[ -e {policy} ] && echo "policy $({policy}; echo $?)" >>{log}
case "$*" in *install*) for name in {commands}; do
    printf '#!/bin/sh\\n' >{tools}/$name; chmod 755 {tools}/$name; done ;; esac
"""
PACKAGES = (
    "xorriso squashfs-tools nginx-light docker-registry radosgw ceph-mon ceph-osd ceph-common"
    " tinyproxy-bin openssh-server restic fio lvm2 gzip bzip2 xz-utils zstd tgt qemu-system-common"
    " qemu-system-x86 libvirt-daemon libvirt-clients lxc systemd-container systemd busybox-static"
    " libnbd-bin chromium-headless-shell"
)
COMMANDS = (
    "xorriso mksquashfs nginx docker-registry radosgw ceph-mon ceph-osd ceph-authtool"
    " tinyproxy sshd restic fio lvs gzip bzip2 xz pzstd tgtd qemu-storage-daemon"
    " qemu-system-x86_64 libvirtd virsh lxc-execute systemd-nspawn systemd-analyze busybox nbdcopy"
    " chromium-headless-shell"
)


@pytest.mark.skipif(os.geteuid() != 0, reason="what root does")
def test_only_what_is_missing_is_installed_and_no_service_is_started(machine, tmp_path):
    root, tools = machine
    (tools / "xorriso").unlink()
    (root / ".venv/guest-kernel").mkdir(parents=True)
    (root / ".venv/guest-kernel/.fetched").touch()
    for name in ("getfattr", "curl", "ps", "losetup"):
        put(tools / name, "")
    log, policy = tmp_path / "log", tmp_path / "policy-rc.d"
    put(tools / "apt-get", APT.format(log=log, policy=policy, tools=tools, commands=COMMANDS))
    put(tools / "systemctl", f'echo "systemctl $*" >>{log}')
    done = install(machine, "--tests")
    assert done.returncode == 0, done.stderr
    update, policy_then, installed, _, *disabled = log.read_text().splitlines()
    assert update.endswith("update")
    assert policy_then == "policy 101"
    assert installed.endswith(f"install --no-install-recommends -y {PACKAGES}")
    assert [line.split()[-1] for line in disabled] == [
        "nginx.service",
        "docker-registry.service",
        "ssh.service",
        "lvm2-monitor.service",
        "blk-availability.service",
        "lvm2-lvmpolld.socket",
        "dm-event.socket",
        "tgt.service",
        "lxc.service",
        "lxc-net.service",
        "lxc-monitord.service",
    ]
    assert not policy.exists()
    log.unlink()
    assert install(machine, "--tests").returncode == 0
    assert not log.exists()


UNPACK = """\
mkdir -p boot lib/modules/6/drivers
touch boot/vmlinuz-6 boot/config-6 lib/modules/6/drivers/virtio.ko lib/modules/6/drivers/other.ko
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="what root does")
def test_the_guests_kernel_is_fetched_once_and_not_installed(machine, tmp_path):
    root, tools = machine
    for name in (*COMMANDS.split(), "xorriso", "getfattr", "curl", "ps", "losetup"):
        put(tools / name, "")
    for name in ("find", "sed"):
        put(tools / name, f'exec {shutil.which(name)} "$@"')
    log = tmp_path / "log"
    put(tools / "apt-get", f'echo "$*" >>{log}; : >kernel.deb')
    put(tools / "apt-cache", 'echo "$3"; echo "  Depends: linux-image-6.1.0-56-cloud-amd64"')
    put(tools / "dpkg-deb", UNPACK)
    done = install(machine, "--tests")
    assert done.returncode == 0, done.stderr
    assert log.read_text() == "-qq download linux-image-6.1.0-56-cloud-amd64\n"
    kernel = root / ".venv/guest-kernel"
    kept = sorted(path.name for path in kernel.rglob("*") if path.is_file())
    assert kept == [".fetched", "virtio.ko", "vmlinuz-6"]
    assert install(machine, "--tests").returncode == 0
    assert len(log.read_text().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="what root does")
def test_an_administrators_policy_is_left_alone(machine, tmp_path):
    put(tmp_path / "policy-rc.d", "exit 0")
    put(machine[1] / "apt-get", "exit 100")
    done = install(machine, "--tests")
    assert done.returncode == 1
    assert "apt-get failed" in done.stderr
    assert (tmp_path / "policy-rc.d").read_text() == "#!/bin/sh\nexit 0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="what root does")
def test_our_policy_is_removed_when_the_installation_fails(machine, tmp_path):
    put(machine[1] / "apt-get", "exit 100")
    assert install(machine, "--tests").returncode == 1
    assert not (tmp_path / "policy-rc.d").exists()


def test_without_root_the_exact_command_is_told(machine):
    (machine[1] / "xorriso").unlink()
    put(machine[1] / "apt-get", "exit 1")
    put(machine[1] / "id", "echo 1000")
    done = install(machine)
    assert done.returncode == 1
    assert "apt-get install --no-install-recommends -y xorriso" in done.stderr


def test_without_apt_the_names_are_told(machine):
    (machine[1] / "rsync").unlink()
    done = install(machine)
    assert done.returncode == 1
    assert "no apt-get" in done.stderr
    assert "rsync" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="what root does")
def test_an_old_python_is_told(machine):
    put(machine[1] / "python3", 'case "$*" in -) exit 1 ;; *) echo Python 3.9.2 ;; esac')
    put(machine[1] / "apt-get", "")
    done = install(machine)
    assert done.returncode == 1
    assert "this system has Python 3.9.2" in done.stderr


def test_unknown_words_are_usage(machine):
    assert install(machine, "--help-me").returncode == 2
