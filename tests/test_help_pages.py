"""The help of commands: options in groups, the common ones in --help and all of them in --help-all."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import dprune
from test_cli import NAMES, subcommands

from dprune import options
from dprune.cli import cli
from dprune.shell.help_pages import GROUPS, GroupedCommand, GroupedGroup, GroupedOption, split_help

COMMANDS = {" ".join(path): command for path, command in subcommands()}

MOST_LINES = 48
"""Of 80 columns, on a terminal's screen."""


def listed(text: str) -> set[str]:
    """The options that a help lists, each by its longest name."""
    _, *groups = re.split(r"^[A-Z]\w+:$", text, flags=re.MULTILINE)
    return {name for group in groups for name in re.findall(r"^  (?:-., )?(-\S+)", group, flags=re.MULTILINE)}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_is_declared_in_a_group(path: str) -> None:
    command = COMMANDS[path]
    assert isinstance(command, GroupedCommand | GroupedGroup), "declare it with cls=GroupedCommand"
    for param in command.params:
        if isinstance(param, click.Option):
            assert isinstance(param, GroupedOption), f"declare {param.opts[0]} by options.option(..., group=...)"
            assert param.group in GROUPS


@pytest.mark.parametrize("path", [path for path, command in COMMANDS.items() if isinstance(command, GroupedCommand)])
def test_the_short_help_lists_the_common_options_and_the_long_one_all(path: str) -> None:
    found = [param for param in COMMANDS[path].params if isinstance(param, GroupedOption)]
    short, whole = (dprune(*path.split(), option).ok().out.decode() for option in ("--help", "--help-all"))
    names = {max(param.opts, key=len): param.common for param in found}
    assert listed(short) == {name for name, common in names.items() if common}
    assert listed(whole) == {*names, "--help", "--help-all"}
    assert (f"All {len(found)} options: dprune {path} --help-all\n" in short) == (not all(names.values()))


@pytest.mark.parametrize("path", COMMANDS)
def test_what_an_option_does_is_said_in_sentences_that_stand_alone(path: str) -> None:
    for param in COMMANDS[path].params:
        if isinstance(param, GroupedOption):
            text, _, default = (param.help or "").partition("  [default: ")
            assert re.fullmatch(r"(With --|[A-Z]).*\.", text), (param.opts, text)
            assert not re.search(r"(^|\. )(Of|The same|And|But|Else)\b", text), (param.opts, text)
            assert not default or default.endswith("]")


def test_the_words_of_the_field_are_used() -> None:
    """Outside of names of keys and options."""
    root = Path(__file__).parent.parent
    prose = [(root / name).read_text() for name in ("man/sections.txt", "man/files.txt", "README.md")]
    prose += [
        f"{command.help} {[getattr(param, 'help', '') for param in command.params]}" for command in COMMANDS.values()
    ]
    found = re.findall(
        r"\b(?:critic|ledger|yardstick)s?\b", re.sub("`[^`]*`", "", "\n".join(prose)), flags=re.IGNORECASE
    )
    assert not found


