"""Which subsets belong to which lines and pruning ratios of a study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from dprune.formats.provenance import parents_of, training_subset
from dprune.reporting.agreement.inputs import AgreementInputs, KeptSet
from dprune.reporting.study.experiments import Point
from dprune.reporting.study.factors import GENERATED
from dprune.reporting.study.grouping import RATIO, Cell, Comparison, Line, called_alike, compare, ratio_text
from dprune.reporting.study.training_sets import EXTERNAL, Subset, selection_factors, training_set
from dprune.reporting.study.trainings import Training


@dataclass(frozen=True)
class Choosing:
    """A line at a pruning ratio, and what it kept.

    Attributes:
        line: how samples were chosen, whatever was trained on them.
        ratio: share of the candidates that was pruned, None where nothing tells.
        sets: that are known, of different samples; none where no file of --subsets is of it.
    """

    line: Line
    ratio: float | None
    sets: tuple[KeptSet, ...]

    @property
    def title(self) -> str:
        """Its name."""
        return f"{self.line.label}{RATIO}{ratio_text(self.ratio)}"


class KeptSets:
    """The subsets by the lines that they were chosen for.

    A result names the subset of its model by its digest. What no result names was chosen as its own provenance says,
    and is put to the results that were chosen alike.

    Attributes:
        choosings: every line at each of its ratios, in the order of the lines.
    """

    def __init__(self, inputs: AgreementInputs, results: Sequence[Point], known: Sequence[Comparison]) -> None:
        """Put them in order.

        Args:
            inputs: the subsets.
            results: of all trainings.
            known: the same in comparisons, whose lines are called alike.
        """
        by_digest = {kept.digest: kept for kept in inputs.subsets}
        # What leaves nothing out has all in common with its like.
        pruned = [point for point in results if point.subset.pruned and point.subset.ratio != 0]
        named = {point.mark: by_digest.get(_subset_digest(point)) for point in results}
        used = {kept.digest for kept in named.values() if kept}
        others = [_as_tagged(_point_of_subset(kept, inputs.total), pruned)
                  for kept in inputs.subsets if kept.digest not in used]  # fmt: skip
        named |= {point.mark: by_digest[point.mark] for point in others}
        points = [*map(_choice_alone, pruned), *(point for point in others if point.subset.pruned)]
        self.choosings: list[Choosing] = []
        self._of_result: dict[str, tuple[KeptSet, ...]] = {}
        for line, cell in _cells(points, known):
            sets = _distinct(named.get(point.mark) for point in cell.points)
            self.choosings.append(Choosing(line, cell.ratio, sets))
            self._of_result |= {p.mark: (kept,) if (kept := named.get(p.mark)) else sets for p in cell.points}

    def mean(self, cell: Cell, number: int) -> float | None:
        """Return the mean of a score over what the trainings of a cell were trained on, each counting the same.

        Args:
            cell: results of trainings.
            number: of the score.

        Returns:
            Standard deviations of the score, None where no subset of the cell is known, or is scored.
        """
        found = []
        for samplings in cell.nested.values():
            points = (point for some in samplings.values() for point in some)
            sets = _distinct(kept for point in points for kept in self._of_result.get(point.mark, ()))
            found += [_mean(known)] if (known := [m for kept in sets if (m := kept.means[number]) is not None]) else []
        return _mean(found) if found else None

    def by_ratio(self) -> dict[str, list[Choosing]]:
        """Return the lines of each pruning ratio, by rising ratio."""
        found: dict[str, list[Choosing]] = defaultdict(list)
        for choosing in sorted(self.choosings, key=lambda some: (some.ratio is None, some.ratio or 0.0)):
            found[ratio_text(choosing.ratio)].append(choosing)
        return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _distinct(sets: Iterable[KeptSet | None]) -> tuple[KeptSet, ...]:
    """Return sets of different samples, by their digests, so that their order is always the same."""
    found = {kept.digest: kept for kept in sets if kept is not None}
    return tuple(found[mark] for mark in sorted(found))


def _subset_digest(point: Point) -> str:
    if point.result is None:
        return ""
    generated = parents_of(point.result.record).get(GENERATED, {})
    return str((training_subset(generated.get("provenance")) or {}).get("digest", ""))


def _cells(points: Sequence[Point], known: Sequence[Comparison]) -> list[tuple[Line, Cell]]:
    return [pair for comparison in compare(points) for pair in called_alike(comparison, known).cells()]


def _as_tagged(point: Point, results: Sequence[Point]) -> Point:
    """Place a subset with the results that name none, but say by tags that they are of such a one."""
    own = point.subset
    alike = (p for p in results if not p.subset.given and (p.subset.method, p.subset.ratio) == (own.method, own.ratio))
    found = next((p for p in alike if own.order in ("", p.subset.order)), None)
    return point if found is None else replace(point, subset=found.subset, selection=found.selection)


def _choice_alone(point: Point) -> Point:
    """Return a result without how its model was trained, sampled and measured."""
    return replace(point, experiment={}, measure={}, open_measure={}, optional={})


def _point_of_subset(kept: KeptSet, total: int | None) -> Point:
    """Place a subset that no result names by its own provenance, or by its file where it has none."""
    subset = training_set(kept.name, {}, None, kept.parent)
    if subset.method == EXTERNAL and "provenance" not in kept.parent:
        share = Fraction(kept.bits.count, total) if total else None
        subset = Subset(kept.stem, "", "", None if share is None else 1 - share, given=True)
    mark = kept.digest
    return Point(
        subset=subset,
        choice=mark,
        samples=mark,
        experiment={},
        selection=selection_factors(kept.parent, subset),
        measure={},
        open_measure={},
        optional={},
        own=frozenset(),
        result=None,
        mark=mark,
        training=Training(mark),
        passes=None,
    )
