"""Which points of a study are there: trainings of each line at each pruning ratio, beside those that should be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dprune.reporting.study.expected import Expected, ExpectedTraining
from dprune.reporting.study.grouping import MISSING, RATIO, Comparison, cell_ratio, ratio_text
from dprune.reporting.tables import csv_text

UNPRUNED = "0"
ABSENT = "missing"
_NEAR = 0.005
"""Counts are whole, so that the ratio that was pruned is near the one that was meant."""

_Place = tuple[str, str]


@dataclass(frozen=True)
class CoveredPoint:
    """A line at a pruning ratio.

    Attributes:
        found: trainings that have results.
        wanted: trainings that it should have, 0 where none is expected.
        absent: results that are missing, where these are known by name.
    """

    found: int = 0
    wanted: int = 0
    absent: tuple[str, ...] = ()

    @property
    def is_gap(self) -> bool:
        """Whether anything is missing."""
        return self.found < self.wanted

    @property
    def text(self) -> str:
        """What stands in the table."""
        if self.is_gap:
            return f"{self.found:,} of {self.wanted:,}" if self.found else ABSENT
        return f"{self.found:,}" if self.found else MISSING


@dataclass(frozen=True)
class Coverage:
    """The table.

    Attributes:
        ratios: columns.
        rows: the names of lines with their points, a point for each ratio.
        is_listed: whether a list says what should be there; else it is what most lines have.
    """

    ratios: tuple[str, ...]
    rows: tuple[tuple[str, tuple[CoveredPoint, ...]], ...]
    is_listed: bool

    @classmethod
    def of(cls, comparisons: Iterable[Comparison], expected: Expected) -> Coverage:
        """Count the trainings of results of any kind, and hold them to those that are expected."""
        found: dict[_Place, set[str]] = defaultdict(set)
        placed: dict[str, _Place] = {}
        for comparison in comparisons:
            for line, cell in comparison.cells():
                place = line.label, cell_ratio(line, cell)
                found[place].update(training.mark for training in cell.nested)
                placed.update((point.mark, place) for point in cell.points)
        counts = {place: len(marks) for place, marks in found.items()}
        if expected.trainings:
            points = _listed(counts, _by_place(expected.trainings, placed))
        else:
            wanted = _usual(counts)
            points = {place: CoveredPoint(counts.get(place, 0), wanted[place]) for place in wanted}
        ratios = tuple(sorted({ratio for _, ratio in points}, key=lambda ratio: (ratio == MISSING, _number(ratio))))
        rows = {line: tuple(points.get((line, ratio), CoveredPoint()) for ratio in ratios) for line, _ in points}
        return cls(ratios, tuple(rows.items()), bool(expected.trainings))

    @property
    def heads(self) -> list[str]:
        """What the columns are called."""
        return [_head(ratio) for ratio in self.ratios]

    def gaps(self) -> Iterator[tuple[str, CoveredPoint]]:
        """Yield the points at which something is missing, with their names."""
        for line, points in self.rows:
            for ratio, point in zip(self.ratios, points, strict=True):
                if point.is_gap:
                    yield line if ratio == UNPRUNED else f"{line}{RATIO}{ratio}", point

    @property
    def is_shown(self) -> bool:
        """Whether it says more than the tables of metrics do."""
        return self.is_listed or any(self.gaps())

    @property
    def sentence(self) -> str:
        """How many trainings are missing, without a full stop."""
        every = [point for _, points in self.rows for point in points]
        wanted = sum(point.wanted for point in every)
        missing = sum(max(0, point.wanted - point.found) for point in every)
        said = f"{missing:,} of {wanted:,} trainings {'is' if missing == 1 else 'are'} missing"
        return said if self.is_listed else f"{said}, going by what most points have"

    def csv(self) -> str:
        """Write a row for each point."""
        lines = [
            (line, None if ratio == MISSING else float(ratio), point.found, point.wanted)
            for line, points in self.rows
            for ratio, point in zip(self.ratios, points, strict=True)
            if point != CoveredPoint()
        ]
        return csv_text(("line", "pruned", "trainings", "expected"), lines)


def _head(ratio: str) -> str:
    if ratio == UNPRUNED:
        return "unpruned"
    return "ratio not known" if ratio == MISSING else f"pruned {ratio}"


def _number(ratio: str) -> float:
    return 0.0 if ratio == MISSING else float(ratio)


def _usual(counts: Mapping[_Place, int]) -> dict[_Place, int]:
    """Expect of each point as many trainings as most have, and of each line the ratios that half of the lines have.

    A line that has none of these ratios is a choice of its own, such as as many of each cluster as the smallest has.
    """
    usual, times = Counter(counts.values()).most_common(1)[0] if counts else (0, 0)
    wanted = {place: usual if 2 * times > len(counts) else count for place, count in counts.items()}
    ratios: dict[str, set[str]] = defaultdict(set)
    for line, ratio in counts:
        if ratio not in (UNPRUNED, MISSING):
            ratios[line].add(ratio)
    shared = Counter(ratio for some in ratios.values() for ratio in some)
    common = {ratio for ratio, count in shared.items() if len(ratios) > 1 and 2 * count >= len(ratios)}
    for line, some in ratios.items():
        if some & common:
            wanted |= {(line, ratio): usual for ratio in sorted(common - some)}
    return wanted


def _by_place(
    expected: Sequence[ExpectedTraining], placed: Mapping[str, _Place]
) -> dict[_Place, list[ExpectedTraining]]:
    """Group expected trainings by the line and ratio of the report that they are of, as far as results tell."""
    labels = {one.line: placed[one.mark][0] for one in expected if one.mark in placed}
    known = {(one.line, one.pruned): placed[one.mark] for one in expected if one.mark in placed}
    measured = {ratio for _, ratio in placed.values() if ratio != MISSING}
    found: dict[_Place, list[ExpectedTraining]] = defaultdict(list)
    for one in expected:
        meant = labels.get(one.line, one.line), _measured_ratio(one.pruned, measured)
        found[known.get((one.line, one.pruned), meant)].append(one)
    return found


def _measured_ratio(ratio: float, measured: Iterable[str]) -> str:
    near = min(measured, key=lambda text: abs(float(text) - ratio), default=UNPRUNED)
    return near if abs(float(near) - ratio) <= _NEAR else ratio_text(ratio)


def _listed(
    counts: Mapping[_Place, int], wanted: Mapping[_Place, Sequence[ExpectedTraining]]
) -> dict[_Place, CoveredPoint]:
    """Hold the trainings that there are to those that are listed; the order is that of the report's lines."""
    found = {}
    for place in dict.fromkeys((*counts, *wanted)):
        absent = tuple(one.path for one in wanted.get(place, ()) if not one.mark)
        found[place] = CoveredPoint(counts.get(place, 0), len(wanted.get(place, ())), absent)
    return found
