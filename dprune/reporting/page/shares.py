"""Shares of clusters and classes by line as HTML."""

from __future__ import annotations

from dprune.reporting.markup import escape
from dprune.reporting.page.word_tables import html_word_table
from dprune.reporting.share_texts import HEADING, NOTE, share_word_tables
from dprune.reporting.study.grouping import Comparison

_FEW = 8
"""Columns of a table that stands open."""


def html_shares(comparison: Comparison) -> str:
    """Write the tables, wide ones folded; empty where there are no shares."""
    tables = share_word_tables(comparison)
    parts = []
    for table in tables:
        is_open = " open" if len(table.heads) <= _FEW else ""
        parts.append(f"<details{is_open}><summary>{escape(table.caption)}</summary>{html_word_table(table)}</details>")
    note = f'<h3>{HEADING}</h3><p class="note">{escape(NOTE)}</p>' if tables else ""
    return note + "".join(parts)
