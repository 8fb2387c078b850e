"""Tables of a comparison: what stands in them, and all of it as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from dprune.metrics.catalogue import Measure
from dprune.metrics.differences import Difference
from dprune.reporting import notes
from dprune.reporting.markup import spreadsheet
from dprune.reporting.study.differences import cell_difference
from dprune.reporting.study.estimates import CellMean, count_range
from dprune.reporting.study.grouping import MISSING, Cell, Comparison, Line, cell_ratio, ratio_text

# Columns of the CSV behind the mean of each metric: standard error, half of the 95% interval, what the error is over,
# and of how many.
_OF_MEANS = ("se", "half_width", "over", "units")
# Behind those, of its difference to the baseline: the difference, its standard error, half of its 95% interval, whether
# that leaves zero out, and what the error is.
_OF_DIFFERENCES = ("difference", "difference_error", "difference_half_width", "told_apart", "difference_kind")

_MOST_DECIMALS = 8


@dataclass(frozen=True)
class TableRow:
    """A cell of the study as a row of the table.

    Attributes:
        line: that the cell is of.
        cell: results that differ in seeds alone.
        estimates: of each measure of the table.
        baseline: unpruned line that it is held to, None without one.
        differences: to the baseline in each measure; none without one.
    """

    line: Line
    cell: Cell
    estimates: tuple[CellMean | None, ...]
    baseline: Line | None = None
    differences: tuple[Difference | None, ...] = ()

    @classmethod
    def of(cls, comparison: Comparison, line: Line, cell: Cell, measures: Sequence[Measure]) -> TableRow:
        """Make the row of a cell."""
        estimates, baseline = tuple(cell.estimate(m.key) for m in measures), comparison.baseline(line)
        if baseline is None:
            return cls(line, cell, estimates)
        return cls(line, cell, estimates, baseline,
                   tuple(cell_difference(cell, baseline.cells[0], m.key) for m in measures))  # fmt: skip

    def names(self) -> tuple[str, str, str, str, str]:
        """Return what stands before the metrics: method, ratio, trainings, samplings of each, generated samples."""
        samplings, counts = self.cell.samplings, self.counts("generated")
        known = count_range(counts) if counts else MISSING
        return (self.line.label, cell_ratio(self.line, self.cell), f"{len(samplings):,}", count_range(samplings), known)

    def columns(self) -> list[list[object]]:
        """Return what the CSV says of each measure: its mean, and the columns of means and of differences."""
        differences = self.differences or (None,) * len(self.estimates)
        return [_of_mean(e) + _of_difference(d) for e, d in zip(self.estimates, differences, strict=True)]

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
        best: (row, column) of values that are better than all others at their ratio by more than chance.
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
        rows = tuple(TableRow.of(comparison, line, cell, shown) for line, cell in cells)
        return cls(comparison, shown, rows, _best(rows, shown))

    @property
    def held(self) -> tuple[TableRow, ...]:
        """Rows that are held to a baseline."""
        return tuple(row for row in self.rows if row.baseline is not None)

    @property
    def differing(self) -> list[int]:
        """Columns of the measures that any row and its baseline have both, without real baselines that both share."""
        columns = zip(*(row.differences for row in self.held), strict=True)
        return [number for number, found in enumerate(columns) if any(one and one.says_something for one in found)]

    @property
    def several_baselines(self) -> bool:
        """Whether rows are held to different lines."""
        return len({row.baseline.label for row in self.rows if row.baseline is not None}) > 1


def _best(rows: Sequence[TableRow], measures: Sequence[Measure]) -> frozenset[tuple[int, int]]:
    """Mark the best of the pruned at each ratio that several have, over all ratios where none has.

    What was sampled or measured differently is no rival. The best is told apart from each of its rivals; where it is
    not from one of them, none is marked.
    """
    pruned = [number for number, row in enumerate(rows) if not row.line.is_unpruned]
    ratios = [ratio_text(rows[number].cell.ratio) for number in pruned]
    found = set()
    for column, measure in enumerate(measures):
        groups: dict[Hashable, list[tuple[float, int]]] = {}
        for number, ratio in zip(pruned, ratios, strict=True):
            estimate = rows[number].estimates[column]
            if estimate is not None and measure.better:
                sign = 1 if measure.better == "lower" else -1
                rivals = rows[number].line.conditions, ratio
                groups.setdefault(rivals, []).append((sign * estimate.mean, number))
        for values in groups.values():
            _, winner = min(values)
            others = [rows[number].cell for _, number in values if number != winner]
            if others and all(_are_apart(rows[winner].cell, other, measure.key) for other in others):
                found.add((winner, column))
    return frozenset(found)


def _are_apart(ours: Cell, theirs: Cell, key: str) -> bool:
    difference = cell_difference(ours, theirs, key)
    return difference is not None and difference.told_apart


def number_text(value: float, half: float | None = None) -> str:
    """Write a number: with the decimals of half its interval, without one with four digits, whole ones as they are."""
    if half and (decimals := _decimals(half)) < _MOST_DECIMALS:
        return f"{value:,.{decimals}f}"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    decimals = 3 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}" if -5 < decimals < _MOST_DECIMALS else f"{value:.3e}"


def half_text(half: float) -> str:
    """Write half of an interval with two digits that count."""
    decimals, rounded = _decimals(half), float(f"{half:.2g}")
    return f"{rounded if decimals else half:,.{decimals}f}" if decimals < _MOST_DECIMALS else f"{half:.1e}"


def _decimals(half: float) -> int:
    return max(0, 1 - math.floor(math.log10(float(f"{half:.2g}"))))


def csv_table(tables: Sequence[Table]) -> str:
    """Write all tables of a kind as one CSV, a row for each cell, every digit kept."""
    measures = list(dict.fromkeys(m for table in tables for m in table.measures))
    names = [f"{m.key}{name}" for m in measures for name in ("", *(f"_{n}" for n in _OF_MEANS + _OF_DIFFERENCES))]
    lines: list[list[object]] = []
    for table in tables:
        for row in table.rows:
            first = row.cell.points[0].subset
            reference = row.count("reference" if row.count("train") is None else "train")
            line: list[object] = [table.comparison.title, row.line.label, first.method, first.order]
            line += [row.cell.ratio, len(row.cell.samplings), sum(row.cell.samplings)]
            trained_on = row.cell.trained_on
            line += [notes.seeds_text(row.cell) or None, trained_on.pop() if len(trained_on) == 1 else None]
            line += [row.count("generated"), reference]
            line.append(row.baseline and row.baseline.label)
            known = dict(zip(table.measures, row.columns(), strict=True))
            for measure in measures:
                line += known.get(measure, [None] * (1 + len(_OF_MEANS + _OF_DIFFERENCES)))
            lines.append(line)
    heads = ("measurement", "line", "method", "order", "pruned", "trainings", "samplings", "drawn_anew", "trained_on")
    return csv_text((*heads, "generated", "reference", "baseline", *names), lines)


def _of_mean(estimate: CellMean | None) -> list[object]:
    if estimate is None:
        return [None] * (1 + len(_OF_MEANS))
    over = (estimate.over, estimate.units) if estimate.error is not None else (None, None)
    return [estimate.mean, estimate.error, estimate.half_width, *over]


def _of_difference(difference: Difference | None) -> list[object]:
    if difference is None:
        return [None] * len(_OF_DIFFERENCES)
    apart = None if difference.half_width is None else "yes" if difference.told_apart else "no"
    return [difference.value, difference.error, difference.half_width, apart, difference.kind or None]


def csv_text(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Write CSV; None is empty, and text is kept from being run by spreadsheets, whatever somebody named a method."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    # The writer leaves None empty, and writes every digit of a number.
    writer.writerows([spreadsheet(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return out.getvalue()
