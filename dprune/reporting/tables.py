"""Tables of a comparison: as HTML, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dprune.metrics.catalogue import Measure
from dprune.reporting import notes
from dprune.reporting.estimates import INTERVALS, CellMean, count_range
from dprune.reporting.grouping import MISSING, Cell, Comparison, Line, cell_ratio, ratio_text
from dprune.reporting.markup import escape, markdown, spreadsheet

# Columns of the CSV behind the mean of each metric: standard error, half of the 95% interval, what the error is over,
# and of how many.
_OF_MEANS = ("se", "half_width", "over", "units")


@dataclass(frozen=True)
class TableRow:
    """A cell of the study as a row of the table."""

    line: Line
    cell: Cell
    estimates: tuple[CellMean | None, ...]

    def names(self) -> tuple[str, str, str, str, str]:
        """Return what stands before the metrics: method, ratio, trainings, samplings of each, generated samples."""
        samplings, counts = self.cell.samplings, self.counts("generated")
        known = count_range(counts) if counts else MISSING
        return (self.line.label, cell_ratio(self.line, self.cell), f"{len(samplings):,}", count_range(samplings), known)

    def count(self, role: str) -> int | None:
        """Return the samples of one side, None where results do not agree."""
        counts = self.counts(role)
        return counts.pop() if len(counts) == 1 else None

    def counts(self, role: str) -> set[int]:
        """Return how many samples of one side took part in each result, as far as these say so."""
        sides = [side for point in self.cell.points if point.result for side in point.result.inputs]
        return {count for side in sides if side["role"] == role and isinstance(count := side.get("count"), int)}


@dataclass(frozen=True)
class Table:
    """Rows of cells, columns of metrics.

    Attributes:
        comparison: what is shown.
        measures: columns, those that any result has.
        rows: unpruned first, then by ratio and method.
        best: (row, column) of the best values at their ratio.
    """

    comparison: Comparison
    measures: tuple[Measure, ...]
    rows: tuple[TableRow, ...]
    best: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, comparison: Comparison, measures: Sequence[Measure]) -> Table:
        """Make the table of those measures that any result speaks of."""
        cells = comparison.cells()
        shown = tuple(measure for measure in measures if any(cell.measured(measure.key) for _, cell in cells))
        cells.sort(key=lambda pair: (not pair[0].is_unpruned, pair[1].ratio is None, pair[1].ratio or 0))
        rows = tuple(TableRow(line, cell, tuple(cell.estimate(m.key) for m in shown)) for line, cell in cells)
        return cls(comparison, shown, rows, _best(rows, shown))


def _best(rows: Sequence[TableRow], measures: Sequence[Measure]) -> frozenset[tuple[int, int]]:
    """Mark the best of the pruned at each ratio that several have; over all ratios where none has."""
    pruned = [number for number, row in enumerate(rows) if not row.line.is_unpruned]
    ratios = [ratio_text(rows[number].cell.ratio) for number in pruned]
    repeated = len(set(ratios)) < len(ratios)
    found = set()
    for column, measure in enumerate(measures):
        groups: dict[str, list[tuple[float, str, int]]] = {}
        for number, ratio in zip(pruned, ratios, strict=True):
            estimate = rows[number].estimates[column]
            if estimate is not None and measure.better:
                sign = 1 if measure.better == "lower" else -1
                entry = (sign * estimate.mean, number_text(estimate.mean), number)
                groups.setdefault(ratio if repeated else "", []).append(entry)
        for values in groups.values():
            # What looks the same is equally good.
            winner = min(values)[1]
            if any(shown != winner for _, shown, _ in values):
                found |= {(number, column) for _, shown, number in values if shown == winner}
    return frozenset(found)


def number_text(value: float) -> str:
    """Write a number with four digits, whole ones as they are."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    decimals = 3 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}" if -5 < decimals < 8 else f"{value:.3e}"


def _spread_text(estimate: CellMean) -> str:
    half = estimate.half_width
    if not half:
        return ""
    shown = f"±{half:.2g}" if half < 1e4 else f"±{half:,.0f}"
    return shown if estimate.over_trainings else f"({shown})"


def _estimate_html(estimate: CellMean | None, *, best: bool) -> str:
    if estimate is None:
        return f'<td class="missing" title="not measured, or not computable from these samples">{MISSING}</td>'
    mean = number_text(estimate.mean)
    value = f"<strong>{mean}</strong>" if best else mean
    spread = _spread_text(estimate)
    if not spread:
        return f"<td>{value}</td>"
    return f'<td>{value} <span class="spread" title="{estimate.kind}">{spread}</span></td>'


