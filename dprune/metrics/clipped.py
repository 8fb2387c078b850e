"""Clipped density and clipped coverage: which share of samples is as good as real ones, and which share they cover.

Both are by Salvy, Talbot and Thirion (ICLR 2026, arXiv 2507.01761). Balls reach from each reference point to its k-th
neighbour. Density and coverage count what is in them; here no point counts for more than one, no outlier of the
reference has a ball larger than the median one, and what is counted is held to what good samples would give, so that
either number falls in proportion as samples become bad.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.metrics.distances import (
    ROWS,
    SPARE,
    TIE,
    Cloud,
    columns_at_once,
    error,
    exact_squares,
    inside,
    product_squares,
)
from dprune.metrics.halved import HalvedBalls
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.namespace import host

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clipped:
    """What clipped balls tell of two sets.

    Attributes:
        density: how densely the reference surrounds generated points, over how densely it surrounds its own, at most 1.
        coverage: share of good samples that would cover the reference as the generated ones do.
        uncapped: the density, where it may be above 1.
        uncalibrated: how far balls of the reference are filled with k generated points, on average.
    """

    density: Estimate
    coverage: Estimate
    uncapped: float
    uncalibrated: float


class ClippedHits:
    """How many balls hold each point, and how many points each ball.

    Args:
        theirs: the reference.
        radii: squared distances to the k-th neighbour, float64 [m].
        found: what `neighbours` found of the reference, more than k or all.
        k: which neighbour.
        generated: number of generated points.
    """

    def __init__(self, theirs: Cloud, radii: Tensor, found: tuple[Tensor, Tensor], k: int, generated: int) -> None:
        self._k, self._radii = k, _clipped(radii)
        self._real = (_own_counts(theirs, self._radii, *found, k) / k).clamp(max=1).mean()
        self._held = torch.zeros(generated, dtype=torch.float64, device=radii.device)
        self._filled = torch.zeros(len(theirs), dtype=torch.float64, device=radii.device)

    def add(self, rows: slice, columns: slice, table: Tensor, centres: Cloud, points: Cloud, dense: Tensor) -> None:
        """Add a tile.

        Args:
            rows: of the reference.
            columns: of the generated points.
            table: what `product_squares` gave of them.
            centres: the reference.
            points: the generated points.
            dense: whether a point is inside the ball to the k-th neighbour, bool [rows, columns].
        """
        closed = inside(table, self._radii[rows], centres, points, closed=True)
        self._held[columns] += closed.float().sum(0)
        self._filled[rows] += dense.float().sum(1)

    def result(self, blocks: Blocks, halved: HalvedBalls | None) -> Clipped:
        """Turn them into the metrics; the error of the coverage takes halves."""
        density = blocks.mean((self._held / self._k).clamp(max=1) / self._real)
        filled = float(self._filled.clamp(max=self._k).mean()) / self._k
        curve = expected_coverage(len(self._held), len(self._filled), self._k)
        coverage = Estimate(float(np.interp(filled, curve, np.linspace(0, 1, len(curve)))))
        if halved is not None:
            first, second = host(halved.filled(self._k)) * _slope(filled, curve)
            coverage = blocks.estimate_by_halves(coverage.value, first - second)
        return Clipped(_capped(density), coverage, density.value, filled)


def expected_coverage(generated: int, reference: int, k: int) -> FloatArray:
    """Return the uncalibrated coverage that good samples have on average.

    What a ball to the k-th of the m - 1 other points holds of the distribution is Beta(k, m - k), so how many of n good
    samples are in it is beta-binomial. The closed form sums over what is missing to k, which takes k terms, not n.

    Args:
        generated: most samples n.
        reference: points of the reference m, more than k.
        k: which neighbour.

    Returns:
        By the number of good samples, 0 to n, ascending, float64 [n + 1].
    """
    good = np.arange(generated + 1)
    others = reference - k + good - 1
    # That none is in the ball, then one, two and so on.
    chance = np.exp(np.concatenate([[0.0], np.cumsum(np.log1p(-k / (reference - 1 + good[1:])))]))
    missing = np.zeros(generated + 1)
    for inside_it in range(k):
        missing += (1 - inside_it / k) * chance
        chance *= (good - inside_it) * (k + inside_it) / ((inside_it + 1) * np.maximum(others - inside_it, 1))
    return 1 - missing


def _slope(filled: float, curve: FloatArray) -> float:
    """Return how fast the calibrated coverage rises with the uncalibrated one; at the end of the curve, as there."""
    place = min(max(int(np.searchsorted(curve, filled)), 1), len(curve) - 1)
    with np.errstate(divide="ignore"):
        return float(1 / (len(curve) - 1) / (curve[place] - curve[place - 1]))


def _capped(density: Estimate) -> Estimate:
    """Cap a density at 1; it varies as it would without the cap, or all good models would have no error."""
    over = max(0.0, density.value - 1)
    return replace(density, value=density.value - over, replicates=tuple(r - over for r in density.replicates))


def _clipped(radii: Tensor) -> Tensor:
    """Clip squared radii [m] at the median radius, which is the mean of the middle two."""
    ordered = radii.sqrt().sort().values
    median = (ordered[(len(radii) - 1) // 2] + ordered[len(radii) // 2]) / 2
    return torch.minimum(radii, median.square())


def _own_counts(cloud: Cloud, radii: Tensor, squares: Tensor, ids: Tensor, k: int) -> Tensor:
    """Count the balls of other points that hold each point, its boundary included, float64 [m].

    Args:
        cloud: the points.
        radii: squared radii that do not reach beyond the k-th neighbour, float64 [m].
        squares: what `neighbours` found, ascending [m, more than k or all].
        ids: theirs.
        k: which neighbour.
    """
    last = min(k + SPARE, ids.shape[1])
    rows = torch.arange(len(cloud), device=ids.device).repeat_interleave(last)
    exact = exact_squares(cloud.given, cloud.given, rows, ids[:, :last].reshape(-1)).view(-1, last)
    held = exact <= (radii * (1 + TIE)).unsqueeze(1)
    # Rounding may hide a point of the ball, and many may lie on its boundary.
    doubtful = squares[:, last - 1] - error(cloud, cloud) <= radii
    if last == len(cloud) - 1:
        doubtful.fill_(False)
    counts = torch.bincount(ids[:, :last][held & ~doubtful.unsqueeze(1)], minlength=len(cloud)).double()
    for some in torch.nonzero(doubtful).squeeze(1).split(ROWS):
        centres = Cloud(cloud.given[some], cloud.x[some], cloud.squares[some])
        for where, points in cloud.tiles(columns_at_once(cloud.x)):
            table = product_squares(centres, points)
            counts[where] += inside(table, radii[some], centres, points, closed=True).float().sum(0)
        counts[some] -= 1
    return counts
