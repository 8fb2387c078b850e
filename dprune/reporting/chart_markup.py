"""Charts of a comparison in the page, with their legends."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.metrics.catalogue import Measure
from dprune.reporting.content import Content
from dprune.reporting.curves import interval_legend, legend
from dprune.reporting.grouping import Comparison
from dprune.reporting.markup import escape
from dprune.reporting.svg import Chart, stroke
from dprune.reporting.tables import Table

CELL_CHARTS = {
    "quality": {"prd": "Precision over recall"},
    "shares": {"cluster": "Share of each cluster", "class": "Share of each class"},
    "memorization": {"distances": "Distances to the nearest training sample"},
}
"""Headings of charts of single cells, by the section that they are in and what they show."""


def html_curves(content: Content, tables: Sequence[Table]) -> str:
    """Write the curves of the metrics of tables of the same lines below one legend; empty where there are none."""
    charts = {
        measure: chart
        for table in tables
        for measure, chart in content.curves(table.comparison, table.measures).items()
    }
    if not charts:
        return ""
    comparison = max((table.comparison for table in tables), key=lambda comparison: len(comparison.lines))
    return _legend(comparison, content, list(charts)) + html_charts(list(charts.values()))


def html_cell_charts(content: Content, comparison: Comparison, section: str) -> str:
    """Write the charts of single cells that belong to a section, folded: there is one for each line and ratio."""
    found = content.distributions(comparison)
    return "".join(
        _folded(f"{heading} ({len(found[kind])} {'chart' if len(found[kind]) == 1 else 'charts'})",
                _several_note(comparison) + _key_of(kind, comparison, content) + html_charts(found[kind], "small"))
        for kind, heading in CELL_CHARTS[section].items()
        if kind in found
    )  # fmt: skip


def html_charts(charts: Sequence[Chart], css: str = "") -> str:
    """Write charts beside each other."""
    figures = "".join(f"<figure>{chart.inline()}</figure>" for chart in charts)
    return f'<div class="charts{f" {css}" if css else ""}">{figures}</div>'


def _several_note(comparison: Comparison) -> str:
    if all(sum(cell.samplings) == 1 for _, cell in comparison.cells()):
        return ""
    return '<p class="note">Where a method has several trainings or samplings, its chart is of one of them.</p>'


def _folded(heading: str, html: str) -> str:
    return f"<details><summary>{heading}</summary>{html}</details>"


def _legend(comparison: Comparison, content: Content, measures: Sequence[Measure] = ()) -> str:
    entries = legend(comparison, content.colours) + interval_legend(comparison, measures)
    return _key(*((escape(label), _swatch(drawn)) for drawn, label in entries))


def _key_of(kind: str, comparison: Comparison, content: Content) -> str:
    if kind == "prd":
        return _legend(comparison, content)
    filled = ("generated", '<span class="swatch"></span>')
    if kind == "distances":
        beside = (("held-out", stroke("line sk")), ("training, to the rest", stroke("line sf", "2 2")))
        return _key(filled, *((name, _swatch(drawn)) for name, drawn in beside))
    return _key(filled, ("reference", _swatch(stroke("line sk"))))


def _key(*entries: tuple[str, str]) -> str:
    return f'<ul class="legend">{"".join(f"<li>{swatch}{name}</li>" for name, swatch in entries)}</ul>'


def _swatch(drawn: str) -> str:
    return f'<svg viewBox="0 0 34 12" aria-hidden="true">{drawn}</svg>'
