"""Precision, recall, density and coverage: balls around the points of one set that hold points of the other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.metrics.clipped import Clipped, ClippedHits
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


@dataclass(frozen=True)
class Balls:
    """What balls tell, None for what nobody asked for."""

    manifold: Manifold | None
    clipped: Clipped | None


def manifold(
    generated: Tensor, reference: Tensor, k: int = 3, density_k: int = 5, blocks: Blocks | None = None
) -> Manifold:
    """Compute improved precision and recall, and density and coverage, exactly; see `balls`."""
    found = balls(generated, reference, k, density_k, blocks, ("manifold",)).manifold
    assert found is not None
    return found


def clipped_balls(generated: Tensor, reference: Tensor, k: int = 5, blocks: Blocks | None = None) -> Clipped:
    """Compute clipped density and clipped coverage, exactly; see `balls`."""
    found = balls(generated, reference, k, k, blocks, ("clipped",)).clipped
    assert found is not None
    return found


def balls(
    generated: Tensor,
    reference: Tensor,
    k: int = 3,
    density_k: int = 5,
    blocks: Blocks | None = None,
    wanted: Collection[str] = ("manifold", "clipped"),
) -> Balls:
    """Compute all that is wanted in one pass over the distances.

    Precision and recall are by Kynkäänniemi et al. (2019), where a point on the boundary of a ball is inside;
    density and coverage by Naeem et al. (2020), where it is not; for those that are clipped see `Clipped`. Each
    distance is computed once, also for the standard errors: of precision and both densities, which are means over
    generated points, by leaving out blocks; of the others by halves, see `HalvedBalls`, where a half has more points
    than neighbours.

    Args:
        generated: features [n, d] of any float type.
        reference: features [m, d] on the same device.
        k: neighbours for precision and recall.
        density_k: neighbours for density and coverage, clipped or not.
        blocks: of the generated samples, for the standard errors.
        wanted: attributes of `Balls`.

    Raises:
        InputError: a side has no more samples than neighbours, or is not finite.
        MismatchError: the dimensions differ.
    """
    check_pair(generated, reference)
    unclipped = "manifold" in wanted
    _check_neighbours(generated, k if unclipped else 0, "generated")
    _check_neighbours(reference, max(k, density_k) if unclipped else density_k, "reference")
    blocks = blocks or Blocks.whole(generated)
    centre = common_centre(reference)
    ours, theirs = Cloud.around(generated, centre), Cloud.around(reference, centre)
    halves = len(blocks) > 1 and len(theirs) // 2 > density_k
    recall_halves = unclipped and halves and len(ours) // 2 > k
    found = _candidates(theirs, max(k, density_k), density_k if halves else None)
    own = _candidates(ours, k, k if recall_halves else None) if unclipped else None
    dense_radii = exact_radii(theirs, density_k, *found, centre)
    hits = clipped_hits = None
    if own is not None:
        hits = _Hits(exact_radii(theirs, k, *found, centre), exact_radii(ours, k, *own, centre), density_k)
    if "clipped" in wanted:
        clipped_hits = ClippedHits(theirs, dense_radii, found, density_k, len(ours))
    halved = HalvedBalls(blocks, own if recall_halves else None, found, k, density_k) if halves else None
    for columns, points in ours.tiles(columns_at_once(ours.x)):
        for rows, centres in theirs.tiles(ROWS):
            table = product_squares(centres, points)
            dense = inside(table, dense_radii[rows], centres, points, closed=False)
            if hits is not None:
                hits.add(rows, columns, table, centres, points, dense)
            if clipped_hits is not None:
                clipped_hits.add(rows, columns, table, centres, points, dense)
            if halved is not None:
                halved.add(rows, columns, table)
    return Balls(
        None if hits is None else hits.result(blocks, halved),
        None if clipped_hits is None else clipped_hits.result(blocks, halved),
    )


def _check_neighbours(x: Tensor, most: int, role: str) -> None:
    if len(x) <= most:
        raise InputError(f"{len(x)} {role} samples have no {most} neighbours each: give at least {most + 1}.")


def _candidates(cloud: Cloud, k: int, halved_k: int | None) -> tuple[Tensor, Tensor]:
    """Find enough neighbours of each point for exact radii, and for those of halves where `halved_k` is given."""
    wide = 0 if halved_k is None else candidates(halved_k)
    return neighbours(cloud, min(max(k + SPARE, wide), len(cloud) - 1))


class _Hits:
    """Who is in whose ball, as precision, recall, density and coverage count it.

    Args:
        precise_radii: squared radii of the balls of the reference for the precision, float64 [m].
        recall_radii: of those of generated points, float64 [n].
        density_k: neighbours that balls for the density reach to.
    """

    def __init__(self, precise_radii: Tensor, recall_radii: Tensor, density_k: int) -> None:
        self._radii, self._density_k = (precise_radii, recall_radii), density_k
        self._precise, self._dense = recall_radii.new_zeros((2, len(recall_radii)))
        self._recalled, self._covered = precise_radii.new_zeros((2, len(precise_radii)), dtype=torch.bool)

    def add(self, rows: slice, columns: slice, table: Tensor, centres: Cloud, points: Cloud, dense: Tensor) -> None:
        """Add a tile, see `ClippedHits.add`."""
        precise_radii, recall_radii = self._radii
        precise = inside(table, precise_radii[rows], centres, points, closed=True)
        recalled = inside(table.T, recall_radii[columns], points, centres, closed=True).T
        self._precise[columns] += precise.any(0)
        self._dense[columns] += dense.float().sum(0)
        self._recalled[rows] |= recalled.any(1)
        self._covered[rows] |= dense.any(1)

    def result(self, blocks: Blocks, halved: HalvedBalls | None) -> Manifold:
        """Turn them into the metrics."""
        precise = self._precise.clamp(max=1)
        precision, density = blocks.mean(precise), blocks.mean(self._dense / self._density_k)
        recall, coverage = (float(hits.double().mean()) for hits in (self._recalled, self._covered))
        f_score = float(_harmonic(precise.mean(), self._recalled.double().mean()))
        if halved is None or not halved.has_recall:
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
