"""How much lower losses of training samples are than those of held-out ones, by noise level: charts and a table."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dprune.charts.curves import ratio_curves
from dprune.charts.figure import Figure
from dprune.charts.lines import Estimated
from dprune.formats.provenance import Record, parent_record, parents_of
from dprune.formats.readable import presentable
from dprune.formats.results import Result, checked_numbers, damaged
from dprune.metrics.catalogue import LOSS_GAP, LOSS_GAP_AT
from dprune.reporting.cell_texts import value_text
from dprune.reporting.conclusions import Statement
from dprune.reporting.curves import Colours
from dprune.reporting.markup import markdown
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.study.experiments import LOSSES, Choice, Point, point_of_losses
from dprune.reporting.study.grouping import (
    Cell,
    Comparison,
    Line,
    called_alike,
    cell_ratio,
    cell_title,
    compare,
    ratio_title,
)
from dprune.reporting.tables import csv_text
from dprune.reporting.word_tables import WordTable, markdown_word_table

CAPTION = "Loss gap by noise level, in percent of the training loss"
NOTE = (
    "How much larger the diffusion loss of held-out samples is than that of training samples: above 0, a model has "
    "learnt its training samples better than others, which shows at middle noise first. In brackets, ± is over the "
    "samples of one training; without brackets, it is over trainings. Where a training set was chosen by scores, its "
    "samples differ from the held-out ones, and the gap shows that, too."
)
_COLUMNS = ("training", "held_out", "gap", "relative")


def is_of_losses(result: Result) -> bool:
    """Tell whether a result is of losses, so that it is no point of the study."""
    return LOSSES in parents_of(result.record)


def points_of_losses(results: Iterable[Result], baselines: Collection[Choice] = ()) -> tuple[Point, ...]:
    """Place results of losses, sorted by digest."""
    return tuple(sorted((point_of_losses(result, baselines) for result in results), key=lambda point: point.mark))


@dataclass(frozen=True)
class LossGaps:
    """All results of losses.

    Attributes:
        comparisons: lines that were scored alike.
    """

    comparisons: tuple[Comparison, ...]

    @classmethod
    def of(cls, points: Sequence[Point], known: Sequence[Comparison]) -> LossGaps:
        """Put together what is of the same line.

        Args:
            points: of results of losses.
            known: results of other metrics, whose lines are called alike.
        """
        return cls(tuple(called_alike(comparison, known) for comparison in compare(points)))

    def cells(self) -> Iterator[tuple[Line, Cell]]:
        """Yield every cell with its line."""
        for comparison in self.comparisons:
            yield from comparison.cells()

    @functools.cached_property
    def results(self) -> list[tuple[Line, Cell, Result]]:
        """Every result with its place."""
        return [(line, cell, p.result) for line, cell in self.cells() for p in cell.points if p.result is not None]

    @functools.cached_property
    def sigmas(self) -> list[float]:
        """Noise levels at which any result is."""
        return sorted({sigma for _, _, result in self.results for sigma in _sigmas(result)})

    @functools.cached_property
    def table(self) -> WordTable:
        """A row for each cell, grouped by how much was pruned."""
        heads = ("Line", *(f"at {sigma:g}" for sigma in self.sigmas), "Largest")
        keys = [*map(LOSS_GAP_AT.format, self.sigmas), LOSS_GAP.key]
        rows = [
            (cell_ratio(line, cell), (line.label, *(_text(cell.estimate(key)) for key in keys)))
            for line, cell in self.cells()
        ]
        return WordTable(CAPTION, heads, tuple(sorted(rows, key=lambda row: row[0])))

    @property
    def statement(self) -> Statement:
        """Where the largest gap is."""
        known = [(cell_title(line, cell), cell.estimate(LOSS_GAP.key), cell) for line, cell in self.cells()]
        found = [(title, estimate, cell) for title, estimate, cell in known if estimate is not None]
        if not found:
            return Statement("Loss gap", ("no result has one.",))
        title, estimate, cell = max(found, key=lambda row: row[1].mean)
        at = max(self.sigmas, key=lambda sigma: _mean(cell.estimate(LOSS_GAP_AT.format(sigma))))
        return Statement("Loss gap", (
            f"largest for {title}, where held-out samples have a loss {value_text(estimate)} percent above that of "
            f"training samples, at the noise level {at:g}.",
        ))  # fmt: skip

    def figures(self, colours: Colours) -> list[Figure]:
        """Draw a chart for each ratio, with the curves of all lines and of the unpruned."""
        return [figure for comparison in self.comparisons for figure in self._charts(comparison, colours)]

    def _charts(self, comparison: Comparison, colours: Colours) -> Iterator[Figure]:
        lines = [*comparison.unpruned, *comparison.pruned]
        ratios = {cell_ratio(line, cell): None for line, cell in comparison.cells() if not line.is_unpruned}
        for ratio in sorted(ratios) or ["0"]:
            points = [
                point
                for line, cell in comparison.cells()
                if line.is_unpruned or cell_ratio(line, cell) == ratio
                for point in self._points(lines.index(line), cell)
            ]
            if points:
                title = f"Loss gap in %, {ratio_title(ratio)}"
                styles = colours.styles(comparison)
                yield ratio_curves(title, _said(title, styles, points), styles, points, [], 0.0, over="noise level")

    def _points(self, number: int, cell: Cell) -> Iterator[Estimated]:
        for sigma in self.sigmas:
            if (found := cell.estimate(LOSS_GAP_AT.format(sigma))) is not None:
                said = f"noise level {sigma:g}\n{value_text(found)}"
                yield Estimated(number, sigma, found.mean, found.half_width, not found.over_trainings, said)

    def markdown(self) -> str:
        """Write the table and what it means."""
        return f"{markdown_word_table(self.table)}\n{markdown(NOTE)}\n"

    def csv(self) -> str:
        """Write a row for each result and noise level, every digit kept."""
        names = [name for column in _COLUMNS for name in (column, f"{column}_se")]
        rows = []
        for line, cell, result in self.results:
            columns = _columns(result)
            rows += [
                (line.label, cell_ratio(line, cell), *values)
                for values in zip(columns["sigma"], *(columns[name] for name in names), strict=True)
            ]
        return csv_text(("line", "pruned", "sigma", *names), rows)


def parents_of_losses(points: Iterable[Point]) -> list[Record]:
    """Describe results of losses as inputs of the report."""
    return [parent_record(point.result.record, point.mark) for point in points if point.result]


def _sigmas(result: Result) -> list[float]:
    table = result.details.get("loss_gap")
    return checked_numbers(table.get("sigma") if isinstance(table, dict) else None, result.name, "losses")


def _columns(result: Result) -> dict[str, list[float | None]]:
    """Read the numbers of a result by noise level, which anyone may have written."""
    sigmas, fields = _sigmas(result), result.details["loss_gap"]
    found: dict[str, list[float | None]] = {"sigma": list(sigmas)}
    for name in (name for column in _COLUMNS for name in (column, f"{column}_se")):
        values = fields.get(name)
        if not isinstance(values, list) or len(values) != len(sigmas):
            raise damaged(result.name, "losses")
        # An error of one sample, and a percentage of nothing, is null.
        checked_numbers([value for value in values if value is not None], result.name, "losses")
        found[name] = values
    return found


def _mean(estimate: CellMean | None) -> float:
    return float("-inf") if estimate is None else estimate.mean


def _text(estimate: CellMean | None) -> str:
    return "" if estimate is None else value_text(estimate)


def _said(title: str, styles: Sequence[object], points: Sequence[Estimated]) -> str:
    spread = f"{min(point.mean for point in points):.3g} to {max(point.mean for point in points):.3g} percent"
    return presentable(f"{title}, by noise level: {spread}; the table says the numbers of {len(styles)} lines.")
