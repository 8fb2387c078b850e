"""What shells complete: paths where a parameter names one, words where its placeholder or a vocabulary lists them.

Commands, options and choices are completed by click itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_DPRUNE_COMPLETE"
"""Under which click looks for what a shell asks."""
PLACES = {"FILE", "PATH", "DIR", "SHARDS", "FEATURES", "VAL"}
"""Placeholders of options that name files or folders; all arguments do."""
# Where zsh was not told to complete anything yet.
_BEGIN_ZSH = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"


class CompletedText(click.types.StringParamType):
    """Text that is completed as a path, as one of a few words, or as what `vocabularies` knows.

    Args:
        words: that it may be.
        path: whether it may be a path.
    """

    def __init__(self, words: Sequence[str], *, path: bool) -> None:
        self._words, self._path = words, path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """See `click.ParamType`; the shell finds the paths."""
        from dprune.shell.vocabularies import offered

        arguments = [param.name or "" for param in ctx.command.params if isinstance(param, click.Argument)]
        # An option that waits for its value keeps click from telling arguments apart.
        given = dict(zip(arguments, ctx.args, strict=False)) | {k: v for k, v in ctx.params.items() if v is not None}
        known = offered(max(param.opts, key=len), param.metavar or "", given, incomplete)
        found = [CompletionItem(word) for word in (*self._words, *known) if word.startswith(incomplete)]
        return found or ([CompletionItem(incomplete, type="file")] if self._path else [])


@add_completion_class
class Bash(BashComplete):
    """Of click, but for `--option=value`, which bash gives as three words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one."""
        words, incomplete = super().get_completion_args()
        return [word for word in words if word != "="], incomplete


def complete_places(command: click.Command) -> None:
    """Have the parameters of a command completed by what their placeholders say, in place."""
    for param in command.params:
        if param.type is click.STRING:
            said = (param.metavar or "").strip("[].").split("|")
            words = [word for word in said if word.islower() and len(said) > 1]
            param.type = CompletedText(words, path=isinstance(param, click.Argument) or not PLACES.isdisjoint(said))
    if isinstance(command, click.Group):
        for child in command.commands.values():
            complete_places(child)


def script(shell: str, command: click.Command) -> str:
    """Return what a shell is to run once to complete a command.

    Args:
        shell: one of `SHELLS`.
        command: that `dprune` is.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    head, _, rest = kind(command, {}, "dprune", VARIABLE).source().partition("\n")
    return f"{head}\n{_BEGIN_ZSH if shell == 'zsh' else ''}{rest}"
