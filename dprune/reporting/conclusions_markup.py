"""The first paragraph of a report as HTML, and as Markdown with what the lines are."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.reporting.conclusions import Conclusions
from dprune.reporting.line_table import LineTable
from dprune.reporting.markup import escape, markdown

CAUTIONS = "Before you believe it"


def html_conclusions(conclusions: Conclusions) -> str:
    """Write what the numbers say as paragraphs, and what to know before as a list; empty where there is neither."""
    said = "".join(f"<p><strong>{escape(s.heading)}:</strong> {escape(s.text)}</p>" for s in conclusions.statements)
    listed = "".join(f"<li>{escape(caution)}</li>" for caution in conclusions.cautions)
    return said + (f'<h3>{CAUTIONS}</h3><ul class="cautions">{listed}</ul>' if listed else "")


def markdown_summary(title: str, conclusions: Conclusions, lines: LineTable) -> str:
    """Write title, conclusions, cautions and a table of the lines."""
    said = "".join(f"- **{markdown(s.heading)}**: {markdown(s.text)}\n" for s in conclusions.statements)
    listed = "".join(f"- {markdown(caution)}\n" for caution in conclusions.cautions)
    parts = [f"# {markdown(title)}\n", said, f"## {CAUTIONS}\n\n{listed}" if listed else "", _lines(lines)]
    return "\n".join(filter(None, parts))


def _lines(lines: LineTable) -> str:
    shared = "".join(f"{markdown(heading)} of all: {markdown(text)}\n\n" for heading, text in lines.shared)
    rows = [lines.heads, ["---"] * len(lines.heads), *([markdown(cell) for cell in row] for row in lines.rows)]
    return f"## What the lines are\n\n{shared}{''.join(map(_row, rows))}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
