"""Man pages of the commands, made from what the commands say of themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

import nebfs
from nebfs.cli.main import nebfs_command
from nebfs.cli.mount_helper import mount_helper
from scripts.packaging import roff
from scripts.packaging.settings_page import settings_page

FILES = (
    ("/etc/nebfs/NAME.toml", "Settings of one mount: nebfs.toml(5)."),
    ("~/.one/one_auth, ~/.one/one_endpoint", "Who logs in where, as for OpenNebula's own tools."),
    ("/var/cache/nebfs, ~/.cache/nebfs", "Fetched blocks, of root's mounts and of others'."),
    ("/run/nebfs, $XDG_RUNTIME_DIR/nebfs", "Control sockets and logs of running mounts."),
    ("/usr/share/doc/nebfs/", "What is too long for a man page."),
)


def pages(date: str) -> dict[str, str]:
    """Return every page by the name of its file: nebfs.1, nebfs-mount.1, mount.nebfs.8..."""
    made = {"nebfs.1": _page(nebfs_command, "nebfs", 1, date)}
    for name, command in nebfs_command.commands.items():
        if not command.hidden:
            made[f"nebfs-{name}.1"] = _page(command, f"nebfs {name}", 1, date)
    made["mount.nebfs.8"] = _page(mount_helper, "mount.nebfs", 8, date)
    made["nebfs.toml.5"] = settings_page(date)
    return made


def _page(command: click.Command, path: str, number: int, date: str) -> str:
    with _context(command, path) as context:
        summary = _help(command).strip().split("\n\n")[0]
        parts = [
            roff.head(path.replace(" ", "-"), number, nebfs.__version__, date),
            roff.section("Name", _name_line(path.replace(" ", "-"), summary)),
            roff.section("Synopsis", _usage(command, context, path)),
            roff.section("Description", roff.paragraphs(_help(command))),
            roff.section("Options", "".join(_options(command, context))),
        ]
        if isinstance(command, click.Group):
            parts.append(roff.section("Commands", "".join(_commands(command, context, path))))
        if command.epilog:
            parts.append(roff.section("Notes", roff.paragraphs(inspect.cleandoc(command.epilog))))
    if command is nebfs_command:
        parts.append(roff.section("Files", "".join(roff.entry(a, roff.text(b)) for a, b in FILES)))
    parts.append(roff.section("See also", f"{roff.text(_others(command))}\n"))
    return "".join(parts)


def _context(
    command: click.Command, name: str, parent: click.Context | None = None
) -> click.Context:
    return click.Context(command, parent, info_name=name, **command.context_settings)


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _name_line(name: str, summary: str) -> str:
    words = " ".join(summary.split()).removesuffix(".")
    return f"{roff.text(name)} \\- {roff.text(words[:1].lower() + words[1:])}\n"


def _usage(command: click.Command, context: click.Context, path: str) -> str:
    words = " ".join(command.collect_usage_pieces(context))
    return f"\\fB{roff.text(path)}\\fR {roff.text(words)}\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        # What is hidden from --help has no record; an argument is in the line of usage.
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
            yield roff.entry(record[0], roff.text(record[1]))


def _commands(group: click.Group, context: click.Context, path: str) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.commands[name]
        if command.hidden:
            continue
        if group is nebfs_command:  # has a page of its own
            summary = " ".join(_help(command).strip().split("\n\n")[0].split())
            yield roff.entry(f"nebfs-{name}(1)", roff.text(summary))
            continue
        with _context(command, name, context) as own:
            yield roff.subsection(f"{path} {name}", "")
            yield _usage(command, own, f"{path} {name}")
            yield roff.paragraphs(_help(command))
            yield "".join(_options(command, own))


def _others(command: click.Command) -> str:
    if command is nebfs_command:
        return "nebfs.toml(5), mount.nebfs(8), fstab(5), fusermount3(1)"
    if command is mount_helper:
        return "nebfs-mount(1), nebfs.toml(5), mount(8), fstab(5)"
    return "nebfs(1), nebfs.toml(5)"
