"""-v, -q and --json, which mean before a subcommand what they mean behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from dprune import console
from dprune.shell.help_pages import GroupedGroup, option

_JSON = "dprune.json"


def _set_verbosity(ctx: click.Context, param: click.Parameter, value: int) -> int:
    # Subcommands share this with the commands that they belong to, whose flags count as well.
    ctx.meta[param.name or ""] = ctx.meta.get(param.name or "", 0) + value
    console.set_verbosity(-1 if ctx.meta.get("quiet") else ctx.meta.get("verbose", 0))
    return value


def _hand_on(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    ctx.meta[_JSON] = ctx.meta.get(_JSON, False) or value
    return value


verbosity = (
    option("-v", "--verbose", group="Running", count=True, expose_value=False, callback=_set_verbosity, is_eager=True,
           help="Say more. -vv adds a traceback to errors."),
    option("-q", "--quiet", group="Running", is_flag=True, expose_value=False, callback=_set_verbosity, is_eager=True,
           help="Say nothing but errors."),
)  # fmt: skip
_json = option("--json", "json_", group="Output", is_flag=True, expose_value=False, callback=_hand_on,
               help="Print the result of the subcommand as JSON.")  # fmt: skip


def before_subcommands(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command that has subcommands, whose class is a `FlaggedGroup`."""
    for flag in (_json, *reversed(verbosity)):
        function = flag(function)
    return function


class FlaggedGroup(GroupedGroup):
    """A group whose flags count for its subcommands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that arguments begin with, and add --json to its own if it was said before it.

        Raises:
            click.UsageError: the subcommand has no --json.
        """
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or isinstance(command, click.Group) or not ctx.meta.get(_JSON):
            return name, command, rest
        if not any("--json" in param.opts for param in command.params):
            raise click.UsageError(f"{ctx.command_path} {name} has no --json: leave it out.", ctx)
        return name, command, ["--json", *rest]
