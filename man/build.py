"""Write the man pages from the click declarations and from the prose beside this file.

`python man/build.py` writes them, `python man/build.py --check` ends with 1 and names those that are stale.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import click
from roff import blocks, bold, definition, escape, italic, literal, prose

from dprune import __version__
from dprune.cli import STAGES, cli
from dprune.shell.help_pages import in_groups, split_help, told

HERE = Path(__file__).resolve().parent
METAVARS = {"INTEGER": "N", "INTEGER RANGE": "N", "FLOAT": "X", "FLOAT RANGE": "X"}


def sections(path: Path) -> dict[str, str]:
    """Split prose at its `# HEADINGS`."""
    parts = re.split(r"^# (.+)\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


PROSE = sections(HERE / "sections.txt")
COMMON = ("EXIT STATUS", "ENVIRONMENT", "FILES")
"""Sections that every page has, with what its command adds."""


def header(name: str, section: int, summary: str) -> list[str]:
    """Begin a page; without a date, so that the same sources give the same page."""
    comment = r".\" Written by man/build.py: edit the click declarations or the text beside it instead."
    title = f'.TH {escape(name)} {section} "" "dprune {__version__}" "dprune manual"'
    return [comment, title, ".ad l", ".nh", ".ss 12 0", ".SH NAME", f"{escape(name)} \\- {escape(summary.rstrip('.'))}"]


def arguments(command: click.Command, ctx: click.Context) -> tuple[str, ...]:
    """Return the placeholders of a command's arguments, without brackets and dots."""
    params = (param for param in command.params if isinstance(param, click.Argument))
    return tuple(param.make_metavar(ctx).strip("[].") for param in params)


def synopsis(path: str, command: click.Command, ctx: click.Context) -> list[str]:
    """Write a command with its required options and its arguments."""
    given = [option for option in command.params if isinstance(option, click.Option) and option.required]
    parts = [f"{bold(option.opts[0])} {italic(option.make_metavar(ctx))}" for option in given]
    pieces = [italic(param.make_metavar(ctx)) for param in command.params if isinstance(param, click.Argument)]
    return [".HP", " ".join([bold(path), r"[\fIOPTIONS\fR]", *parts, *pieces])]


def option(param: click.Option, ctx: click.Context) -> list[str]:
    """Write one option: its names, what it does, its default and range."""
    metavar = param.make_metavar(ctx)
    names = ", ".join(bold(name) for name in (*param.opts, *param.secondary_opts))
    takes_value = not param.is_flag and not param.count
    term = f"{names} {italic(METAVARS.get(metavar, metavar))}" if takes_value else names
    text, notes = told(param, ctx)
    notes |= {"range": f"range: {notes['range']}"} if "range" in notes else {}
    return definition(term, prose(" ".join([text, *(f"{note[0].upper()}{note[1:]}." for note in notes.values())])))


def options(command: click.Command, ctx: click.Context, heading: str = ".SS {}") -> list[str]:
    """Write the arguments that say what they are, then all options in their groups, each under a `heading`."""
    described = [(param.make_metavar(ctx), param.help) for param in command.params if isinstance(param, click.Argument)]
    out = [line for name, text in described if text for line in definition(italic(name), prose(text))]
    for title, found in in_groups(command, ctx).items():
        out += [*heading.format(title).splitlines(), *(line for param in found for line in option(param, ctx))]
    return out


