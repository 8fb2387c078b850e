"""How far scores rank alike, how much subsets share, and whether one number predicts another; without torch."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dprune.metrics.differences import NORMAL
from dprune.seeds import generator

Floats = npt.NDArray[np.float64]

EXACT = 8
"""Points up to which every permutation is counted: 40,320 of them."""
DRAWN = 9999
"""Permutations that are drawn of more points."""
FEWEST = 4
"""Samples that two scores share, and points that a prediction has, below which nothing is said."""


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's rank correlation of two scores.

    Attributes:
        value: from -1 to 1.
        error: its standard error, by Fisher's z with the variance (1 + r²/2) / (n - 3) that Bonett and Wright ("Sample
            size requirements for estimating Pearson, Kendall and Spearman correlations", 2000) give for ranks.
        low: lower end of its 95% interval.
        high: upper end.
        count: samples that both scored.
    """

    value: float
    error: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Association:
    """How one number goes with another over a few points.

    Attributes:
        points: how many there are.
        spearman: rank correlation.
        spearman_p: two-sided p of a permutation test of it.
        pearson: linear correlation.
        pearson_p: two-sided p of a permutation test of it.
    """

    points: int
    spearman: float
    spearman_p: float
    pearson: float
    pearson_p: float


@dataclass(frozen=True, eq=False)
class IdBits:
    """Sample ids as a bit each, so that what two subsets share is counted 64 samples at a time.

    Attributes:
        bits: uint8, eight samples a byte.
        count: of samples.
    """

    bits: npt.NDArray[np.uint8]
    count: int

    @classmethod
    def of(cls, ids: npt.NDArray[np.int64]) -> IdBits:
        """Pack unique ids from 0.

        Raises:
            MemoryError: there is no room for as many samples as the largest id says.
        """
        mask = np.zeros(int(ids.max(initial=-1)) + 1, dtype=bool)
        mask[ids] = True
        return cls(np.packbits(mask), len(ids))

    def shared(self, other: IdBits) -> int:
        """Count the samples that both hold."""
        least = min(len(self.bits), len(other.bits))
        return int(np.bitwise_count(self.bits[:least] & other.bits[:least]).sum(dtype=np.int64))

    def overlap(self, other: IdBits) -> float | None:
        """Return the share of the smaller subset that is in the other, None where it is empty."""
        least = min(self.count, other.count)
        return self.shared(other) / least if least else None


def average_ranks(values: npt.NDArray[np.floating]) -> Floats:
    """Return ranks from 1, float64 [n]; equal values share the mean of theirs. No value is NaN."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place], dtype=np.float64)


def rank_correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Return Spearman's rank correlation of two vectors; NaN where one of them is constant or empty."""
    return correlation(average_ranks(a), average_ranks(b))


def correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Return Pearson's correlation of two vectors; NaN where one of them is constant or empty."""
    x, y = _centred(a), _centred(b)
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def _centred(values: npt.NDArray[np.floating]) -> Floats:
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    found: Floats = values.astype(np.float64) - values.mean(dtype=np.float64)
    return found


@dataclass(frozen=True, eq=False)
class Standard:
    """A score in units of its standard deviation, of all samples that have a finite one.

    Attributes:
        values: the score, float [N], NaN for a sample that was not scored.
        mean: of the finite ones.
        deviation: of these, 0 where they are all the same.
    """

    values: npt.NDArray[np.floating]
    mean: float
    deviation: float

    @classmethod
    def of(cls, values: npt.NDArray[np.floating]) -> Standard:
        """Measure the spread of a score."""
        known = values[np.isfinite(values)]
        if not len(known):
            return cls(values, math.nan, 0.0)
        return cls(values, float(known.mean(dtype=np.float64)), float(known.std(dtype=np.float64)))

    def mean_of(self, ids: npt.NDArray[np.int64]) -> float | None:
        """Return the mean over some samples, those without a finite score left out; None where that is all of them."""
        known = self.values[ids]
        known = known[np.isfinite(known)]
        if not len(known) or not self.deviation:
            return None
        return (float(known.mean(dtype=np.float64)) - self.mean) / self.deviation


def rank_agreements(scores: Sequence[npt.NDArray[np.floating]]) -> dict[tuple[int, int], RankAgreement]:
    """Return how far each two scores rank the samples alike that both scored.

    Args:
        scores: float [N] each, NaN for a sample that was not scored.

    Returns:
        By the numbers of two scores, the smaller first; pairs that share too few samples, or of which one is constant
        on those, are left out.
    """
    scored = [~np.isnan(values) for values in scores]
    whole = [average_ranks(values[known]) for values, known in zip(scores, scored, strict=True)]
    found = {}
    for one, other in itertools.combinations(range(len(scores)), 2):
        both = scored[one] & scored[other]
        count = int(both.sum())
        # Ranks among all that one scored are ranks among what both did, where the other scored these, too.
        ranks = [whole[n] if len(whole[n]) == count else average_ranks(scores[n][both]) for n in (one, other)]
        if count >= FEWEST and not math.isnan(value := correlation(*ranks)):
            found[one, other] = _with_interval(value, count)
    return found


def _with_interval(value: float, count: int) -> RankAgreement:
    # Rounding takes equal ranks a little beyond 1.
    value = max(-1.0, min(1.0, value))
    deviation = math.sqrt((1 + value**2 / 2) / (count - 3))
    if abs(value) == 1:
        return RankAgreement(value, 0.0, value, value, count)
    middle, half = math.atanh(value), NORMAL * deviation
    return RankAgreement(value, (1 - value**2) * deviation, math.tanh(middle - half), math.tanh(middle + half), count)


def associate(x: Sequence[float], y: Sequence[float]) -> Association | None:
    """Correlate two numbers of a few points; None for too few, or where one number is the same for all."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < FEWEST or not (np.ptp(a) and np.ptp(b)):
        return None
    ranks = average_ranks(a), average_ranks(b)
    return Association(len(a), correlation(*ranks), permutation_p(*ranks), correlation(a, b), permutation_p(a, b))


def permutation_p(x: Floats, y: Floats) -> float:
    """Return how often points put together by chance correlate at least as strongly, in either direction.

    Every permutation of up to `EXACT` points is counted, so that p is exact; of more, `DRAWN` are drawn, and the points
    as they are count as one more (Phipson and Smyth, "Permutation p-values should never be zero", 2010).
    """
    a, b = _centred(x), _centred(y)
    found = np.abs(a[_permutations(len(a))] @ b)
    # Rounding must not tell apart what is the same.
    reached = int((found >= abs(a @ b) * (1 - 1e-9)).sum())
    return reached / len(found) if len(a) <= EXACT else (reached + 1) / (len(found) + 1)


@functools.cache
def _permutations(count: int) -> npt.NDArray[np.int16]:
    if count <= EXACT:
        return np.array(list(itertools.permutations(range(count))), dtype=np.int16)
    draw = generator(0, "permutations of points")
    return draw.permuted(np.tile(np.arange(count, dtype=np.int16), (DRAWN, 1)), axis=1)
