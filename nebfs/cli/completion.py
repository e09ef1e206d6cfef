"""``nebfs completion``: words that the shell completes after the Tab key. Made by click."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nebfs.errors import UserError

VARIABLE = "_NEBFS_COMPLETE"
"""What click looks at to know that a shell asks; from the name of the program."""
SHELLS = ("bash", "fish", "zsh")
HELP = """Write what makes SHELL complete the words of nebfs.

\b
For this shell alone:
  eval "$(nebfs completion bash)"
  nebfs completion fish | source

\b
For every shell of this user (the directories must be there):
  nebfs completion bash >~/.local/share/bash-completion/completions/nebfs
  nebfs completion zsh >~/.zfunc/_nebfs     (with fpath+=~/.zfunc before compinit)
  nebfs completion fish >~/.config/fish/completions/nebfs.fish
"""


@click.command(help=HELP)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """See HELP: in a docstring ruff would have its marks written otherwise."""
    kind = get_completion_class(shell)
    if kind is None:
        raise UserError(f"the library click knows nothing of {shell}: update it")
    # Not by its own function: it starts a bash to look at its version, which fails where there is
    # none, as in a build of a package.
    made = kind(ctx.find_root().command, {}, "nebfs", VARIABLE)
    click.echo(made.source_template % made.source_vars())