@pytest.mark.parametrize("path", COMMANDS)
def test_the_short_help_fits_on_a_screen(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = dprune(*path.split(), "--help").ok().out.decode().splitlines()
    assert sum(max(1, math.ceil(len(line) / 80)) for line in shown) <= MOST_LINES


def examples() -> list[str]:
    """All examples of docstrings, and of the README's and the man pages' blocks, a command each."""
    root = Path(__file__).parent.parent
    lines = [line for command in COMMANDS.values() for line in split_help(command.help or "")[1]]
    lines += (root / "man/sections.txt").read_text().splitlines()
    lines += [line.removeprefix("$ ") for line in (root / "README.md").read_text().splitlines()]
    joined = "\n".join(line.strip().removeprefix("> ") for line in lines).replace("\\\n", "").replace("|\n", "| ")
    found = re.findall(rf"(dprune (?:{'|'.join(NAMES)}) [^|>#\n`)]+)", joined)
    return sorted({line.strip() for line in found if not re.search(r"…|OPTION|[a-z]: |^dprune [\w-]+ --[\w-]+$", line)})


@pytest.mark.parametrize("example", examples())
def test_an_example_can_be_given_as_it_stands(example: str) -> None:
    """Options and values are right; files are not looked for."""
    ctx, words = click.Context(cli, info_name="dprune"), shlex.split(example)[1:]
    while isinstance(group := ctx.command, click.Group):
        name, command, words = group.resolve_command(ctx, words)
        assert command is not None
        if isinstance(command, click.Group):
            ctx = click.Context(command, ctx, name)
        else:
            ctx = command.make_context(name, words, ctx)


@pytest.mark.parametrize("path", ["select", "score moso", "score", ""])
def test_help_of_a_command_by_its_name(path: str) -> None:
    words = path.split()
    assert dprune("help", *words).ok().out == dprune(*words, "--help").ok().out
    assert dprune("help", *words, "--all").ok().out == dprune(*words, "--help-all").ok().out


@pytest.fixture
def page() -> str:
    @click.command(cls=GroupedCommand)
    @options.apply(
        options.option("--first", group="Output", common=True, help="Write this.  [default: that]"),
        options.count("--second", "Take this. Or that.", group="Data", common=True, default=3),
        options.count("--third", "Rare.", group="Data", default=7),
        options.option("--fourth", group="Output", common=True, type=options.Number(0, 1), help="A share."),
    )
    def command() -> None:
        """Do something.

        First paragraph.

        Second paragraph.

        \b
        Examples:
          a
          b \\
            continued
          c
          d
          e
        """

    return CliRunner().invoke(command, ["--help"], prog_name="do").output


def test_groups_stand_in_their_order_and_options_as_declared(page: str) -> None:
    assert page.index("Data:") < page.index("--second") < page.index("Output:")
    assert page.index("--first") < page.index("--fourth")
    assert "--third" not in page


def test_the_short_help_has_first_sentences_defaults_and_four_examples(page: str) -> None:
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert "--second N Take this. [default: 3]" in lines
    assert "--first TEXT Write this. [default: that]" in lines
    assert "--fourth FLOAT RANGE A share." in lines
    assert "First paragraph." in lines
    assert "Second paragraph." not in lines
    assert lines[lines.index("Examples:") + 1 :][:6] == ["a", "b \\", "continued", "c", "d", ""]


def test_methods_are_listed_in_full_with_where_to_read_on() -> None:
    shown = " ".join(dprune("score", "--help").ok().out.decode().split())
    assert "Usage: dprune score [OPTIONS] METHOD [ARGS]..." in shown
    for name, method in COMMANDS["score"].commands.items():  # type: ignore[attr-defined]
        assert f" {name} {' '.join(split_help(method.help)[0][0].split())}" in shown
    assert shown.endswith("Help: dprune help score METHOD Manual: man dprune-score")


def test_the_output_is_the_first_of_its_group() -> None:
    for path in ("pack", "select", "sample"):
        assert "\nOutput:\n  -o, --output PATH" in dprune(path, "--help-all").ok().out.decode()


def test_what_options_do_stands_in_one_column(page: str) -> None:
    texts = ("Write this.", "Take this.")
    assert len({line.index(text) for line in page.splitlines() for text in texts if text in line}) == 1


def test_a_docstring_comes_apart() -> None:
    assert split_help("A.\n\n    B\n    b.\n\n    \b\n    Examples:\n      c\n") == (["A.", "B\nb."], ["  c"])
    assert split_help("A.") == (["A."], [])


@pytest.mark.parametrize(("variables", "is_bold"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_headings_are_bold_on_a_terminal(variables: dict[str, str], is_bold: bool) -> None:
    master, slave = os.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"} | variables
    subprocess.run([sys.executable, "-m", "dprune", "help", "help"], stdout=slave, env=env, check=True)
    os.close(slave)
    shown = os.read(master, 1 << 16)
    os.close(master)
    assert (b"\x1b[1mOutput\x1b[0m:" in shown) == is_bold
    assert (b"\x1b" in shown) == is_bold
