"""A metric of one cell with its 95% interval: over trainings where there are several, of sampling alone where not."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt

from dprune.metrics.differences import CONFIDENCE, NORMAL, Sampling
from dprune.reporting.study.trainings import LEVELS, Training, drawn_anew

TRAININGS, SAMPLING = "trainings", "sampling"
Numbers = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Numbers of one sampling, and their errors."""

INTERVALS = (
    "Every ± is half of a 95% interval. Where a method was trained several times, it is over trainings: Student's t of "
    "the trainings' means, each over its samplings, so that the noise of sampling is in it. Where a method was trained "
    "once, ± stands in brackets and bars are dotted: that is the error of sampling alone, 1.96 times the jackknife's "
    "over generated samples, and says nothing of how another training would turn out. What all share, such as the "
    "reference, is held as it is."
)
"""What tables and curves mean by ±."""


@dataclass(frozen=True)
class CellMean:
    """A metric of one cell.

    Attributes:
        mean: over units of their trainings' means over samplings.
        error: its standard error, None where nothing tells.
        half_width: of the 95% interval.
        over: what varies in the error: `trainings`, what these share if that varies, too (`autoencoders`,
            `clusterings` and so on), or `sampling` where there is one training, or what no training changes.
        units: how many of these there are, 1 for sampling.
        samplings: sets of generated samples of each training.
    """

    mean: float
    error: float | None
    half_width: float | None
    over: str
    units: int
    samplings: tuple[int, ...]

    @property
    def trainings(self) -> int:
        """How many trainings it is over."""
        return len(self.samplings)

    @property
    def over_trainings(self) -> bool:
        """Whether the error is over trainings, with `units - 1` degrees of freedom; of sampling alone if not."""
        return self.over != SAMPLING

    @property
    def kind(self) -> str:
        """What the interval is, in words."""
        if self.over_trainings:
            return f"95% t interval over {self.units} {self.over}"
        of = "one training" if self.trainings == 1 else "which all trainings share"
        return f"95% interval of the sampling error alone, {of}"


def nested_mean(known: Mapping[Training, Sequence[Sampling]]) -> CellMean:
    """Average a metric over trainings, and say how far that mean is from the mean of all such trainings.

    The variance of a mean over nested draws is estimated without bias by that of the means of the outermost draws, the
    units, whatever is drawn inside them (ultimate clusters: Hansen, Hurwitz and Madow, Sample Survey Methods and
    Theory, 1953): s / sqrt(n) with s over the n units' means, and t of n - 1 degrees. So errors of sampling are in it,
    and must not be added. Units are the trainings, or what trainings share if that varies: of two autoencoders with two
    trainings each there are two. Of one training, nothing tells how trainings differ: the error is that of its
    samplings, independent of each other, by what the results state. A number that all results state alike, with its
    error, is one and the same: that of a real baseline, which no model changes.

    Args:
        known: samplings of each training, one or more.
    """
    over, groups = units(tuple(known))
    means = {training: fmean(one.value for one in samplings) for training, samplings in known.items()}
    values = [fmean(means[training] for training in group) for group in groups]
    n, counts = len(values), tuple(len(samplings) for samplings in known.values())
    every = [one for samplings in known.values() for one in samplings]
    if (shared := every[0].error) and {(one.value, one.error) for one in every} == {(every[0].value, shared)}:
        return CellMean(every[0].value, shared, NORMAL * shared, SAMPLING, 1, counts)
    if n > 1:
        error = stdev(values) / math.sqrt(n)
        return CellMean(fmean(values), error, t_quantile(n - 1) * error, over, n, counts)
    errors = [one.error for one in every if one.error is not None]
    if len(errors) < len(every):
        return CellMean(values[0], None, None, SAMPLING, 1, counts)
    error = math.sqrt(sum(error**2 for error in errors)) / len(errors)
    return CellMean(values[0], error, NORMAL * error, SAMPLING, 1, counts)


