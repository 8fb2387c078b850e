"""The few metrics that a report shows on top, as papers on pruning state them; all others are folded below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dprune.metrics.catalogue import MEMORIZATION, QUALITY, Measure
from dprune.reporting.study.grouping import Comparison
from dprune.reporting.tables import Table

HEADLINES = ("frechet_distance", "f_score", "vendi")
"""Metrics of quality, by their keys."""
# The first of them that any result has.
_MEMORIZATION = ("nearest_distance_ratio", "nearest_distance_mean")
_MOST = 3


def headline_tables(comparisons: Mapping[str, Sequence[Comparison]]) -> list[tuple[Table, ...]]:
    """Return tables of the chosen metrics, those that are read side by side together; those of other backbones last.

    Quality and memorization of the same lines are one where each was measured in one way alone, other backbones aside.
    """
    made = [[Table.of(c, _chosen(c, kind)) for c in of_kind] for kind, of_kind in comparisons.items()]
    found = [[table for table in tables if table.measures] for tables in made]
    first = [table for tables in found for table in tables if not table.comparison.is_beside]
    others = [(table,) for tables in found for table in tables if table.comparison.is_beside]
    if len(first) == len(found) == 2 and all(found) and _are_alike(*first):
        return [tuple(first), *others]
    return [*((table,) for table in first), *others]


def _chosen(comparison: Comparison, kind: str) -> tuple[Measure, ...]:
    """Choose metrics of a comparison that have any number; of results without the usual ones, the first of theirs."""
    every = QUALITY if kind == "metrics" else MEMORIZATION
    cells = [cell for _, cell in comparison.cells()]
    known = [measure for measure in every if any(cell.estimate(measure.key) is not None for cell in cells)]
    usual = [m for m in known if m.key in (HEADLINES if kind == "metrics" else _MEMORIZATION)]
    if kind == "metrics":
        return tuple(usual or known[:_MOST])
    return tuple(sorted(usual, key=lambda m: _MEMORIZATION.index(m.key))[:1] or known[:1])


def _are_alike(one: Table, other: Table) -> bool:
    """Tell whether the lines of one table are among those of the other, so that they make rows together."""
    ours, theirs = ({row.line.label for row in table.rows} for table in (one, other))
    return ours <= theirs or theirs <= ours
