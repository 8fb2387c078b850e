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
from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_pair

# Among so many random samples, all but a few of one block in twenty has a chance of less than 1e-9.
MORE_NEIGHBOURS = 9


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
    standard errors, whose replicates use the balls that remain, with the radii that remain.

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
    centre = common_centre(reference)
    ours, theirs = Cloud.around(generated, centre), Cloud.around(reference, centre)
    found = neighbours(theirs, min(max(k, density_k) + SPARE, len(theirs) - 1))
    precise_radii, dense_radii = (exact_radii(theirs, each, *found, centre) for each in (k, density_k))
    blocks = blocks or Blocks.whole(generated)
    more = MORE_NEIGHBOURS if len(blocks) > 1 else 0
    squares, ids = neighbours(ours, min(k + SPARE + more, len(ours) - 1))
    recall_radii = exact_radii(ours, k, squares, ids, centre)
    widened = _widened(squares, ids, k, blocks) if len(blocks) > 1 else None
    hits = _Hits(blocks, len(reference))
    for columns, points in ours.tiles(columns_at_once(ours.x)):
        for rows, centres in theirs.tiles(ROWS):
            table = product_squares(centres, points)
            precise = inside(table, precise_radii[rows], centres, points, closed=True)
            dense = inside(table, dense_radii[rows], centres, points, closed=False)
            recalled = inside(table.T, recall_radii[columns], points, centres, closed=True).T
            hits.add(rows, columns, precise, dense, recalled)
            if widened is not None:
                hits.add_widened(rows, columns, table, recalled, widened)
    return hits.result(density_k)


@dataclass(frozen=True)
class _Widened:
    """Balls of generated points that grow when the block of a neighbour is left out.

    Attributes:
        squares: squared radius without the j-th neighbour's block, [n, k]; -inf where that is the point's own.
        block: which block that is, int64 [n, k].
    """

    squares: Tensor
    block: Tensor


def _widened(squares: Tensor, ids: Tensor, k: int, blocks: Blocks) -> _Widened:
    """Compute the radii without the blocks of the first k neighbours; without any other they stay as they are."""
    block = blocks.labels[ids]
    radii = []
    for j in range(k):
        remaining = (block != block[:, j : j + 1]).cumsum(1)
        position = (remaining < k).sum(1, keepdim=True).clamp_(max=squares.shape[1] - 1)
        radius = squares.gather(1, position).squeeze(1)
        radii.append(radius.masked_fill(block[:, j] == blocks.labels, -torch.inf))
    return _Widened(torch.stack(radii, 1), block[:, :k])


class _Hits:
    """Counts of who is in whose ball, apart by the blocks of the generated points."""

    def __init__(self, blocks: Blocks, reference: int) -> None:
        self._blocks, self._member = blocks, blocks.one_hot(torch.float32)
        self._precise = torch.zeros_like(blocks.labels, dtype=torch.bool)
        # By reference point and block: generated points in its ball, balls that it is in, and those that grew to it.
        self._dense, self._recalled, self._grown = self._member.new_zeros((3, reference, len(blocks)))

    def add(self, rows: slice, columns: slice, precise: Tensor, dense: Tensor, recalled: Tensor) -> None:
        """Add a tile [reference points, generated points]."""
        self._precise[columns] |= precise.any(0)
        self._dense[rows] += dense.float() @ self._member[columns]
        self._recalled[rows] += recalled.float() @ self._member[columns]

    def add_widened(self, rows: slice, columns: slice, table: Tensor, recalled: Tensor, widened: _Widened) -> None:
        """Add the pairs of a tile that only a widened ball holds."""
        limits, block = widened.squares[columns], widened.block[columns]
        row, column = torch.nonzero((table <= limits.amax(1)) & ~recalled, as_tuple=True)
        square = table[row, column]
        for j in range(limits.shape[1]):
            held = square <= limits[column, j]
            self._grown[rows.start + row[held], block[column[held], j]] = 1

    def result(self, density_k: int) -> Manifold:
        """Turn the counts into the metrics."""
        precise, members = self._precise.double() @ self._member.double(), self._member.sum(0, dtype=torch.float64)
        dense, recalled = self._dense.sum(1, keepdim=True), self._recalled.sum(1, keepdim=True)
        whole = _metrics(precise.sum(), members.sum(), recalled, self._dense.sum(dtype=torch.float64), dense, density_k)
        by_block = self._dense.sum(0, dtype=torch.float64)
        replicates = _metrics(
            precise.sum() - precise, members.sum() - members, recalled - self._recalled + self._grown,
            by_block.sum() - by_block, dense - self._dense, density_k,
        )  # fmt: skip
        pairs = zip(whole, replicates, strict=True)
        return Manifold(*(self._blocks.estimate(float(value), left_out) for value, left_out in pairs))


def _metrics(
    precise: Tensor, count: Tensor, recalled: Tensor, pairs: Tensor, covered: Tensor, density_k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return precision, recall, F-score, density and coverage, one each for every column of `recalled`."""
    precision, recall = precise / count, (recalled > 0).double().mean(0)
    both = precision + recall
    f_score = torch.where(both > 0, 2 * precision * recall / both, 0)
    return precision, recall, f_score, pairs / (density_k * count), (covered > 0).double().mean(0)
