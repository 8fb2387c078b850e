"""Points put in order: those that were measured alike to views, and of a view those of one method to lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dprune.formats.provenance import is_generator
from dprune.reporting.study.experiments import Point
from dprune.reporting.study.factors import ANY, COUNT, EPOCHS, GENERATED, OWN, Factor, Factors, agree

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class View:
    """Points that were measured alike.

    Attributes:
        measure: how they were measured.
        lines: points of each line, which share its key; these differ in amounts and seeds alone.
    """

    measure: Factors
    lines: tuple[tuple[Point, ...], ...]

    @property
    def points(self) -> list[Point]:
        """All points."""
        return [point for line in self.lines for point in line]

    def experiment(self, point: Point) -> Factors:
        """Return how samples were made; where there is no subset, nothing can be of it, nor its epochs be unequal."""
        if point.subset.pruned:
            return point.experiment
        own = {factor for line in self.lines for factor in line[0].experiment if factor.name in (OWN, EPOCHS)}
        return point.experiment | dict.fromkeys(own, ANY)


def line_key(point: Point) -> Hashable:
    """Return what all points of a line share and no others have."""
    subset = point.subset
    return subset.method, subset.order, *(frozenset(f.items()) for f in (point.experiment, point.selection))


def is_of_measuring(factor: Factor) -> bool:
    """Tell whether a factor is of how samples of a model were made and measured, not of the model."""
    return factor.path[:1] == (GENERATED,) and (factor.name == COUNT or factor.command in ("sample", "embed"))


def views(points: Iterable[Point]) -> list[View]:
    """Group points of one kind by how they were measured, and those by how their models and subsets were made.

    The order of points makes no difference.
    """
    found = _by_measure(sorted(points, key=lambda point: point.mark))
    return [View(measure, tuple(map(tuple, grouped(some, line_key)))) for measure, some in found]


def _by_measure(points: Sequence[Point]) -> list[tuple[Factors, list[Point]]]:
    """Group points by how they were measured."""
    contradicted = _contradicted(points)

    def measured(point: Point, measure: Factors) -> Factors:
        return measure | {f: v for f, v in point.optional.items() if f in contradicted}

    def fits(point: Point, key: Factors) -> bool:
        if point.subset.given:
            return key in (measured(point, point.measure), measured(point, point.open_measure))
        # Without a subset, measuring against the training subset and against everything are the same.
        return agree(_regardless(key), _regardless(measured(point, point.measure)))

    pruned = [point for point in points if point.subset.given and point.subset.pruned]
    by_measure = grouped(pruned, lambda point: frozenset(measured(point, point.measure).items()))
    found = [(measured(view[0], view[0].measure), view) for view in by_measure]
    # What pruned nothing joins all that was measured as it was; first where it names a subset.
    others = [point for point in points if not (point.subset.given and point.subset.pruned)]
    for point in sorted(others, key=lambda point: not point.subset.given):
        fitting = [view for key, view in found if fits(point, key)]
        if not fitting:
            fitting = [[]]
            found.append((measured(point, point.measure), fitting[0]))
        for view in fitting:
            view.append(point)
    return found


def _contradicted(points: Sequence[Point]) -> set[Factor]:
    """Return the options of single metrics of which results have different values, not only one or none."""
    values = defaultdict(set)
    for point in points:
        for factor, value in point.optional.items():
            values[factor].add(value)
    return {factor for factor, known in values.items() if len(known - {ANY}) > 1}


def _regardless(measured: Factors) -> Factors:
    return {f: v for f, v in measured.items() if f.name not in (OWN, "full")}


def grouped(items: Iterable[_Item], key: Callable[[_Item], Hashable]) -> list[list[_Item]]:
    """Put items of equal keys together, in the order in which they come."""
    found: dict[Hashable, list[_Item]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return list(found.values())


def is_steps(factor: Factor) -> bool:
    """Tell whether a factor is how long the model was trained."""
    return factor.name == "steps" and factor.path[-1:] == ("model",) and is_generator(factor.command)
