"""Points put together: seeds to cells, cells to lines over the pruning ratio, lines to comparisons."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from statistics import fmean
from typing import Any

from dprune.metrics.differences import Sampling, measured
from dprune.reporting.estimates import CellMean, nested_mean
from dprune.reporting.experiments import GENERATED, NAMED, Point
from dprune.reporting.factors import ANY, COUNT, OWN, Factor, Factors, agree
from dprune.reporting.labels import Labeller
from dprune.reporting.trainings import Training

MISSING = "\N{EN DASH}"
_STEPS = ("train-dit", "steps")


@dataclass(frozen=True)
class Cell:
    """Results that differ in seeds alone.

    Attributes:
        ratio: share that was pruned, mean over the results, None where nothing tells.
        points: sorted by digest.
    """

    ratio: float | None
    points: tuple[Point, ...]
    _means: dict[str, CellMean | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    @functools.cached_property
    def nested(self) -> dict[Training, dict[str, tuple[Point, ...]]]:
        """Results by training, and inside of each by the digest of the generated samples."""
        found: dict[Training, dict[str, tuple[Point, ...]]] = {}
        for point in sorted(self.points, key=lambda point: (point.training.mark, point.samples)):
            samplings = found.setdefault(point.training, {})
            samplings[point.samples] = (*samplings.get(point.samples, ()), point)
        return found

    @property
    def samplings(self) -> tuple[int, ...]:
        """Sets of generated samples of each training."""
        return tuple(map(len, self.nested.values()))

    def measured(self, key: str) -> bool:
        """Tell whether any result speaks of a metric, if only to say that it could not be computed."""
        return any(point.result is not None and key in point.result.metrics for point in self.points)

    def estimate(self, key: str) -> CellMean | None:
        """Return the mean of a metric over the trainings, None where no result has it."""
        if key not in self._means:
            known = self.known(key)
            self._means[key] = nested_mean(known) if known else None
        return self._means[key]

    def known(self, key: str) -> dict[Training, list[Sampling]]:
        """Return a metric of each set of samples, by the trainings of which any result has it."""
        found = {
            training: [one for points in samplings.values() if (one := _sampling(points, key)) is not None]
            for training, samplings in self.nested.items()
        }
        return {training: samplings for training, samplings in found.items() if samplings}

    def details(self, *names: str) -> Any:
        """Return the first of the results' details of that name, None where none has it."""
        for point in self.points:
            found: Any = point.result.details if point.result is not None else None
            for name in names:
                found = found.get(name) if isinstance(found, dict) else None
            if found:
                return found
        return None


def _sampling(points: Sequence[Point], key: str) -> Sampling | None:
    """Return a metric of one set of samples: measuring it twice makes no second one, nor the error smaller."""
    results = [point.result for point in points if point.result is not None]
    found = [one for result in results if (one := measured(result.metrics, result.details, key)) is not None]
    errors = [one.error for one in found if one.error is not None]
    if not found:
        return None
    # Its replicates are those of one measurement: blocks that others drew with another seed are no better.
    kept = next((one for one in found if one.pairs), found[0])
    return replace(kept, value=fmean(one.value for one in found), error=fmean(errors) if errors else None)


@dataclass(frozen=True)
class Line:
    """One method with one set of options over all pruning ratios.

    Attributes:
        label: method, order and what sets it apart from the other lines.
        family: the label without the order, which shares a colour.
        order: which scores were kept.
        cells: by rising ratio.
        unpruned: labels of the unpruned lines that were made alike.
    """

    label: str
    family: str
    order: str
    cells: tuple[Cell, ...]
    unpruned: tuple[str, ...] = ()

    @functools.cached_property
    def conditions(self) -> frozenset[tuple[Factor, str]]:
        """How its samples were made and measured: only lines that agree in it can be better than one another."""
        return frozenset((f, v) for f, v in self.cells[0].points[0].experiment.items() if _is_of_measuring(f))

    @property
    def is_unpruned(self) -> bool:
        """Whether nothing was pruned."""
        return not self.cells[0].points[0].subset.pruned

    @property
    def is_named(self) -> bool:
        """Whether it counts as unpruned since it was named as the baseline."""
        return NAMED in self.cells[0].points[0].selection


