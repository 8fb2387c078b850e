"""`dprune help`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dprune import console, options
from dprune.shell.help_pages import GroupedCommand, help_page

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def found(root: click.Context, names: tuple[str, ...]) -> click.Context:
    """Return the context of a command that is named word by word, as far as words name something.

    Raises:
        click.UsageError: a word names nothing.
    """
    for name in names:
        group = root.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"{root.command_path} has no command {name!r}: leave it out.", root)
        _, child, _ = group.resolve_command(root, [name])
        if child is None:
            raise click.exceptions.NoSuchCommand(name, ctx=root)
        root = child.context_class(child, root, name, **child.context_settings)
    return root


def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the next word."""
    try:
        at = found(ctx.find_root(), ctx.params.get("names") or ())
    except click.UsageError:
        return []
    return at.command.shell_complete(at, incomplete) if isinstance(at.command, click.Group) else []


@click.command(cls=GroupedCommand)
@click.argument("names", nargs=-1, metavar="[COMMAND]...", shell_complete=complete)
@options.option(
    "--all", "whole", group="Output", common=True, is_flag=True, help="Show all options, as --help-all does."
)
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], whole: bool) -> None:
    """Show the help of a command.

    COMMAND is a subcommand, followed by a method where it has methods. Without one, the help of dprune itself is shown.

    \b
    Examples:
      dprune help select
      dprune help score moso --all
    """
    console.emit(help_page(found(ctx.find_root(), names), whole=whole), styled=True)
