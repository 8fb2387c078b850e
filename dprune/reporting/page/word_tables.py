"""Tables of texts as HTML."""

from __future__ import annotations

import re
from itertools import groupby

from dprune.reporting.markup import escape
from dprune.reporting.study.grouping import MISSING
from dprune.reporting.word_tables import WordTable


def html_word_table(table: WordTable) -> str:
    """Write a table in a frame that scrolls."""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    bodies = (
        f"<tbody>{_group_row(group, len(table.heads))}{''.join(_row(texts) for _, texts in rows)}</tbody>"
        for group, rows in groupby(table.rows, key=lambda row: row[0])
    )
    caption = escape(table.caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead>{''.join(bodies)}</table></div>"
    )


def _group_row(group: str, columns: int) -> str:
    if not group:
        return ""
    return f'<tr class="group"><th scope="rowgroup">{escape(group)}</th><td colspan="{columns - 1}"></td></tr>'


def _row(texts: tuple[str, ...]) -> str:
    name, *others = texts
    return f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cell, others))}</tr>'


def _cell(text: str) -> str:
    if not text:
        return f'<td class="missing" title="not known">{MISSING}</td>'
    # What is in brackets, or how far a number may be off, stands back.
    number, *spread = re.split(r" (?=[(±])", text, maxsplit=1)
    return f"<td>{escape(number)}{''.join(f' <span class=spread>{escape(part)}</span>' for part in spread)}</td>"