@dataclass(frozen=True)
class Comparison:
    """Lines that were measured alike.

    Attributes:
        title: what sets the measurement apart from others, empty for a single one.
        lines: those of the unpruned first.
        common: factors that all results share.
        apart: in what its lines were sampled or measured differently, factors with their values.
        beside: in what the comparisons of its kind were.
    """

    title: str
    lines: tuple[Line, ...]
    common: Factors
    apart: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def unpruned(self) -> tuple[Line, ...]:
        """Lines of the unpruned, each of a single cell."""
        return tuple(line for line in self.lines if line.is_unpruned)

    @property
    def pruned(self) -> tuple[Line, ...]:
        """All other lines."""
        return tuple(line for line in self.lines if not line.is_unpruned)

    def baseline(self, line: Line) -> Line | None:
        """Return the unpruned line that a line is held to, of several that which was named as the baseline."""
        alike = [other for other in self.unpruned if other.label in line.unpruned]
        return min(alike, key=lambda other: not other.is_named, default=None)

    def cells(self) -> list[tuple[Line, Cell]]:
        """Every cell with its line."""
        return [(line, cell) for line in self.lines for cell in line.cells]


def compare(points: Iterable[Point]) -> list[Comparison]:
    """Group points of one kind.

    Results that differ in how they were measured are never in one comparison, nor in one line or cell if any other
    factor differs; what is left are seeds.
    """
    views = _views(sorted(points, key=lambda point: point.mark))
    naming = Labeller([factors for factors, _ in views])
    titles = [naming.name(factors) or "default" for factors, _ in views]
    made = [_comparison(title if len(views) > 1 else "", view) for title, (_, view) in zip(titles, views, strict=True)]
    beside = tuple(naming.apart())
    return sorted((replace(c, beside=beside) for c in made), key=lambda comparison: comparison.title)


def _views(points: Sequence[Point]) -> list[tuple[Factors, list[Point]]]:
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
    by_measure = _grouped(pruned, lambda point: frozenset(measured(point, point.measure).items()))
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


def _grouped(points: Iterable[Point], key: Callable[[Point], Hashable]) -> list[list[Point]]:
    found = defaultdict(list)
    for point in points:
        found[key(point)].append(point)
    return list(found.values())


def _comparison(title: str, points: Sequence[Point]) -> Comparison:
    points = _by_epochs(points)
    groups = _grouped(points, _line_key)
    own = {factor for point in points for factor in point.experiment if factor.name == OWN}
    naming = Labeller([_experiment(group[0], own) for group in groups])
    methods = _grouped((group[0] for group in groups), lambda point: point.subset.method)
    whole = [point for point in (group[0] for group in groups) if not point.subset.pruned]
    choosing = {
        some[0].subset.method: Labeller([point.selection for point in some] + [_of_groups(some[0], w) for w in whole])
        for some in methods
    }
    lines = []
    for group in groups:
        first = group[0]
        extras = [choosing[first.subset.method].name(first.selection), naming.name(first.experiment)]
        lines.append(_line(group, ", ".join(extra for extra in extras if extra)))
    lines = _distinct(lines)
    pruned = [_with_unpruned(line, lines) for line in lines if not line.is_unpruned]
    order = sorted([line for line in lines if line.is_unpruned], key=lambda line: line.label)
    order += sorted(pruned, key=lambda line: (line.family.startswith("random"), line.family, line.label))
    return Comparison(title, tuple(order), _common(points), tuple(naming.apart(_is_of_measuring)))


def _is_of_measuring(factor: Factor) -> bool:
    """Tell whether a factor is of how samples of a model were made and measured, not of the model."""
    return factor.path[:1] == (GENERATED,) and (factor.name == COUNT or factor.command in ("sample", "embed"))


def _experiment(point: Point, own: set[Factor]) -> Factors:
    """Return how samples were made; where there is no subset, nothing can be of it."""
    return point.experiment if point.subset.pruned else point.experiment | dict.fromkeys(own, ANY)


