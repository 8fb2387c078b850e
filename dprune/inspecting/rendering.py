"""Findings as text for people: plain, or tables for a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from dprune.formats.readable import MOST_SHOWN, presentable, readable
from dprune.inspecting.findings import DIGITS, STORE_FILE, Findings, describe_chain


def aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Write titles and what stands behind them as lines, indented."""
    width = max((len(title) for title, _ in rows), default=0)
    return [f"  {title:<{width}}  {text}" for title, text in rows]


def tabled(name: str, kind: str, rows: Sequence[tuple[str, str, str]], width: int) -> str:
    """Write a table about a file with the escapes that colour it.

    Args:
        name: of the file.
        kind: what it is.
        rows: titles, what stands behind them, and rich's name of a style for both, empty for the usual one.
        width: columns of the terminal that is to show it.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text.assemble((name, "bold"), f": {kind}"), title_justify="left", box=None, show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for title, text, style in rows:
        table.add_row(Text(title, style=style), Text(text, style=style))
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, width=width).print(table)
    return screen.getvalue().removesuffix("\n")


def plain_text(findings: Findings) -> str:
    """Write findings as lines."""
    lines = [f"{presentable(findings.name)}: {presentable(findings.kind)}", *aligned(_rows(findings))]
    chain = _chain(findings)
    lines += ["  provenance"] * bool(chain) + [f"  {'  ' * (depth + 1)}{text}" for depth, text in chain]
    lines += [f"  problem: {presentable(problem)}" for problem in findings.problems] or ["  sound"]
    return "\n".join(lines)


def terminal_text(findings: Findings, width: int) -> str:
    """Write findings as a table with the escapes that colour it, for a terminal of so many columns."""
    rows = [(title, text, "") for title, text in _rows(findings)]
    for number, (depth, text) in enumerate(_chain(findings)):
        rows.append(("" if number else "provenance", "  " * depth + text, ""))
    rows += [("problem", presentable(problem), "bold red") for problem in findings.problems]
    rows += [] if findings.problems else [("sound", "yes", "green")]
    return tabled(presentable(findings.name), presentable(findings.kind), rows, width)


def _rows(findings: Findings) -> list[tuple[str, str]]:
    hashes = {"digest": findings.content.get("digest"), "fingerprint": findings.fingerprint}
    stated = {
        **findings.content,
        "digests": findings.digests,
        **{name: value and value[:DIGITS] for name, value in hashes.items()},
    }
    rows = [(key.replace("_", " "), _words(value)) for key, value in stated.items() if value not in (None, [], {})]
    return [(presentable(key), presentable(words)) for key, words in rows]


def _words(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(_words(item) for item in value[:MOST_SHOWN])
        more = len(value) - MOST_SHOWN
        return f"{shown}, and {more:,} more" if more > 0 else shown
    return readable(value)


def _chain(findings: Findings) -> list[tuple[int, str]]:
    if findings.kind == STORE_FILE:
        return [(0, "in the manifest of the store")]
    if not findings.records:
        return [(0, "none: made elsewhere")] if findings.content else []
    chain = [step for record in findings.records for step in describe_chain(record)]
    return [(depth, presentable(text)) for depth, text in chain]
