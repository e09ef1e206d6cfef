"""``mount.nebfs``: what mount(8) starts for a mount, or a line of /etc/fstab, of the type nebfs.

mount(8) calls ``/sbin/mount.nebfs SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`` and
answers with our exit code, in its own numbers: 1 usage, 4 our own mistake, 8 interrupted, 32 the
mount failed. It always names ``rw`` or ``ro``, whether or not anybody wrote it, and keeps some
options to itself (nofail, x-systemd...). systemd starts it with hardly any environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

import nebfs
from nebfs.cli import exits
from nebfs.cli.door import explain, say
from nebfs.cli.main import nebfs_command
from nebfs.cli.mounts import SYSTEM_PATH
from nebfs.cli.options import parse_options, split_options, typed
from nebfs.config import load
from nebfs.errors import UserError
from nebfs.model import without_credentials

TYPES = frozenset({"nebfs", "fuse.nebfs"})
"""What mount(8) may call us for; the second is what the mount table says."""
USAGE, INTERNAL, INTERRUPTED, FAILED = 1, 4, 8, 32
"""Of mount(8), see its section about exit status."""
IN_ITS_NUMBERS = {
    exits.OK: exits.OK,
    exits.USAGE: USAGE,
    exits.INTERNAL: INTERNAL,
    exits.INTERRUPTED: INTERRUPTED,
}
"""Our exit codes in mount(8)'s numbers; what is not here is FAILED."""

FSTAB = """\b
In /etc/fstab (a SOURCE of 'nebfs' is the one that the settings name):
nebfs  /mnt/one  nebfs  ro,_netdev,nofail,config=/etc/nebfs/one.toml,allow_other  0 0
"""


@click.command(
    name="mount.nebfs",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=FSTAB,
)
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "texts", metavar="OPTIONS", multiple=True, help="Settings, and mount options.")
@click.option("-t", "kind", metavar="TYPE", default="nebfs", help="nebfs, or nothing.")
@click.option("-f", "fake", is_flag=True, help="Look at the options and settings; do not mount.")
@click.option("-s", "sloppy", is_flag=True, help="Leave out options that are not known.")
@click.option("-n", "no_table", is_flag=True, help="Nothing: there is no /etc/mtab to be kept.")
@click.option("-v", "verbose", is_flag=True, help="Say more.")
@click.option("-N", "namespace", metavar="NAMESPACE", help="Refused: use nsenter(1).")
@click.version_option(nebfs.__version__, "-V", "--version", prog_name="mount.nebfs")
def mount_helper(
    source: str,
    mountpoint: str,
    texts: tuple[str, ...],
    kind: str,
    fake: bool,
    sloppy: bool,
    no_table: bool,  # noqa: ARG001 - mount(8) hands it on
    verbose: bool,
    namespace: str | None,
) -> None:
    """Mount SOURCE at MOUNTPOINT as 'nebfs mount' does, when mount(8) asks for it."""
    if kind not in TYPES:
        raise UserError(f"the type {kind} is not ours, which is nebfs", exit_code=exits.USAGE)
    if namespace is not None:
        raise UserError(
            "-N: nebfs mounts in the namespace that it is started in: use 'nsenter --mount=FILE'",
            exit_code=exits.USAGE,
        )
    options = translated(texts, source, sloppy=sloppy)
    if fake:
        load(None, typed(options, {}, source))
        return
    words = ["mount", *(["-v"] if verbose else []), *(f"-o{one}" for one in options)]
    nebfs_command.main([*words, "--", source, mountpoint], prog_name="nebfs")


def translated(texts: Iterable[str], source: str, *, sloppy: bool = False) -> list[str]:
    """Return mount(8)'s options as ours, each escaped for ``-o``. Raises UserError.

    What is mounted is named in the mount table as it is in /etc/fstab: by that mount(8) -a and
    systemd know that the line is mounted already.
    """
    options = [f"fsname={without_credentials(source)}"]
    for item in split_options(texts):
        match item.partition("=")[0].strip():
            case "remount":
                raise UserError(
                    "a mounted nebfs is not changed by a remount: unmount it, and mount it again; "
                    "new lists and credentials are had by SIGHUP to its daemon",
                    exit_code=exits.MOUNT,
                )
            case "rw":  # mount(8)'s own default, which nobody wrote
                continue
        if sloppy:
            try:
                parse_options([_escaped(item)])
            except UserError as exc:
                say(f"{exc}; left out, as -s demands")
                continue
        options.append(item)
    return [_escaped(one) for one in options]


def _escaped(item: str) -> str:
    return item.replace("\\", "\\\\").replace(",", "\\,")


def main() -> None:
    """Run as mount(8) wants it: never returns, ends with one of its exit codes."""
    if not os.environ.get("PATH"):
        os.environ["PATH"] = SYSTEM_PATH
    try:
        mount_helper.main(prog_name="mount.nebfs", standalone_mode=False)
        code = exits.OK
    except click.ClickException as exc:
        exc.show()
        code = exc.exit_code
    except click.Abort:
        code = exits.INTERRUPTED
    except SystemExit as exc:  # what `nebfs mount` ended with
        code = exc.code if isinstance(exc.code, int) else exits.FAILURE
    except Exception as exc:  # noqa: BLE001 - told here, and nowhere above
        message, code = explain(exc, exits.MOUNT)
        say(message)
    sys.exit(IN_ITS_NUMBERS.get(code, FAILED))


if __name__ == "__main__":
    main()
