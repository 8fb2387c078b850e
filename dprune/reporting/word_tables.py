"""Tables of texts, the same on the page and in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from dprune.reporting.markup import markdown
from dprune.reporting.study.grouping import MISSING


@dataclass(frozen=True)
class WordTable:
    """A table of texts.

    Attributes:
        caption: what it is of.
        heads: of its columns, the first of names.
        rows: names and texts, empty for what is missing; by what they are grouped under, empty for no group.
        group_head: what the groups are, in Markdown, where these are a column.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    group_head: str = "Pruned"


def markdown_word_table(table: WordTable) -> str:
    """Write a table as GitHub's Markdown, groups in a first column."""
    grouped = any(group for group, _ in table.rows)
    heads = [*([table.group_head] if grouped else []), *map(markdown, table.heads)]
    rows = [[*([markdown(group)] if grouped else []), *(markdown(text) or MISSING for text in texts)]
            for group, texts in table.rows]  # fmt: skip
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return f"### {markdown(table.caption)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
