"""`dprune info`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from dprune import console, options
from dprune.errors import InputError
from dprune.inspecting.findings import Findings


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@options.apply(
    click.option("--json", "json_", is_flag=True, help="Print one JSON object with a list `files`."), *options.verbosity
)
def command(files: tuple[str, ...], json_: bool) -> None:
    """Tell what files hold, where they come from and whether they are sound.

    FILE is a folder of shards or anything that names shards, a store, a sweep, a run folder, a .npy array (- for
    one on stdin), clusters or any other safetensors. For each it prints counts and shapes, the chain of commands
    that made it, and every problem found: tars without an end marker, shards that their manifest does not fit,
    missing parts, subsets that are unsorted or out of range, and files that speak of different datasets. Nothing
    is decoded, so it is quick. It exits with 3 when something is wrong.

    \b
    Examples:
      dprune info shards features clusters.safetensors keep.npy
      dprune select distance.npy --keep 10% | dprune info -
      dprune info keep.npy --json | jq .files[0].provenance
    """
    from dprune.inspecting.inspect import inspect_all

    found = inspect_all(files)
    if json_:
        console.emit(json.dumps({"files": [findings.as_json() for findings in found]}, indent=2))
    elif sys.stdout.isatty():
        _print_tables(found)
    else:
        console.emit("\n\n".join(_plain(findings) for findings in found))
    problems = [problem for findings in found for problem in findings.problems]
    if problems:
        raise InputError(problems[0] if len(problems) == 1 else f"{len(problems)} problems, the first: {problems[0]}")


def _rows(findings: Findings) -> list[tuple[str, str]]:
    from dprune.inspecting.findings import DIGITS

    hashes = {"digest": findings.content.get("digest"), "fingerprint": findings.fingerprint}
    stated = {**findings.content, **{name: value and value[:DIGITS] for name, value in hashes.items()}}
    return [(key.replace("_", " "), _words(value)) for key, value in stated.items() if value not in (None, [], {})]


def _words(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(_words(item) for item in value[: console.MOST_SHOWN])
        more = len(value) - console.MOST_SHOWN
        return f"{shown}, and {more:,} more" if more > 0 else shown
    return console.readable(value)


def _chain(findings: Findings) -> list[tuple[int, str]]:
    from dprune.inspecting.findings import describe_chain

    if findings.kind == "part":
        return [(0, "in the manifest of the store")]
    if not findings.records:
        return [(0, "none: made elsewhere")] if findings.content else []
    return [step for record in findings.records for step in describe_chain(record)]


def _plain(findings: Findings) -> str:
    lines = [f"{findings.name}: {findings.kind}"]
    rows = _rows(findings)
    width = max((len(key) for key, _ in rows), default=0)
    lines += [f"  {key:<{width}}  {value}" for key, value in rows]
    chain = _chain(findings)
    lines += ["  provenance"] * bool(chain) + [f"  {'  ' * (depth + 1)}{text}" for depth, text in chain]
    lines += [f"  problem: {problem}" for problem in findings.problems] or ["  sound"]
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Escape what a terminal cannot show, and what would command it."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return text.encode("utf-8", "backslashreplace").decode()


def _print_tables(found: Sequence[Findings]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    screen = Console()
    for findings in found:
        title = f"[bold]{escape(_printable(findings.name))}[/]: {findings.kind}"
        table = Table(title=title, title_justify="left", box=None, show_header=False)
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in _rows(findings):
            table.add_row(key, Text(_printable(value)))
        for number, (depth, text) in enumerate(_chain(findings)):
            table.add_row("" if number else "provenance", Text("  " * depth + _printable(text)))
        for problem in findings.problems:
            table.add_row(Text("problem", style="bold red"), Text(_printable(problem)))
        if not findings.problems:
            table.add_row("sound", Text("yes", style="green"))
        screen.print(table, end="\n\n")