def command_page(name: str, parent: click.Context) -> list[str]:
    """Write the page of a subcommand, or of a group with its methods."""
    command = cli.get_command(parent, name)
    assert command is not None
    ctx = click.Context(command, info_name=name, parent=parent)
    members = dict(command.commands) if isinstance(command, click.Group) else {}
    contexts = {method: click.Context(member, info_name=method, parent=ctx) for method, member in members.items()}
    paragraphs, examples = split_help(command.help or "")
    summary = next(stage[name] for stage in STAGES.values() if name in stage)
    page = [*header(f"dprune-{name}", 1, summary), ".SH SYNOPSIS"]
    description = blocks("\n\n".join(paragraphs[1:] or paragraphs), arguments(command, ctx))
    declared = [] if members else options(command, ctx)
    if not members:
        page += synopsis(f"dprune {name}", command, ctx)
    for method, member in members.items():
        page += synopsis(f"dprune {name} {method}", member, contexts[method])
        told_of, more = split_help(member.help or "")
        description += [f".SS {escape(method)}", *blocks("\n\n".join(told_of), arguments(member, contexts[method]))]
        declared += [f".SS {escape(method)}", *options(member, contexts[method], ".PP\n\\fI{}\\fR")]
        examples = examples + more
    page += [".SH DESCRIPTION", *description, ".SH OPTIONS", *declared, ".SH EXAMPLES", *literal(examples)]
    for title, own in PROSE.items():
        heading, _, of = title.rpartition(" ")
        if of == name and heading not in COMMON:
            page += [f".SH {heading}", *blocks(own)]
    for heading in COMMON:
        page += [f".SH {heading}", *blocks(PROSE.get(f"{heading} {name}", "") + "\n\n" + PROSE[heading])]
    return [*page, *see_also(f"dprune-{name}")]


def see_also(page: str) -> list[str]:
    """Refer to the pages of the package."""
    names = [("dprune", 1), *((f"dprune-{command}", 1) for command in commands()), ("dprune-files", 7)]
    return [".SH SEE ALSO", ",\n".join(f"{bold(name)}({section})" for name, section in names if name != page)]


def commands() -> list[str]:
    """Names of all subcommands."""
    return [name for stage in STAGES.values() for name in stage]


def top_page(ctx: click.Context) -> list[str]:
    """Write dprune.1."""
    (summary, *body), _ = split_help(cli.help or "")
    page = [*header("dprune", 1, summary), ".SH SYNOPSIS", ".HP"]
    page += [rf"{bold('dprune')} {italic('COMMAND')} [\fIOPTIONS\fR] \fIARGUMENTS\fR", ".SH DESCRIPTION"]
    page += [*blocks("\n\n".join([*body, PROSE["DESCRIPTION"]])), ".SH COMMANDS"]
    for stage, members in STAGES.items():
        page.append(f".SS {escape(stage)}")
        for name, summary in members.items():
            page += definition(f"{bold(f'dprune-{name}')}(1)", prose(summary))
    page += [".SH OPTIONS", *options(cli, ctx, "")]
    for heading in ("EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        page += [f".SH {heading}", *blocks(PROSE[heading])]
    return [*page, *see_also("dprune")]


def files_page() -> list[str]:
    """Write dprune-files.7 from its text."""
    page = header("dprune-files", 7, "formats of the files that dprune reads and writes")
    for heading, text in sections(HERE / "files.txt").items():
        page += [f".SH {heading}", *blocks(text)]
    return [*page, *see_also("dprune-files")]


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    ctx = click.Context(cli, info_name="dprune", help_option_names=["-h", "--help"])
    written = {"dprune.1": top_page(ctx), "dprune-files.7": files_page()}
    written |= {f"dprune-{name}.1": command_page(name, ctx) for name in commands()}
    return {name: "\n".join(lines) + "\n" for name, lines in written.items()}


def not_installed(names: list[str]) -> list[str]:
    """Return the pages that the wheel would leave out."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"].get("shared-data", {})
    return [name for name in names if shared.get(f"man/{name}") != f"share/man/man{name[-1]}/{name}"]


def main() -> int:
    """Write the pages, or compare them."""
    written = pages()
    existing = {path.name: path.read_text() for pattern in ("*.1", "*.7") for path in HERE.glob(pattern)}
    wrong = [f"man/{name} is stale: run python man/build.py" for name in sorted(written.keys() | existing.keys())
             if written.get(name) != existing.get(name)]  # fmt: skip
    wrong += [f"pyproject.toml installs no man/{name}: add it to shared-data" for name in not_installed(list(written))]
    if "--check" in sys.argv[1:]:
        print("\n".join(wrong), end="\n" * bool(wrong))
        return 1 if wrong else 0
    for name in existing.keys() - written.keys():
        (HERE / name).unlink()
    for name, text in written.items():
        (HERE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
