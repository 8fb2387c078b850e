"""Agreement of scores and subsets as HTML: heat maps, tables below them, and charts of what scores predict."""

from __future__ import annotations

from dprune.charts.lines import legend_markup
from dprune.charts.page import PageCharts
from dprune.reporting.agreement.findings import Agreement
from dprune.reporting.agreement.texts import PREDICTIONS, Question, questions_of
from dprune.reporting.markup import escape
from dprune.reporting.page.charts import html_charts, html_folded_charts
from dprune.reporting.page.word_tables import html_word_table
from dprune.reporting.word_tables import WordTable

SPREADS = "How each score is spread"


def html_agreement(agreement: Agreement, drawn: PageCharts) -> str:
    """Write the section."""
    return "".join(_question(question, agreement, drawn) for question in questions_of(agreement)) + _spreads(
        agreement, drawn
    )


def _spreads(agreement: Agreement, drawn: PageCharts) -> str:
    """Write how scores are spread, folded; empty where there are none."""
    if not agreement.spreads:
        return ""
    note = (
        '<p class="note">Density over all scored samples. A half percent of them at either end may lie beyond the '
        "axis.</p>"
    )
    return html_folded_charts(SPREADS, agreement.spreads, drawn, note)


def _question(question: Question, agreement: Agreement, drawn: PageCharts) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in question.notes)
    maps = html_charts([matrix.figure for matrix in question.matrices], drawn, "few") if question.matrices else ""
    if question.heading == PREDICTIONS:
        first, *others = question.tables
        shown = html_word_table(first) + _scatters(agreement, drawn) + "".join(map(_folded, others))
    else:
        shown = maps + "".join(map(_folded, question.tables))
    return f"<h3>{question.heading}</h3>{notes}{shown}"


def _folded(table: WordTable) -> str:
    return f"<details><summary>{escape(table.caption)} as a table</summary>{html_word_table(table)}</details>"


def _scatters(agreement: Agreement, drawn: PageCharts) -> str:
    parts = []
    for measurement, figures in agreement.scatters.items():
        comparison = next(p.comparison for p in agreement.predictions if p.measurement == measurement)
        title = f"{agreement.measures[0].name} over the mean score of what is kept"
        heading = ", ".join(filter(None, (title, measurement)))
        legend = legend_markup(agreement.colours.styles(comparison))
        parts.append(html_folded_charts(heading, figures, drawn, legend))
    return "".join(parts)
