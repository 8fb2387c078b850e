"""Precision, recall, density and coverage: balls around the points of one set that hold points of the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.metrics.distances import (
    ROWS,
    SPARE,
    Cloud,
    columns_at_once,
    common_centre,
    exact_radii,
    inside,
    neighbours,
    product_squares,
)
from dprune.metrics.halved import HalvedBalls, candidates
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_pair


@dataclass(frozen=True)
class Manifold:
    """What balls up to the k-th neighbour tell of two sets.

    Attributes:
        precision: share of generated points inside a ball of the reference.
        recall: share of reference points inside a ball of the generated points.
        f_score: harmonic mean of the two.
        density: balls of the reference that a generated point is in, on average, over k.
        coverage: share of the reference's balls that hold a generated point.
    """

    precision: Estimate
    recall: Estimate
    f_score: Estimate
    density: Estimate
    coverage: Estimate


def manifold(
    generated: Tensor, reference: Tensor, k: int = 3, density_k: int = 5, blocks: Blocks | None = None
) -> Manifold:
    """Compute improved precision and recall, and density and coverage, exactly.

    Precision and recall are by Kynkäänniemi et al. (2019), where a point on the boundary of a ball is inside;
    density and coverage by Naeem et al. (2020), where it is not. Each distance is computed once, also for the
    standard errors: of precision and density, which are means over generated points, by leaving out blocks; of the
    others by halves, see `HalvedBalls`, where a half has more points than neighbours.

    Args:
        generated: features [n, d] of any float type.
        reference: features [m, d] on the same device.
        k: neighbours for precision and recall.
        density_k: neighbours for density and coverage.
        blocks: of the generated samples, for the standard errors.

    Raises:
        InputError: a side has no more samples than neighbours, or is not finite.
        MismatchError: the dimensions differ.
    """
    check_pair(generated, reference)
    for x, most, role in ((generated, k, "generated"), (reference, max(k, density_k), "reference")):
        if len(x) <= most:
            raise InputError(f"{len(x)} {role} samples have no {most} neighbours each: give at least {most + 1}.")
    blocks = blocks or Blocks.whole(generated)
    centre = common_centre(reference)
    ours, theirs = Cloud.around(generated, centre), Cloud.around(reference, centre)
    halves = len(blocks) > 1 and len(ours) // 2 > k and len(theirs) // 2 > density_k
    wide = (candidates(k), candidates(density_k)) if halves else (0, 0)
    own = neighbours(ours, min(max(k + SPARE, wide[0]), len(ours) - 1))
    found = neighbours(theirs, min(max(k + SPARE, density_k + SPARE, wide[1]), len(theirs) - 1))
    recall_radii = exact_radii(ours, k, *own, centre)
    precise_radii, dense_radii = (exact_radii(theirs, each, *found, centre) for each in (k, density_k))
    halved = HalvedBalls(blocks, own, found, k, density_k) if halves else None
    hits = _Hits(len(generated), len(reference), generated.device)
    for columns, points in ours.tiles(columns_at_once(ours.x)):
        for rows, centres in theirs.tiles(ROWS):
            table = product_squares(centres, points)
            precise = inside(table, precise_radii[rows], centres, points, closed=True)
            dense = inside(table, dense_radii[rows], centres, points, closed=False)
            recalled = inside(table.T, recall_radii[columns], points, centres, closed=True).T
            hits.add(rows, columns, precise, dense, recalled)
            if halved is not None:
                halved.add(rows, columns, table)
    return hits.result(density_k, blocks, halved)


class _Hits:
    """Who is in whose ball.

    Attributes:
        precise: whether a generated point is in a ball of the reference, float64 [n].
        dense: balls of the reference that a generated point is in, float64 [n].
        recalled: whether a reference point is in a ball of the generated points, bool [m].
        covered: whether its ball holds a generated point, bool [m].
    """

    def __init__(self, generated: int, reference: int, device: torch.device) -> None:
        self.precise, self.dense = torch.zeros((2, generated), dtype=torch.float64, device=device)
        self.recalled, self.covered = torch.zeros((2, reference), dtype=torch.bool, device=device)

    def add(self, rows: slice, columns: slice, precise: Tensor, dense: Tensor, recalled: Tensor) -> None:
        """Add a tile [reference points, generated points]."""
        self.precise[columns] += precise.any(0)
        self.dense[columns] += dense.float().sum(0)
        self.recalled[rows] |= recalled.any(1)
        self.covered[rows] |= dense.any(1)

    def result(self, density_k: int, blocks: Blocks, halved: HalvedBalls | None) -> Manifold:
        """Turn them into the metrics."""
        precise = self.precise.clamp(max=1)
        precision, density = blocks.mean(precise), blocks.mean(self.dense / density_k)
        recall, coverage = (float(hits.double().mean()) for hits in (self.recalled, self.covered))
        f_score = float(_harmonic(precise.mean(), self.recalled.double().mean()))
        if halved is None:
            return Manifold(precision, Estimate(recall), Estimate(f_score), density, Estimate(coverage))
        recalls, coverages = halved.shares()
        in_half = torch.stack([~halved.second, halved.second]).double()
        precisions = (in_half * precise.unsqueeze(1)).sum(1) / in_half.sum(1)
        by_halves = ((recall, recalls), (f_score, _harmonic(precisions, recalls)), (coverage, coverages))
        errors = [blocks.estimate_by_halves(value, halves[0] - halves[1]) for value, halves in by_halves]
        return Manifold(precision, errors[0], errors[1], density, errors[2])


def _harmonic(precision: Tensor, recall: Tensor) -> Tensor:
    both = precision + recall
    return torch.where(both > 0, 2 * precision * recall / both, 0)
