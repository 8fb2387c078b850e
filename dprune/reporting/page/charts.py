"""Charts of a comparison in the page, with their legends."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.charts.figure import Figure
from dprune.charts.lines import SAMPLES, legend_markup
from dprune.charts.page import PageCharts
from dprune.metrics.catalogue import Measure
from dprune.reporting.content import Content
from dprune.reporting.curves import interval_kinds
from dprune.reporting.group_shares import share_tables
from dprune.reporting.markup import escape
from dprune.reporting.study.grouping import Comparison
from dprune.reporting.tables import Table

CELL_CHARTS = {
    "quality": {"prd": "Precision over recall"},
    "shares": {"cluster": "Share of each cluster", "class": "Share of each class"},
    "memorization": {"distances": "Distances to the nearest training sample"},
}
"""Headings of charts of single cells, by the section that they are in and what they show."""

_FEW = 4
"""Charts that are arranged in full rows."""


def html_curves(content: Content, tables: Sequence[Table], drawn: PageCharts) -> str:
    """Write the curves of the metrics of tables of the same lines below one legend; empty where there are none."""
    charts = {
        measure: chart
        for table in tables
        for measure, chart in content.drawings.curves(table.comparison, table.measures).items()
    }
    if not charts:
        return ""
    comparison = max((table.comparison for table in tables), key=lambda comparison: len(comparison.lines))
    css = "few" if len(charts) <= _FEW else ""
    return _legend(comparison, content, list(charts)) + html_charts(list(charts.values()), drawn, css)


def html_cell_charts(content: Content, comparison: Comparison, section: str, drawn: PageCharts) -> str:
    """Write the charts of single cells that belong to a section, folded: there is one for each line and ratio."""
    found = content.drawings.distributions(comparison)
    return "".join(
        html_folded_charts(
            heading, found[kind], drawn,
            ("" if section == "shares" else _several_note(comparison)) + _key_of(kind, comparison, content),
        )
        for kind, heading in CELL_CHARTS[section].items()
        if kind in found
    )  # fmt: skip


def html_folded_charts(heading: str, charts: Sequence[Figure], drawn: PageCharts, above: str) -> str:
    """Write small charts that open below their heading and their number, with their legend or a note above them."""
    count = f"{len(charts)} {'chart' if len(charts) == 1 else 'charts'}"
    shown = above + html_charts(charts, drawn, "small")
    return f"<details><summary>{escape(heading)} ({count})</summary>{shown}</details>"


def html_charts(charts: Sequence[Figure], drawn: PageCharts, css: str = "") -> str:
    """Write charts beside each other."""
    return f'<div class="charts{f" {css}" if css else ""}">{"".join(map(drawn.markup, charts))}</div>'


def _several_note(comparison: Comparison) -> str:
    if all(sum(cell.samplings) == 1 for _, cell in comparison.cells()):
        return ""
    return '<p class="note">Where a method has several trainings or samplings, its chart is of one of them.</p>'


def _legend(comparison: Comparison, content: Content, measures: Sequence[Measure] = ()) -> str:
    kinds = interval_kinds(comparison, measures)
    intervals = _key(*((what, SAMPLES["dotted interval" if dotted else "interval"]) for dotted, what in kinds.items()))
    return legend_markup(content.colours.styles(comparison)) + (intervals if kinds else "")


def _key_of(kind: str, comparison: Comparison, content: Content) -> str:
    if kind == "prd":
        return _legend(comparison, content)
    filled = ("generated", '<span class="swatch"></span>')
    if kind == "distances":
        return _key(filled, ("held-out", SAMPLES["line"]), ("training, to the rest", SAMPLES["dotted line"]))
    trained = any(column.training for table in share_tables(comparison, kind) for column in table.columns)
    return _key(filled, ("reference", SAMPLES["line"]), *([("training", SAMPLES["dotted line"])] if trained else []))


def _key(*entries: tuple[str, str]) -> str:
    return f'<ul class="legend">{"".join(f"<li>{swatch}{name}</li>" for name, swatch in entries)}</ul>'
