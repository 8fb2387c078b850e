"""Gaps of losses as HTML: charts below their legend, and the table."""

from __future__ import annotations

from dataclasses import replace

from dprune.charts.lines import legend_markup
from dprune.charts.page import PageCharts
from dprune.reporting.curves import Colours
from dprune.reporting.loss_gaps import NOTE, LossGaps
from dprune.reporting.markup import escape
from dprune.reporting.page.charts import html_charts
from dprune.reporting.page.word_tables import html_word_table
from dprune.reporting.study.grouping import ratio_title


def html_loss_gaps(gaps: LossGaps, colours: Colours, drawn: PageCharts) -> str:
    """Write the section."""
    legends = "".join(legend_markup(colours.styles(comparison)) for comparison in gaps.comparisons)
    charts = html_charts(gaps.figures(colours), drawn, "few")
    rows = tuple((ratio_title(ratio), texts) for ratio, texts in gaps.table.rows)
    table = html_word_table(replace(gaps.table, rows=rows))
    return f'<p class="note">{escape(NOTE)}</p>{legends}{charts}{table}'
