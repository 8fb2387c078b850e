"""Which point of a table is ahead in a metric, from which others it cannot be told apart, and how the baseline does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dprune.metrics.catalogue import Measure
from dprune.metrics.differences import Difference
from dprune.reporting.headlines import HEADLINES
from dprune.reporting.study.differences import cell_difference
from dprune.reporting.study.estimates import CellMean
from dprune.reporting.study.grouping import cell_title, ratio_text
from dprune.reporting.study.labels import Labeller
from dprune.reporting.study.views import grouped
from dprune.reporting.study.wording import is_model, phrase
from dprune.reporting.tables import Table, TableRow

# Metrics of a table that has none of those on top.
_MOST = 3


@dataclass(frozen=True)
class Verdict:
    """What a table says of one metric, among points that were sampled alike.

    Attributes:
        measure: the metric.
        group: what sets these points apart from others of the table, empty where all were sampled alike.
        leader: the row with the best mean of all that were pruned.
        rivals: the others that have the metric, best first.
        tied: those of them that the leader is not told apart from.
        column: of the metric in the table.
        winners: rows that are the best at their pruning ratio, told apart from every other there.
    """

    measure: Measure
    group: str
    leader: TableRow
    rivals: tuple[TableRow, ...]
    tied: tuple[TableRow, ...]
    column: int
    winners: tuple[TableRow, ...]

    @property
    def estimate(self) -> CellMean:
        """The leader's value."""
        return self.value(self.leader)

    def value(self, row: TableRow) -> CellMean:
        """Return the value of a row that has the metric."""
        found = row.estimates[self.column]
        assert found is not None
        return found

    @property
    def difference(self) -> Difference | None:
        """How far the leader is from its baseline, None without one."""
        return self._difference(self.leader)

    @property
    def held_to(self) -> CellMean | None:
        """The baseline's value, None without one."""
        baseline = self.leader.baseline
        return baseline.cells[0].estimate(self.measure.key) if baseline is not None else None

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Every comparison with a baseline that has an error."""
        found = map(self._difference, (self.leader, *self.rivals))
        return tuple(one for one in found if one is not None and one.half_width is not None)

    @property
    def better(self) -> int:
        """How many points are told apart from their baseline to the better side."""
        sign = -1 if self.measure.better == "lower" else 1
        return sum(one.told_apart and sign * one.value > 0 for one in self.differences)

    @property
    def worse(self) -> int:
        """How many are to the worse side."""
        return sum(one.told_apart for one in self.differences) - self.better

    def _difference(self, row: TableRow) -> Difference | None:
        return row.differences[self.column] if row.differences else None


def verdicts(table: Table) -> list[Verdict]:
    """Judge the metrics of a table that a report shows on top, or its first ones where it has none of these.

    Points that were sampled or measured differently are no rivals: each group of those that were not is judged by
    itself.
    """
    pruned = [row for row in table.rows if not row.line.is_unpruned]
    groups = grouped(pruned, lambda row: row.line.conditions)
    names = _names_of(groups)
    found = []
    for column in _columns(table):
        for name, rows in zip(names, groups, strict=True):
            known = [row for row in rows if row.estimates[column] is not None]
            if known:
                found.append(_verdict(table, column, name, known))
    return found


def _names_of(groups: Sequence[Sequence[TableRow]]) -> list[str]:
    """Name groups by how they were sampled, after the kinds of models in them where these differ, too."""
    naming = Labeller([dict(rows[0].line.conditions) for rows in groups])
    kinds = [", ".join(sorted({_kind(row) for row in rows} - {""})) for rows in groups]
    shown = kinds if len(set(kinds)) > 1 else [""] * len(groups)
    conditions = [naming.name(dict(rows[0].line.conditions)) for rows in groups]
    return [", ".join(filter(None, both)) for both in zip(shown, conditions, strict=True)]


def _kind(row: TableRow) -> str:
    made = row.line.points[0].experiment.items()
    return next((phrase(factor, value) for factor, value in made if is_model(factor)), "")


def _columns(table: Table) -> list[int]:
    """Return the columns that are judged, of metrics with a better end."""
    judged = [number for number, measure in enumerate(table.measures) if measure.better]
    known = [number for number in judged if any(row.estimates[number] for row in table.rows)]
    return [number for number in known if table.measures[number].key in HEADLINES] or known[:_MOST]


def _verdict(table: Table, column: int, group: str, rows: list[TableRow]) -> Verdict:
    measure = table.measures[column]
    sign = 1 if measure.better == "lower" else -1

    def rank(row: TableRow) -> float:
        estimate = row.estimates[column]
        assert estimate is not None
        return sign * estimate.mean

    leader, *rivals = sorted(rows, key=rank)
    tied = [row for row in rivals if not _is_apart(leader, row, measure.key)]
    best = [table.rows[number] for number, best_column in sorted(table.best) if best_column == column]
    winners = [row for row in rows if row in best]
    return Verdict(measure, group, leader, tuple(rivals), tuple(tied), column, tuple(winners))


def _is_apart(one: TableRow, other: TableRow, key: str) -> bool:
    difference = cell_difference(one.cell, other.cell, key)
    return difference is not None and difference.told_apart


def title_of(row: TableRow) -> str:
    """Name a point, as in `nearest, pruned 0.75`."""
    return cell_title(row.line, row.cell)


def ratio_of(row: TableRow) -> str:
    """Write the pruning ratio of a point."""
    return ratio_text(row.cell.ratio)
