"""Differences of a metric between two cells: to the baseline, and between those that could be the best."""

from __future__ import annotations

from dprune.metrics.differences import TRAININGS, Difference, Sampling, sampling_difference
from dprune.reporting.study.estimates import CellMean, t_quantile, units
from dprune.reporting.study.grouping import Cell

BEST = (
    "The best of a column at a pruning ratio is in bold only if it is told apart from every other there that was "
    "sampled alike: the 95% interval of how far they are apart leaves zero out."
)
"""What it means that a value is marked as the best."""
NOTE = (
    "± is half of the 95% interval of a difference. A star means that the interval leaves zero out, which chance alone "
    "does once in twenty times. Where both lines were trained several times, ± is Welch's t over trainings. Where one "
    "of them was trained once, its trainings are taken to vary as those of the other do. In brackets, both were "
    "trained once: ± is then of sampling alone and says nothing of another training. It is the jackknife of the "
    "difference where both share noise and reference; with †, they do not, and both errors are put together."
)
"""What a table of differences means."""


def cell_difference(ours: Cell, theirs: Cell, key: str) -> Difference | None:
    """Subtract a metric of one cell from that of another, None where one of them has none.

    Its error is over trainings where either cell has several, and else of sampling alone.
    """
    one, other = ours.estimate(key), theirs.estimate(key)
    if one is None or other is None:
        return None
    if one.over_trainings and other.over_trainings:
        return _over_trainings(one, other)
    for several, single in ((one, other), (other, one)):
        if several.over_trainings and single.trainings == 1:
            return _single_over_trainings(one.mean - other.mean, several)
    return sampling_difference(_weighted(ours, key), _weighted(theirs, key))


def _over_trainings(ours: CellMean, theirs: CellMean) -> Difference:
    """Subtract means over independent units with the t interval of Welch (1947) for unequal variances."""
    assert ours.error is not None
    assert theirs.error is not None
    value, squares = ours.mean - theirs.mean, (ours.error**2, theirs.error**2)
    total = sum(squares)
    if not total:
        return Difference(value, 0.0, 0.0, TRAININGS)
    parts = zip(squares, (ours.units, theirs.units), strict=True)
    degrees = 1 / sum((square / total) ** 2 / (count - 1) for square, count in parts)
    return Difference(value, total**0.5, t_quantile(degrees) * total**0.5, TRAININGS)


def _single_over_trainings(value: float, several: CellMean) -> Difference:
    """Put the error beside a difference between the mean of several trainings and a single one.

    The single one varies by an unknown deviation, taken to be that of the several: then deviation times √(1 + 1/n) is
    the error, and t has n - 1 degrees (Crawford and Howell, "Comparing an individual's test score against norms
    derived from small samples", 1998).
    """
    assert several.error is not None
    error = several.error * (several.units + 1) ** 0.5
    return Difference(value, error, t_quantile(several.units - 1) * error, TRAININGS)


def _weighted(cell: Cell, key: str) -> list[tuple[float, Sampling]]:
    """Return sets of samples with the weights that they have in the cell's mean."""
    known = cell.known(key)
    _, groups = units(tuple(known))
    return [
        (1 / len(groups) / len(group) / len(known[training]), sampling)
        for group in groups
        for training in group
        for sampling in known[training]
    ]