def nested_means(known: Mapping[Training, Sequence[Numbers]]) -> list[CellMean]:
    """Do what `nested_mean` does for many numbers of the same samplings at once, none of them a real baseline's.

    Args:
        known: numbers of each sampling with their standard errors, float64 [k] each, NaN where nothing tells, of each
            training, one or more.
    """
    over, groups = units(tuple(known))
    means = {training: np.mean([values for values, _ in samplings], axis=0) for training, samplings in known.items()}
    of_units = np.stack([np.mean([means[training] for training in group], axis=0) for group in groups])
    n, counts = len(groups), tuple(map(len, known.values()))
    if n > 1:
        error, times = of_units.std(axis=0, ddof=1) / math.sqrt(n), t_quantile(n - 1)
    else:
        errors = np.stack([error for samplings in known.values() for _, error in samplings])
        over, error, times = SAMPLING, np.sqrt(np.square(errors).sum(axis=0)) / len(errors), NORMAL
    found = zip(of_units.mean(axis=0).tolist(), error.tolist(), strict=True)
    return [
        CellMean(value, None, None, over, n, counts) if math.isnan(one)
        else CellMean(value, one, times * one, over, n, counts)
        for value, one in found
    ]  # fmt: skip


@functools.cache
def units(trainings: tuple[Training, ...]) -> tuple[str, list[list[Training]]]:
    """Group trainings into independent units: by what fewest of them share, of all that varies.

    Returns:
        What the units are, and the trainings of each. Where draws are crossed, not nested, such as two autoencoders
        with the same two clusterings, the fewest are the cautious choice.
    """
    counts = drawn_anew(trainings)
    coarsest = min(counts, key=counts.__getitem__, default=None)
    if coarsest is None or counts[coarsest] == len(trainings):
        return TRAININGS, [[training] for training in trainings]
    groups: dict[str, list[Training]] = {}
    for training in trainings:
        groups.setdefault(dict(training.origins)[coarsest].mark, []).append(training)
    return LEVELS[coarsest][1], list(groups.values())


def samplings_text(samplings: Sequence[int]) -> str:
    """Say how many trainings there are, and how many sets of samples of each."""
    one = len(samplings) == 1
    trainings = "1 training" if one else f"{len(samplings):,} trainings"
    return f"{trainings}, {count_range(samplings)} sampling{'' if max(samplings) == 1 else 's'}{'' if one else ' each'}"


def count_range(counts: Collection[int]) -> str:
    """Write counts as one, or as the fewest to the most."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def trained_on_text(counts: Collection[int]) -> str:
    """Say how many samples models were trained on; empty where nothing tells."""
    return f"{count_range(counts)} training samples" if counts else ""


@functools.cache
def t_quantile(degrees: float) -> float:
    """Return how many standard errors make half a 95% interval where `degrees` degrees of freedom tell their size.

    Student's t is tan(a) * sqrt(degrees) where cos^(degrees - 1), integrated from 0 to a, is 95% of the same to a right
    angle (Abramowitz and Stegun 26.7.3); Newton's method climbs to a from below. Importing SciPy takes as long as a
    whole report.
    """
    whole = math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2)) * math.sqrt(math.pi) / 2
    nodes, weights = _nodes()
    angle, step = math.atan(NORMAL / math.sqrt(degrees)), 1.0
    while step > 1e-13 * angle:
        below = angle / 2 * float(weights @ np.cos(angle / 2 * (1 + nodes)) ** (degrees - 1))
        step = (CONFIDENCE * whole - below) / math.cos(angle) ** (degrees - 1)
        angle += step
    return math.tan(angle) * math.sqrt(degrees)


@functools.cache
def _nodes() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the nodes and weights of Gauss and Legendre on [-1, 1], exact for polynomials up to degree 79."""
    return np.polynomial.legendre.leggauss(40)