def _of_groups(point: Point, unpruned: Point) -> Factors:
    """Return how a subset was chosen, but of the groups of an unpruned one: of fewer is not what it seems to be."""
    only = {f: v for f, v in unpruned.selection.items() if f.name == "only"}
    return {f: v for f, v in point.selection.items() if f.name != "only"} | only


def _distinct(lines: Sequence[Line]) -> list[Line]:
    """Number the lines whose labels would be the same: what sets them apart has no name."""
    seen: dict[str, int] = defaultdict(int)
    found = []
    for line in lines:
        seen[line.label] += 1
        mark = f" ({seen[line.label]})" if seen[line.label] > 1 else ""
        found.append(replace(line, label=line.label + mark, family=line.family + mark))
    return found


def _line_key(point: Point) -> Hashable:
    subset = point.subset
    return subset.method, subset.order, *(frozenset(f.items()) for f in (point.experiment, point.selection))


def _line(points: Sequence[Point], extra: str) -> Line:
    first = points[0].subset
    cells = [_cell(group) for group in _grouped(points, lambda point: point.subset.axis or point.subset.ratio)]
    cells.sort(key=lambda cell: (cell.ratio is None, cell.ratio or 0, cell.points[0].subset.axis))
    name = f"{first.method} {first.order}".strip()
    return Line(", ".join(filter(None, (name, extra))), ", ".join(filter(None, (first.method, extra))), first.order,
                tuple(cells))  # fmt: skip


def _cell(points: Sequence[Point]) -> Cell:
    ratios = [point.subset.ratio for point in points]
    known = [ratio for ratio in ratios if ratio is not None]
    mean = float(sum(known, Fraction(0)) / len(known)) if len(known) == len(ratios) else None
    return Cell(mean, tuple(sorted(points, key=lambda point: point.mark)))


def _with_unpruned(line: Line, lines: Sequence[Line]) -> Line:
    """Name the unpruned lines that were trained and sampled alike, those with the same candidates before others."""
    first = line.cells[0].points[0]
    unpruned = [(other.label, other.cells[0].points[0]) for other in lines if other.is_unpruned]
    alike = [(label, point) for label, point in unpruned if agree(first.experiment, point.experiment, first.own)]
    closest = [(label, point) for label, point in alike if agree(_candidates(first), _candidates(point))]
    return replace(line, unpruned=tuple(label for label, _ in closest or alike))


def _candidates(point: Point) -> Factors:
    """Return what narrowed the choice before it was made."""
    roles = ("without", "within")
    return {f: v for f, v in point.selection.items() if len(f.path) > 1 and f.path[1].startswith(roles)}


def _by_epochs(points: Sequence[Point]) -> list[Point]:
    """Leave out the number of steps where all trainings made as many passes over their own training sets."""
    known = [point.passes for point in points]
    steps = {passes[0] for passes in known if passes}
    if len(steps) < 2 or not all(known):
        return list(points)
    bounds = [((n - 1) * batch / size, n * batch / size) for n, batch, size in filter(None, known)]
    if max(low for low, _ in bounds) >= min(high for _, high in bounds):
        return list(points)
    return [
        replace(point, experiment={f: v for f, v in point.experiment.items() if (f.command, f.name) != _STEPS})
        for point in points
    ]


def _common(points: Sequence[Point]) -> Factors:
    tables = [point.measure | point.optional | point.experiment for point in points]
    shared = {f: v for f, v in tables[0].items() if v != ANY and all(table.get(f) == v for table in tables)}
    return dict(sorted(shared.items()))


def ratio_text(ratio: float | None) -> str:
    """Write a pruning ratio; a dash where it is not known."""
    return MISSING if ratio is None else f"{ratio:.3g}"


def cell_ratio(line: Line, cell: Cell) -> str:
    """Write the pruning ratio of a cell, 0 for the unpruned."""
    return "0" if line.is_unpruned else ratio_text(cell.ratio)


def cell_title(line: Line, cell: Cell) -> str:
    """Name a cell."""
    return line.label if line.is_unpruned else f"{line.label}, {ratio_text(cell.ratio)}"
