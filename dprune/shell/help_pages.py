"""The help of a command: its common options in groups on one screen, and all of them by --help-all.

Neither rich-click nor cloup does that. Both about double the time that --help takes, neither has a short help and a
long one, and a group of cloup's is where its options are declared, apart from options that several commands share.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args

import click

Group = Literal[
    "Choice", "Groups", "Data", "Images", "Model", "Loss", "Noise", "Method", "Sampling", "Optimisation", "Metrics",
    "Checkpoints", "Page", "Agreement", "Map", "Output", "Running", "Help",
]  # fmt: skip
GROUPS: tuple[Group, ...] = get_args(Group)
"""Titles of the groups, in the order in which a help lists them."""
EXAMPLES = "\b\nExamples:\n"
"""Where the prose of a docstring ends and its examples begin."""
MOST_EXAMPLES = 4
"""On the one screen; --help-all has the others."""
WIDEST_NAMES = 24
"""Columns for the names of options; what stands after longer ones begins on the next line."""


class GroupedOption(click.Option):
    """An option that stands in a group of the help.

    Args:
        args: as click takes them.
        group: title of the group.
        common: whether --help shows it; --help-all shows all.
        kwargs: as click takes them.
    """

    def __init__(self, *args: Any, group: Group, common: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group, self.common = group, common


def option(*names: str, group: Group, common: bool = False, **kwargs: Any) -> Callable[..., Any]:
    """Declare an option of a command, as click does, in a group of the help.

    Args:
        names: of the option, and of the command's argument where that is another.
        group: title of the group.
        common: whether --help shows it; --help-all shows all.
        kwargs: as click takes them.
    """
    return click.option(*names, cls=GroupedOption, group=group, common=common, **kwargs)


class _Formatter(click.HelpFormatter):
    """Sets headings in bold where a terminal shows the help."""

    def write_heading(self, heading: str) -> None:
        """Write a heading."""
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        super().write_heading(heading if plain else click.style(heading, bold=True))


class _Context(click.Context):
    formatter_class = _Formatter


class _HelpAll(click.Command):
    """A command with --help-all."""

    context_class = _Context

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._help_all = GroupedOption(["--help-all"], group="Help", is_flag=True, is_eager=True, expose_value=False,
                                       callback=_show_all, help="Show all options.")  # fmt: skip

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the parameters, with --help and --help-all at the end."""
        return [*super().get_params(ctx), self._help_all]

    def page(self, ctx: click.Context, *, whole: bool) -> str:
        """Return the help: `whole`, or what fits on one screen."""
        return self.get_help(ctx)


