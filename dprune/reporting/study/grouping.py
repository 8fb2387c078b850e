"""Points put together: seeds to cells, cells to lines over the pruning ratio, lines to comparisons."""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from statistics import fmean
from typing import Any

from dprune.formats.results import KINDS
from dprune.metrics.differences import Sampling, measured
from dprune.reporting.study.epochs import by_epochs, same_epochs
from dprune.reporting.study.estimates import CellMean, nested_mean
from dprune.reporting.study.experiments import NAMED, Point
from dprune.reporting.study.factors import ANY, EPOCHS, OWN, Factor, Factors, agree
from dprune.reporting.study.labels import Labeller
from dprune.reporting.study.measurements import differences, measurements
from dprune.reporting.study.naming import Names
from dprune.reporting.study.training_sets import COMPOSING
from dprune.reporting.study.trainings import Training
from dprune.reporting.study.views import View, grouped, is_of_measuring, line_key, views

MISSING = "\N{EN DASH}"
RATIO = ", pruned "
"""What stands between a line and a ratio in the name of a point."""
_ORDERS = {"lowest": 0, "middle": 1, "highest": 2, "interval": 3}


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

    @property
    def trained_on(self) -> set[int]:
        """How many samples its models were trained on, as far as these say so."""
        return {point.passes[2] for point in self.points if point.passes is not None}

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
        label: its short name, which no other line of a report has.
        family: method and what sets it apart from others, without the order: one colour.
        order: which scores were kept.
        cells: by rising ratio.
        unpruned: labels of the unpruned lines that were made alike.
        about: all that its name leaves out, by heading.
    """

    label: str
    family: str
    order: str
    cells: tuple[Cell, ...]
    unpruned: tuple[str, ...] = ()
    about: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> Hashable:
        """What all its results share and no others have."""
        return line_key(self.cells[0].points[0])

    @property
    def points(self) -> tuple[Point, ...]:
        """All its results."""
        return tuple(point for cell in self.cells for point in cell.points)

    @property
    def description(self) -> str:
        """What the line is, in one sentence without an end."""
        return "; ".join(text for _, text in self.about if text)

    @property
    def is_baseline(self) -> bool:
        """Whether others are held to it."""
        return self.is_unpruned

    @functools.cached_property
    def conditions(self) -> frozenset[tuple[Factor, str]]:
        """How its samples were made and measured: only lines that agree in it can be better than one another."""
        return frozenset((f, v) for f, v in self.cells[0].points[0].experiment.items() if is_of_measuring(f))

    @functools.cached_property
    def making(self) -> frozenset[tuple[Factor, str]]:
        """How its models were trained and sampled, whatever they were trained on."""
        return frozenset((f, v) for f, v in self.cells[0].points[0].experiment.items() if f.name != OWN)

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
        is_beside: whether its features are of another backbone than those of the first of its kind.
    """

    title: str
    lines: tuple[Line, ...]
    common: Factors
    apart: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    is_beside: bool = False

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
        return next((other for other in self.unpruned if other.label in line.unpruned), None)

    def cells(self) -> list[tuple[Line, Cell]]:
        """Every cell with its line."""
        return [(line, cell) for line in self.lines for cell in line.cells]


def compare(points: Iterable[Point]) -> list[Comparison]:
    """Group points of one kind, see `compare_kinds`."""
    return compare_kinds({"": points})[""]


def compare_results(
    points: Sequence[Point], given: Mapping[Hashable, str] | None = None
) -> dict[str, list[Comparison]]:
    """Group the points of results by kind, as `compare_kinds` does; kinds without any are left out."""
    kinds = {kind: [point for point in points if point.result and point.result.kind == kind] for kind in KINDS}
    return compare_kinds({kind: some for kind, some in kinds.items() if some}, given)


def compare_kinds(
    kinds: Mapping[str, Iterable[Point]], given: Mapping[Hashable, str] | None = None
) -> dict[str, list[Comparison]]:
    """Group points of several kinds, a line of all being called the same.

    Results that differ in how they were measured are never in one comparison, nor in one line or cell if any other
    factor differs; what is left are seeds.

    Args:
        kinds: points by their kind.
        given: labels by the keys of lines, in place of those that would be made.
    """
    every = {kind: tuple(points) for kind, points in kinds.items()}
    # What was measured in one way tells of the epochs of the others.
    placed = iter(by_epochs([point for points in every.values() for point in points]))
    found = {kind: views(itertools.islice(placed, len(points))) for kind, points in every.items()}
    names = Names(found.values(), given)
    return {kind: _compared(some, names) for kind, some in found.items()}


def _compared(found: Sequence[View], names: Names) -> list[Comparison]:
    ordered = sorted(zip(measurements(found), found, strict=True), key=lambda pair: pair[0].place)
    beside = differences(found)
    made = [(name, _comparison(name.title, view, names, beside)) for name, view in ordered]
    return [replace(comparison, is_beside=name.backbone != made[0][0].backbone) for name, comparison in made]


