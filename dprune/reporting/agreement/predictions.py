"""How well the mean score of what was kept predicts what came out, over the lines of one pruning ratio."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dprune.charts.correlation import correlation_marks
from dprune.charts.figure import Figure
from dprune.charts.lines import Estimated
from dprune.formats.readable import presentable
from dprune.metrics.agreement import FEWEST, Association, associate
from dprune.metrics.catalogue import Measure
from dprune.reporting.agreement.kept_sets import KeptSets
from dprune.reporting.agreement.matrices import share_text
from dprune.reporting.cell_texts import value_text
from dprune.reporting.curves import Colours
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.study.grouping import Comparison, Line, ratio_text
from dprune.reporting.study.labels import Labeller
from dprune.reporting.study.views import grouped
from dprune.reporting.tables import Table, TableRow

ABOUT = "mean score of what is kept, in standard deviations"


@dataclass(frozen=True)
class LineMean:
    """A line at a ratio.

    Attributes:
        line: of results.
        mean: of the score over what it kept, in standard deviations of the score.
        estimate: the metric.
    """

    line: Line
    mean: float
    estimate: CellMean


@dataclass(frozen=True)
class Prediction:
    """A score, a metric and a pruning ratio.

    Attributes:
        comparison: that the lines are of.
        measurement: what sets its lines and how they were measured apart from others, empty where nothing does.
        ratio: share that was pruned, as it is written.
        score: its name.
        measure: the metric.
        places: of the lines that have both.
        lacking: lines that have the metric, but no subset of which the mean is known.
    """

    comparison: Comparison
    measurement: str
    ratio: str
    score: str
    measure: Measure
    places: tuple[LineMean, ...]
    lacking: tuple[str, ...]

    @functools.cached_property
    def association(self) -> Association | None:
        """Their correlations, None for too few lines."""
        return associate([place.mean for place in self.places], [place.estimate.mean for place in self.places])

    @property
    def spearman_text(self) -> str:
        """Rank correlation with its p, empty without one."""
        return "" if self.association is None else _with_p(self.association.spearman, self.association.spearman_p)

    @property
    def pearson_text(self) -> str:
        """Linear correlation with its p, empty without one."""
        return "" if self.association is None else _with_p(self.association.pearson, self.association.pearson_p)

    def figure(self, colours: Colours) -> Figure:
        """Draw the lines as marks."""
        comparison = self.comparison
        lines = (*comparison.unpruned, *comparison.pruned)
        places = [(p.mean, _estimated(lines.index(p.line), p.estimate, f"mean {p.mean:+.2f}")) for p in self.places]
        levels = [_estimated(number, estimate, "") for number, line in enumerate(comparison.unpruned)
                  if (estimate := line.cells[0].estimate(self.measure.key)) is not None]  # fmt: skip
        title = presentable(f"{self.score}, pruned {self.ratio}")
        told = "; ".join(f"{p.line.label}: {p.mean:+.2f}, {value_text(p.estimate)}" for p in self.places)
        said = presentable(
            f"{self.measure.name} over the mean {self.score} of what is kept, pruned {self.ratio}. {told}."
        )
        found = f", rank correlation {self.spearman_text}" if self.spearman_text else ""
        return correlation_marks(
            title, said, colours.styles(comparison), places, levels, ABOUT, f"{self.measure.name}{found}"
        )


def _with_p(value: float, p: float) -> str:
    return f"{share_text(value)} (p = {p:.2g})"


def _estimated(number: int, estimate: CellMean, said: str) -> Estimated:
    told = "\n".join(filter(None, (said, value_text(estimate))))
    return Estimated(number, 0.0, estimate.mean, estimate.half_width, not estimate.over_trainings, presentable(told))


def predictions(tables: Sequence[Table], scores: Sequence[str], kept: KeptSets) -> list[Prediction]:
    """Put means and metrics of lines together; only lines trained, sampled and measured alike are held together.

    Args:
        tables: whose metrics are predicted.
        scores: their names.
        kept: subsets of the lines.
    """
    titles = {table.comparison.title for table in tables if not table.comparison.is_beside} - {""}
    # Beside others, the first backbone goes without saying.
    is_plain = len(titles) == 1 and any(table.comparison.is_beside for table in tables)
    return [
        prediction
        for table in tables
        for measurement, ratio, rows in _groups(table, is_plain=is_plain)
        for column, measure in enumerate(table.measures)
        for number, name in enumerate(scores)
        if (prediction := _prediction(table, rows, measurement, ratio, (column, measure), (number, name), kept)).places
    ]


def _groups(table: Table, *, is_plain: bool) -> Iterator[tuple[str, str, list[TableRow]]]:
    """Yield the pruned rows of each ratio, and of each way of training models on them and sampling these.

    Where one way has enough for a correlation at any ratio, others that have at none are left out.
    """
    pruned = [row for row in table.rows if not row.line.is_unpruned]
    alike = grouped(pruned, lambda row: row.line.making)
    alike = [rows for rows in alike if any(len(some) >= FEWEST for some in _by_ratio(rows))] or alike
    naming = Labeller([dict(rows[0].line.making) for rows in alike])
    for rows in alike:
        title = "" if is_plain and not table.comparison.is_beside else table.comparison.title
        told = (title, naming.name(dict(rows[0].line.making)))
        for some in _by_ratio(rows):
            yield ", ".join(filter(None, told)), ratio_text(some[0].cell.ratio), some


def _by_ratio(rows: Sequence[TableRow]) -> list[list[TableRow]]:
    return grouped(rows, lambda row: ratio_text(row.cell.ratio))


def _prediction(
    table: Table,
    rows: Sequence[TableRow],
    measurement: str,
    ratio: str,
    metric: tuple[int, Measure],
    score: tuple[int, str],
    kept: KeptSets,
) -> Prediction:
    known = [(row, kept.mean(row.cell, score[0]), row.estimates[metric[0]]) for row in rows]
    places = [LineMean(row.line, mean, e) for row, mean, e in known if mean is not None and e is not None]
    lacking = [row.line.label for row, mean, e in known if mean is None and e is not None]
    return Prediction(table.comparison, measurement, ratio, score[1], metric[1], tuple(places), tuple(lacking))
