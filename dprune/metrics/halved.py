"""Recall and coverage of halves, clipped or not, of which their standard errors are made.

What a generated point adds to either hangs on where the others are: a reference point that one block covers alone is
lost without it, one that two blocks cover is lost without neither. A jackknife takes the first for the rule and tells
1.1 to 1.6 times the true error. Halves keep such points in proportion, if the reference is halved as well, so that
as many generated points meet a reference point as before: both halves of the generated points are held against the
same half of the reference, which thus adds little to their difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dprune.metrics.jackknife import Blocks, draw_halves
from dprune.metrics.rows import spans
from dprune.namespace import beside

# Pairs at once, times the ways to halve: points that are all one are all in each other's balls.
PAIRS = 1 << 21


def candidates(k: int) -> int:
    """Return how many neighbours hold k of the own half, but for a chance of less than 1e-8."""
    return 3 * k + 32


@dataclass(frozen=True)
class _Side:
    """One side, halved in several ways.

    Attributes:
        second: whether a point is in the second half, bool [n, ways].
        squares: squared radius of its ball among the points of its own half [n, ways].
    """

    second: Tensor
    squares: Tensor

    @classmethod
    def of(cls, second: Tensor, squares: Tensor, ids: Tensor, k: int) -> _Side:
        """Find the radii among neighbours as `distances.neighbours` gives them, `candidates(k)` or all."""
        radii = squares.new_empty(second.shape)
        for low, high in spans(len(second), ids.shape[1] * second.shape[1]):
            own = second[ids[low:high]] == second[low:high].unsqueeze(1)
            nearer = (own.cumsum(1, dtype=torch.int16) < k).sum(1).clamp_(max=ids.shape[1] - 1)
            radii[low:high] = squares[low:high].gather(1, nearer)
        return cls(second, radii)


class HalvedBalls:
    """Who is in whose ball, with both sides halved in as many ways as there are blocks.

    Args:
        blocks: of the generated points.
        generated: distances and ids of their neighbours among each other, `candidates(k)` or all; None where nobody
            asks for the recall.
        reference: the same of the reference, `candidates(density_k)` or all.
        k: which neighbour the balls of generated points reach to.
        density_k: which those of reference points reach to.
    """

    def __init__(
        self,
        blocks: Blocks,
        generated: tuple[Tensor, Tensor] | None,
        reference: tuple[Tensor, Tensor],
        k: int,
        density_k: int,
    ) -> None:
        self.second = beside(reference[0], blocks.halves())
        """Whether a generated point is in the second half, bool [n, ways]."""
        self._ours = None if generated is None else _Side.of(self.second, *generated, k)
        second = beside(reference[0], draw_halves(len(reference[0]), len(blocks), blocks.seed, "reference"))
        whole = _Side.of(second, *reference, density_k)
        self._theirs = _Side(second, whole.squares.masked_fill(~second, -torch.inf))
        # By reference point, first and second half of the generated points, and way.
        self._recalled, self._covered = whole.squares.new_zeros((2, len(second), 2, len(blocks)))

    def add(self, rows: slice, columns: slice, table: Tensor) -> None:
        """Add squared distances of reference points to generated points [rows, columns]."""
        theirs, second = self._theirs.squares[rows], self.second[columns]
        if self._ours is not None:
            ours = self._ours.squares[columns]
            for row, column in self._pairs(table <= ours.amax(1)):
                held = table[row, column].unsqueeze(1) <= ours[column]
                _count(self._recalled[rows], row, held, second[column])
        for row, column in self._pairs(table < theirs.amax(1, keepdim=True)):
            held = table[row, column].unsqueeze(1) < theirs[row]
            _count(self._covered[rows], row, held, second[column])

    def _pairs(self, table: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return rows and columns where a table is true, some at a time."""
        step = max(1, PAIRS // self.second.shape[1])
        return [(some[:, 0], some[:, 1]) for some in torch.nonzero(table).split(step)]

    @property
    def has_recall(self) -> bool:
        """Whether the recall was asked for."""
        return self._ours is not None

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return recall and coverage of the first and the second half, float64 [2, ways] each."""
        taken = self._theirs.second.unsqueeze(1)
        hits = ((counts > 0) & taken for counts in (self._recalled, self._covered))
        recall, coverage = (hit.sum(0, dtype=torch.float64) / taken.sum(0) for hit in hits)
        return recall, coverage

    def filled(self, k: int) -> Tensor:
        """Return how far balls are filled with k points of the first and the second half, float64 [2, ways]."""
        taken = self._theirs.second.unsqueeze(1)
        total: Tensor = (self._covered.clamp(max=k) * taken).sum(0, dtype=torch.float64)
        return total / (k * taken.sum(0))


def _count(counts: Tensor, row: Tensor, held: Tensor, second: Tensor) -> None:
    """Add pairs to the counts [rows, 2, ways] of their row, `held` and in the second half or not, bool [p, ways]."""
    counts.index_add_(0, row, torch.stack([held & ~second, held & second], 1).to(counts.dtype))
