"""`dprune completion`."""

from __future__ import annotations

import click

from dprune import console
from dprune.shell.completion import SHELLS, script
from dprune.shell.help_pages import GroupedCommand


@click.command(cls=GroupedCommand)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes dprune in bash, zsh or fish.

    SHELL is bash, zsh or fish. Commands, options, choices and paths are completed. The shell runs the script when it
    starts, which takes no time: dprune itself runs only when something is completed. The dprune that is first on the
    PATH at that moment does it.

    \b
    Examples:
      dprune completion bash >> ~/.bashrc
      dprune completion zsh >> ~/.zshrc
      dprune completion fish > ~/.config/fish/completions/dprune.fish
    """
    console.emit(script(shell, ctx.find_root().command).rstrip("\n"))
