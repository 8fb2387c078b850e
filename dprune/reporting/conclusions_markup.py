"""The first paragraph of a report as HTML, and as Markdown with what the lines are."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.reporting.conclusions import Conclusions
from dprune.reporting.coverage import Coverage
from dprune.reporting.line_table import LineTable
from dprune.reporting.markup import escape, markdown

CAUTIONS = "Cautions"


def html_conclusions(conclusions: Conclusions) -> str:
    """Write a section of what the numbers say, and what to know before; empty where there is neither."""
    said = "".join(f"<p><strong>{escape(s.heading)}:</strong> {_unbroken(s.text)}</p>" for s in conclusions.statements)
    listed = "".join(f"<li>{escape(caution)}</li>" for caution in conclusions.cautions)
    cautions = f'<div class="cautions"><h3>{CAUTIONS}</h3><ul>{listed}</ul></div>' if listed else ""
    return f'<section class="said" aria-label="In words">{said}{cautions}</section>' if said or cautions else ""


def _unbroken(text: str) -> str:
    """Escape a text, in which no line ends between a value and its error."""
    return escape(text).replace(" ±", "&nbsp;±").replace("± ", "±&nbsp;")


def markdown_summary(title: str, conclusions: Conclusions, lines: LineTable, coverage: Coverage) -> str:
    """Write title, conclusions, cautions, a table of the lines and, where it says more, one of the trainings."""
    said = "".join(f"- **{markdown(s.heading)}**: {markdown(s.text)}\n" for s in conclusions.statements)
    listed = "".join(f"- {markdown(caution)}\n" for caution in conclusions.cautions)
    parts = [
        f"# {markdown(title)}\n",
        said,
        f"## {CAUTIONS}\n\n{listed}" if listed else "",
        _lines(lines) if lines.rows else "",
        _trainings(coverage),
    ]
    return "\n".join(filter(None, parts))


def _lines(lines: LineTable) -> str:
    shared = "".join(f"{markdown(heading)} of all: {markdown(text)}\n\n" for heading, text in lines.shared)
    shared += f"Unless a line says otherwise: {markdown(lines.usual)}.\n\n" if lines.usual else ""
    rows = [lines.heads, ["---"] * len(lines.heads), *([markdown(cell) for cell in row] for row in lines.rows)]
    return f"## What the lines are\n\n{shared}{''.join(map(_row, rows))}"


def _trainings(coverage: Coverage) -> str:
    if not coverage.is_shown:
        return ""
    heads = ("Line", *coverage.heads)
    rows = [heads, ["---"] * len(heads)]
    rows += [(markdown(line), *(point.text for point in points)) for line, points in coverage.rows]
    return f"## Trainings\n\n{coverage.sentence}.\n\n{''.join(map(_row, rows))}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"