def _comparison(title: str, view: View, names: Names, beside: tuple[str, ...]) -> Comparison:
    lines = [_line(points, names) for points in view.lines]
    unpruned = [line for line in lines if line.is_unpruned]
    pruned = [_with_unpruned(line, unpruned) for line in lines if not line.is_unpruned]
    ordered = [*sorted(unpruned, key=lambda line: (not line.is_named, line.label)), *sorted(pruned, key=_place)]
    apart = Labeller([view.experiment(points[0]) for points in view.lines]).apart(is_of_measuring)
    return Comparison(title, tuple(ordered), _common(view.points), tuple(apart), beside)


def _place(line: Line) -> tuple[bool, tuple[tuple[str, int], ...], int, str]:
    """Sort chance before all methods, and the orders of a method as they rise."""
    parts = re.findall(r"(\D*)(\d*)", line.family)
    family = tuple((text, int(number or 0)) for text, number in parts)
    return line.family.split(",")[0] != "random", family, _ORDERS.get(line.order, len(_ORDERS)), line.label


def _line(points: Sequence[Point], names: Names) -> Line:
    cells = [_cell(group) for group in grouped(points, lambda point: point.subset.axis or point.subset.ratio)]
    cells.sort(key=lambda cell: (cell.ratio is None, cell.ratio or 0, cell.points[0].subset.axis))
    name = names.of(points[0])
    return Line(name.label, name.family, points[0].subset.order, tuple(cells), about=name.about)


def _cell(points: Sequence[Point]) -> Cell:
    ratios = [point.subset.ratio for point in points]
    known = [ratio for ratio in ratios if ratio is not None]
    mean = float(sum(known, Fraction(0)) / len(known)) if len(known) == len(ratios) else None
    return Cell(mean, tuple(sorted(points, key=lambda point: point.mark)))


def _with_unpruned(line: Line, unpruned: Sequence[Line]) -> Line:
    """Name the unpruned lines that were trained and sampled alike.

    Those that the user named come before others, and of these, those with the same candidates.
    """
    first = line.cells[0].points[0]
    experiment = {f: v for f, v in first.experiment.items() if f.name != EPOCHS}
    # Where steps are unequal, epochs are equal.
    of_steps = len(experiment) == len(first.experiment)
    known = [(other, other.cells[0].points[0]) for other in unpruned]
    known = [(other, point) for other, point in known if of_steps or same_epochs(first, point)]
    alike = [(other, point) for other, point in known if agree(experiment, point.experiment, first.own)]
    meant = [(other, point) for other, point in alike if other.is_named] or alike
    meant = [(other, point) for other, point in meant if _composed(point) == _composed(first)] or meant
    closest = [(other, point) for other, point in meant if agree(_candidates(first), _candidates(point))]
    return replace(line, unpruned=tuple(other.label for other, _ in closest or meant))


def _composed(point: Point) -> frozenset[tuple[str, str]]:
    """Return which data set, composed of groups, a subset is of: it, or its clusters, may be made of that."""
    return frozenset((f.name, value) for f, value in point.selection.items() if f.name in COMPOSING)


def _candidates(point: Point) -> Factors:
    """Return what narrowed the choice before it was made."""
    roles = ("without", "within")
    return {f: v for f, v in point.selection.items() if len(f.path) > 1 and f.path[1].startswith(roles)}


def _common(points: Sequence[Point]) -> Factors:
    tables = [point.measure | point.optional | point.experiment for point in points]
    shared = {f: v for f, v in tables[0].items() if v != ANY and all(table.get(f) == v for table in tables)}
    return dict(sorted(shared.items()))


def called_alike(comparison: Comparison, known: Iterable[Comparison]) -> Comparison:
    """Call lines as those of the same trainings are called in other comparisons, where that leaves them apart."""
    labels: dict[str, set[str]] = defaultdict(set)
    for line, cell in (pair for other in known for pair in other.cells()):
        for training in cell.nested:
            labels[training.mark].add(line.label)
    new = {}
    for line in comparison.lines:
        found = set().union(*(labels[training.mark] for cell in line.cells for training in cell.nested))
        new[line.label] = found.pop() if len(found) == 1 else line.label
    if len(set(new.values())) < len(new):
        return comparison
    lines = [
        replace(line, label=new[line.label], unpruned=tuple(new[label] for label in line.unpruned))
        for line in comparison.lines
    ]
    return replace(comparison, lines=tuple(lines))


def ratio_text(ratio: float | None) -> str:
    """Write a pruning ratio; a dash where it is not known."""
    return MISSING if ratio is None else f"{ratio:.3g}"


def cell_ratio(line: Line, cell: Cell) -> str:
    """Write the pruning ratio of a cell, 0 for the unpruned."""
    return "0" if line.is_unpruned else ratio_text(cell.ratio)


def ratio_title(ratio: str) -> str:
    """Say how much was pruned, above what is of a ratio."""
    if ratio == "0":
        return "unpruned"
    return "pruning ratio not known" if ratio == MISSING else f"pruned {ratio}"


def cell_title(line: Line, cell: Cell) -> str:
    """Name a cell, by its line alone where nothing tells how much was pruned."""
    return line.label if line.is_unpruned or cell.ratio is None else f"{line.label}{RATIO}{ratio_text(cell.ratio)}"