class GroupedCommand(_HelpAll):
    """A command whose help lists its options in groups."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return --help, which says that it shows less than --help-all."""
        if found := super().get_help_option(ctx):
            found.help = "Show the common options."
        return found

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what fits on one screen."""
        self._write(ctx, formatter, whole=False)

    def page(self, ctx: click.Context, *, whole: bool) -> str:
        """Return the help: `whole`, or what fits on one screen."""
        formatter = ctx.make_formatter()
        self._write(ctx, formatter, whole=whole)
        return formatter.getvalue().rstrip("\n")

    def _write(self, ctx: click.Context, formatter: click.HelpFormatter, *, whole: bool) -> None:
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_prose(self.help or "", whole=whole))
        if whole:
            self.format_arguments(ctx, formatter)
        shown = {title: [option for option in options if whole or is_common(option)]
                 for title, options in in_groups(self, ctx).items()}  # fmt: skip
        _write_groups(formatter, {title: [row(option, ctx, whole=whole) for option in options]
                                  for title, options in shown.items()})  # fmt: skip
        formatter.write_paragraph()
        for line in self._further(ctx, sum(map(len, shown.values())), whole=whole):
            formatter.write_text(line)

    def _further(self, ctx: click.Context, shown: int, *, whole: bool) -> list[str]:
        """Say where more is to be found than the `shown` options."""
        path, manual = ctx.command_path, _manual(ctx)
        if whole:
            variables = f"{path} OPTION".replace(" ", "_").replace("-", "_").upper()
            return [f"Defaults from the environment: {variables}", manual]
        own = sum(isinstance(param, GroupedOption) for param in self.params)
        return [f"All {own} options: {path} --help-all", manual] if shown < own else [manual]


class GroupedGroup(_HelpAll, click.Group):
    """A command with methods that have such help, whose own says in full what each of them does."""

    command_class = GroupedCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._help_all.hidden = True

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the methods with the first paragraph of what each says."""
        names = self.list_commands(ctx)
        found = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
        with formatter.section("Methods"):
            formatter.write_dl([(name, " ".join(split_help(command.help or "")[0][0].split()))
                                for name, command in found])  # fmt: skip

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog, or where more is to be found."""
        if self.epilog:
            super().format_epilog(ctx, formatter)
            return
        formatter.write_paragraph()
        formatter.write_text(f"Help: {ctx.find_root().info_name} help {ctx.info_name} METHOD")
        formatter.write_text(_manual(ctx))


def in_groups(command: click.Command, ctx: click.Context) -> dict[Group, list[click.Option]]:
    """Return the options of a command that are not hidden by the titles of their groups, in the order of these."""
    found: dict[Group, list[click.Option]] = {title: [] for title in GROUPS}
    for param in command.get_params(ctx):
        if isinstance(param, click.Option) and not param.hidden:
            found[param.group if isinstance(param, GroupedOption) else "Help"].append(param)
    found["Output"].sort(key=lambda option: "--output" not in option.opts)
    return {title: options for title, options in found.items() if options}


def is_common(option: click.Option) -> bool:
    """Return whether the help of one screen shows an option."""
    return isinstance(option, GroupedOption) and option.common


def told(option: click.Option, ctx: click.Context) -> tuple[str, dict[str, str]]:
    """Return what an option does, and the notes that apply: `required`, `default` and `range`."""
    text, _, stated = (option.help or "").partition("  [default: ")
    extra = option.get_help_extra(ctx)
    notes = {"required": "required"} if "required" in extra else {}
    if stated or "default" in extra:
        notes["default"] = f"default: {stated.rstrip(']') or extra['default']}"
    # That a number is none below 0 goes without saying.
    if "<" in extra.get("range", ""):
        notes["range"] = extra["range"]
    return text, notes


def row(option: click.Option, ctx: click.Context, *, whole: bool) -> tuple[str, str]:
    """Return the names of an option and what it does: all that is said, or the first sentence and the default."""
    names = (option.get_help_record(ctx) or ("", ""))[0]
    text, notes = told(option, ctx)
    if not whole:
        text = f"{text.partition('. ')[0].rstrip('.')}."
        notes.pop("range", None)
    return names, "  ".join([text, f"[{'; '.join(notes.values())}]"] if notes else [text])


def split_help(text: str) -> tuple[list[str], list[str]]:
    """Take a docstring apart into the paragraphs of its prose and the lines of its examples."""
    prose, _, examples = inspect.cleandoc(text).partition(EXAMPLES)
    return prose.strip().split("\n\n"), examples.splitlines()


def _manual(ctx: click.Context) -> str:
    return f"Manual: man {'-'.join(ctx.command_path.split()[:2])}"


def help_page(ctx: click.Context, *, whole: bool) -> str:
    """Return the help of a context's command: `whole`, or what fits on one screen."""
    command = ctx.command
    return command.page(ctx, whole=whole) if isinstance(command, _HelpAll) else command.get_help(ctx)


def _show_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(help_page(ctx, whole=True), color=ctx.color)
        ctx.exit()


def _prose(text: str, *, whole: bool) -> str:
    """Return the summary with the paragraph behind it and the first examples, or the `whole` text."""
    paragraphs, examples = split_help(text)
    if not whole:
        further = [number for number, line in enumerate(examples) if not line.startswith("   ")][MOST_EXAMPLES:]
        paragraphs, examples = paragraphs[:2], examples[: further[0]] if further else examples
    return "\n\n".join([*paragraphs, *(["\n".join([EXAMPLES.rstrip("\n"), *examples])] if examples else [])])


def _write_groups(formatter: click.HelpFormatter, rows: dict[Group, list[tuple[str, str]]]) -> None:
    """Write options under the titles of their groups, what they do in one column throughout."""
    lengths = [len(names) for found in rows.values() for names, _ in found if len(names) <= WIDEST_NAMES]
    width = max(lengths, default=WIDEST_NAMES)
    for title, found in rows.items():
        if found:
            with formatter.section(title):
                formatter.write_dl([(names.ljust(width), text) for names, text in found], col_max=width)
