"""Tables of comparisons as GitHub's Markdown: the metrics, and below them their differences from the unpruned."""

from __future__ import annotations

from collections.abc import Sequence

from dprune.metrics.differences import Difference
from dprune.reporting import notes
from dprune.reporting.cell_texts import (
    COUNTS,
    difference_spread,
    difference_text,
    differences_title,
    estimate_spread,
    measure_head,
)
from dprune.reporting.markup import markdown
from dprune.reporting.study.differences import BEST, NOTE
from dprune.reporting.study.estimates import INTERVALS
from dprune.reporting.study.grouping import MISSING
from dprune.reporting.tables import Table, number_text

_NAMES = ("Line", "Pruned")


def markdown_tables(tables: Sequence[Table]) -> str:
    """Write all tables of a kind, and below them what there is to say of them."""
    said = [f"{INTERVALS} {BEST}", *notes.of_tables(tables[0].comparison)]
    return "\n".join([*map(_markdown_table, tables), *(markdown(sentence) + "\n" for sentence in said)])


def _markdown_table(table: Table) -> str:
    title = f"### {markdown(table.comparison.title)}\n\n" if table.comparison.title else ""
    heads = [*_NAMES, *(name for name, _, _ in COUNTS), *map(measure_head, table.measures)]
    rows = []
    for number, row in enumerate(table.rows):
        cells = [*row.names()]
        for column, estimate in enumerate(row.estimates):
            mean = MISSING if estimate is None else number_text(estimate.mean, estimate.half_width)
            shown = f"**{mean}**" if (number, column) in table.best else mean
            cells.append(f"{shown} {estimate_spread(estimate)}".strip() if estimate else shown)
        rows.append(cells)
    said = "".join(f"\n{markdown(sentence)}\n" for sentence in notes.of_lines(table.comparison))
    return f"{title}{_rows(heads, rows)}{said}{_differences(table)}"


def _differences(table: Table) -> str:
    """Write the differences, what they are held to among their names where that is not one for all."""
    if not table.differing:
        return ""
    held_to = ["Held to"] if table.several_baselines else []
    heads = [*_NAMES, *held_to, *(measure_head(table.measures[column]) for column in table.differing)]
    rows = []
    for row in table.held:
        assert row.baseline is not None
        beside = [markdown(row.baseline.label)] if held_to else []
        rows.append([*row.names()[:2], *beside, *(_difference(row.differences[column]) for column in table.differing)])
    return f"\n#### {differences_title([table])}\n\n{markdown(NOTE)}\n\n{_rows(heads, rows)}"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return MISSING
    return f"{difference_text(difference)} {difference_spread(difference)}".replace("*", "\\*").strip()


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *([markdown(label), *cells] for label, *cells in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