def html_table(table: Table, caption: str) -> str:
    """Write a table that scrolls inside its own frame."""
    heads = "".join(
        f'<th scope="col" title="{escape(m.note)}">{escape(m.name)}{f" {m.arrow}" if m.arrow else ""}</th>'
        for m in table.measures
    )
    lines = []
    previous = None
    for number, row in enumerate(table.rows):
        label, ratio, *counts = row.names()
        begins = "unpruned" if row.line.is_unpruned else ratio
        style = ' class="first"' if previous not in (None, begins) else ""
        previous = begins
        values = "".join(_estimate_html(e, best=(number, c) in table.best) for c, e in enumerate(row.estimates))
        lines.append(
            f'<tr{style}><th scope="row">{escape(label)}</th><td>{ratio}</td>'
            f"{''.join(f'<td>{count}</td>' for count in counts)}{values}</tr>"
        )
    return (
        f'<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption><thead><tr>'
        '<th scope="col">Method</th><th scope="col">Pruned</th><th scope="col">Trainings</th><th scope="col" '
        'title="sets of generated samples of each training">Samplings</th><th scope="col" title="generated samples">N'
        f"</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def markdown_table(table: Table) -> str:
    """Write a table as GitHub's Markdown; best values are bold."""
    heads = [
        "Method",
        "Pruned",
        "Trainings",
        "Samplings",
        "N",
        *(f"{m.name} {m.arrow}".strip() for m in table.measures),
    ]
    lines = [_markdown_row(heads), _markdown_row(["---", *["---:"] * (len(heads) - 1)])]
    for number, row in enumerate(table.rows):
        cells = [*row.names()]
        for column, estimate in enumerate(row.estimates):
            mean = MISSING if estimate is None else number_text(estimate.mean)
            shown = f"**{mean}**" if (number, column) in table.best else mean
            cells.append(f"{shown} {_spread_text(estimate)}".strip() if estimate else shown)
        lines.append(_markdown_row(cells))
    title = f"### {markdown(table.comparison.title)}\n\n" if table.comparison.title else ""
    return title + "\n".join(lines) + "\n"


def markdown_tables(tables: Sequence[Table]) -> str:
    """Write all tables of a kind, and what there is to say of them."""
    parts = [markdown(sentence) + "\n" for sentence in notes.of_tables(tables[0].comparison)]
    for table in tables:
        parts += [markdown_table(table), *(markdown(sentence) + "\n" for sentence in notes.of_lines(table.comparison))]
    return "\n".join([*parts, INTERVALS + "\n"])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(markdown(cell) if n == 0 else cell for n, cell in enumerate(cells))} |"


def csv_table(tables: Sequence[Table]) -> str:
    """Write all tables of a kind as one CSV, a row for each cell, every digit kept."""
    measures = list(dict.fromkeys(m for table in tables for m in table.measures))
    names = [name for m in measures for name in (m.key, *(f"{m.key}_{name}" for name in _OF_MEANS))]
    lines: list[list[object]] = []
    for table in tables:
        for row in table.rows:
            first = row.cell.points[0].subset
            reference = row.count("reference" if row.count("train") is None else "train")
            line: list[object] = [table.comparison.title, row.line.label, first.method, first.order]
            line += [row.cell.ratio, len(row.cell.samplings), sum(row.cell.samplings)]
            line += [notes.seeds_text(row.cell) or None, row.count("generated"), reference]
            for measure in measures:
                line += _numbers(row.cell.estimate(measure.key))
            lines.append(line)
    heads = ("measurement", "line", "method", "order", "pruned", "trainings", "samplings", "drawn_anew")
    return csv_text((*heads, "generated", "reference", *names), lines)


def _numbers(estimate: CellMean | None) -> list[object]:
    """Return the columns of a metric: its mean, and those of `_OF_MEANS`."""
    if estimate is None:
        return [None] * (1 + len(_OF_MEANS))
    over = (estimate.over, estimate.units) if estimate.error is not None else (None, None)
    return [estimate.mean, estimate.error, estimate.half_width, *over]


def csv_text(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Write CSV; None is empty, and text is kept from being run by spreadsheets, whatever somebody named a method."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    # The writer leaves None empty, and writes every digit of a number.
    writer.writerows([spreadsheet(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return out.getvalue()
