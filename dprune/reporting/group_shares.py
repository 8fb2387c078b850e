"""What share each cluster or class has: of generated samples by line, and of the training set that each line had."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from dprune.formats.provenance import parents_of
from dprune.formats.results import Result, checked_numbers, damaged
from dprune.metrics.differences import finite_number
from dprune.reporting.study.estimates import CellMean, nested_means
from dprune.reporting.study.factors import GENERATED
from dprune.reporting.study.grouping import Cell, Comparison, Line
from dprune.reporting.study.trainings import Training
from dprune.reporting.tables import csv_text

GROUPS = {"cluster": "clusters", "class": "classes"}
MOST_IN_ORDER = 80
"""Classes that stand in the order of their labels; more of them, and clusters, by their size."""

_SHARES = "shares"
_HEADS = ("measurement", "line", "pruned", "of", "group", "generated", "reference", "training", "se", "half_width",
          "over", "units", "images")  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """The shares that one result holds, by group.

    Attributes:
        names: of the groups.
        generated: shares of the generated samples.
        errors: their standard errors, None where nothing tells.
        reference: shares of the reference.
        training: shares of the training set, None where it is not known.
        count: generated samples that are in a group, None where nothing tells.
    """

    names: tuple[str, ...]
    generated: list[float]
    errors: list[float | None]
    reference: list[float]
    training: list[float] | None
    count: int | None

    @property
    def numbers(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Generated shares and their errors, NaN where nothing tells."""
        return np.array(self.generated), np.array(self.errors, dtype=np.float64)

    @classmethod
    def of(cls, result: Result, kind: str) -> _Found | None:
        """Read the details of a result, None where it has none.

        Raises:
            InputError: they are damaged.
        """
        shares = result.details.get("shares")
        table = shares.get(kind) if isinstance(shares, dict) else None
        if not isinstance(table, dict):
            return None
        ours, theirs = (checked_numbers(table.get(role), result.name, _SHARES) for role in ("generated", "reference"))
        trained = None if table.get("training") is None else checked_numbers(table["training"], result.name, _SHARES)
        names = tuple(str(name) for name in table.get("names") or range(len(ours)))
        errors = table.get("generated_se")
        known = errors if isinstance(errors, list) else [None] * len(ours)
        if not ours or {*map(len, (ours, theirs, known, trained or ours))} != {len(names)}:
            raise damaged(result.name, _SHARES)
        return cls(names, ours, [finite_number(error) for error in known], theirs, trained, _count(result, table))


@dataclass(frozen=True)
class ShareColumn:
    """The shares of one line at one pruning ratio.

    Attributes:
        generated: share of each group, over trainings.
        reference: share of each in the reference.
        training: share of each in the training set, mean over those of the trainings; None where one is not known.
        images: generated samples of a sampling that are in a group, None where nothing tells.
    """

    line: Line
    cell: Cell
    generated: tuple[CellMean, ...]
    reference: tuple[float, ...]
    training: tuple[float, ...] | None
    images: float | None


@dataclass(frozen=True)
class ShareTable:
    """Lines whose groups are the same.

    Attributes:
        comparison: that the lines are of.
        kind: `cluster` or `class`.
        names: of the groups.
        columns: unpruned lines first.
    """

    comparison: Comparison
    kind: str
    names: tuple[str, ...]
    columns: tuple[ShareColumn, ...]

    @property
    def reference(self) -> tuple[float, ...] | None:
        """Shares of the reference, None where columns have others."""
        found = {column.reference for column in self.columns}
        return found.pop() if len(found) == 1 else None

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """Places of the groups: few classes by their labels, other groups by how much of the first column is theirs."""
        places = range(len(self.names))
        if self.kind == "class" and len(places) <= MOST_IN_ORDER:
            return tuple(places)
        first = self.columns[0]
        return tuple(sorted(places, key=lambda place: -(first.training or first.reference)[place]))


def share_tables(comparison: Comparison, kind: str) -> list[ShareTable]:
    """Put the shares of a comparison together, by the groups that they are of.

    Clusters of two clusterings are not the same groups, whatever their numbers, and are never averaged.

    Raises:
        InputError: details of a result are damaged.
    """
    columns: dict[Hashable, list[ShareColumn]] = defaultdict(list)
    names: dict[Hashable, tuple[str, ...]] = {}
    for line, cell in comparison.cells():
        for key, found in _by_groups(cell, kind).items():
            names[key] = next(iter(next(iter(found.values())))).names
            columns[key].append(_column(line, cell, found))
    return [ShareTable(comparison, kind, names[key], tuple(some)) for key, some in columns.items()]


def _by_groups(cell: Cell, kind: str) -> dict[Hashable, dict[Training, list[_Found]]]:
    """Return the shares of each set of generated samples, by what the groups are and by training."""
    found: dict[Hashable, dict[Training, list[_Found]]] = defaultdict(dict)
    for training, samplings in cell.nested.items():
        for points in samplings.values():
            results = [point.result for point in points if point.result is not None]
            known: dict[Hashable, _Found] = {}
            for result in results:
                if (shares := _Found.of(result, kind)) is not None:
                    # The same samples measured twice are no second sampling.
                    known.setdefault((shares.names, _grouping(result, kind)), shares)
            for key, shares in known.items():
                found[key].setdefault(training, []).append(shares)
    return found


def _grouping(result: Result, kind: str) -> object:
    """Return what tells the groups of one result from groups of the same names."""
    return parents_of(result.record).get("clusters", {}).get("digest") if kind == "cluster" else None


def _column(line: Line, cell: Cell, found: Mapping[Training, Sequence[_Found]]) -> ShareColumn:
    every = [shares for samplings in found.values() for shares in samplings]
    places = range(len(every[0].names))
    means = nested_means({training: [shares.numbers for shares in some] for training, some in found.items()})
    trained = [shares.training for shares in every if shares.training is not None]
    training = tuple(fmean(some[place] for some in trained) for place in places) if len(trained) == len(every) else None
    reference = tuple(fmean(shares.reference[place] for shares in every) for place in places)
    counts = [shares.count for shares in every if shares.count is not None]
    return ShareColumn(line, cell, tuple(means), reference, training, fmean(counts) if counts else None)


def shares_csv(comparisons: Sequence[Comparison]) -> str:
    """Write all shares, a row for each cluster or class of each line and ratio; empty where there are none."""
    lines = [row for comparison in comparisons for kind in GROUPS for row in _csv_rows(comparison, kind)]
    return csv_text(_HEADS, lines) if lines else ""


def _csv_rows(comparison: Comparison, kind: str) -> Iterator[list[object]]:
    for table in share_tables(comparison, kind):
        for column in table.columns:
            for place, (name, mean) in enumerate(zip(table.names, column.generated, strict=True)):
                over = (mean.over, mean.units) if mean.error is not None else (None, None)
                images = None if column.images is None else mean.mean * column.images
                trained = None if column.training is None else column.training[place]
                yield [comparison.title, column.line.label, column.cell.ratio, kind, name, mean.mean,
                       column.reference[place], trained, mean.error, mean.half_width, *over, images]  # fmt: skip


def _count(result: Result, table: Mapping[str, Any]) -> int | None:
    count = next((side.get("count") for side in result.inputs if side.get("role") == GENERATED), None)
    unlabelled = table.get("unlabelled", 0)
    return count - unlabelled if isinstance(count, int) and isinstance(unlabelled, int) else None
