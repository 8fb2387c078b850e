"""Feature vectors of one group on a device, or beside it where they do not fit, and what greedy methods ask of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Rows that are worked on at once: on a CPU their products with a batch stay in cache.
ROWS = {"cpu": 2048, "cuda": 1 << 17}
# Squared distances below this many units of rounding of the squared norms are zero: the two are copies.
COPIES = 16


class Vectors:
    """Rows, their squared norms, and squared distances by matrix products.

    Args:
        x: floats [n, d], on the device, or on the host where they do not fit there. float16 rows stand for those of
            unit length in float32.
        device: where to compute.
    """

    def __init__(self, x: Tensor, device: torch.device) -> None:
        self.x, self.device = x, device
        self.dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
        self.factor: Tensor | None = None
        """What makes stored rows those that they stand for, float32 [n], where they are not the same."""
        if x.dtype == torch.float16:
            norms = [torch.linalg.vector_norm(rows, dim=1) for _, _, rows in self.blocks(stored=True)]
            self.factor = torch.cat(norms).reciprocal()
        self.squares = torch.cat([rows.square().sum(1) for _, _, rows in self.blocks()])
        """Squared norms [n], on the device."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    @property
    def is_there(self) -> bool:
        """Whether all rows are on the device."""
        return self.x.device.type == self.device.type

    @property
    def unit(self) -> float:
        """Squared distances below this share of a row's squared norm are rounding."""
        return COPIES * torch.finfo(self.dtype).eps

    def blocks(
        self, first: int = 0, step: int | None = None, *, stored: bool = False
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield bounds and rows of each block from row `first` on, on the device.

        Args:
            first: row to begin with.
            step: rows of a block.
            stored: whether to leave rows as they are stored, but for their type.
        """
        step = step or ROWS[self.device.type]
        for low in range(first, len(self.x), step):
            high = min(low + step, len(self.x))
            rows = self.x[low:high].to(self.device, non_blocking=True).to(self.dtype)
            yield low, high, rows if stored or self.factor is None else rows.mul_(self.factor[low:high].unsqueeze(1))

    def take(self, where: Tensor) -> Tensor:
        """Return the rows [m, d] at positions int64 [m], on the device."""
        rows = self.x.index_select(0, where.to(self.x.device)).to(self.device, self.dtype)
        return rows if self.factor is None else rows.mul_(self.factor[where].unsqueeze(1))

    def mean(self) -> Tensor:
        """Return the mean of the rows, float64 [d]."""
        sums = torch.zeros(self.x.shape[1], dtype=torch.float64, device=self.device)
        for _, _, rows in self.blocks():
            sums += rows.sum(0, dtype=torch.float64)
        return sums / len(self.x)

    def among(self, where: Tensor) -> Tensor:
        """Return the squared distances among the rows at some positions, [m, m]; of copies they are 0."""
        rows, squares = self.take(where), self.squares[where]
        table = torch.addmm(squares, rows, rows.T, alpha=-2).add_(squares.unsqueeze(1))
        return table.masked_fill_(table < self.unit * squares.unsqueeze(1), 0)

    def nearest(self, where: Tensor) -> Tensor:
        """Return each row's squared distance to the nearest of the rows at some positions, [n]; of copies it is 0."""
        others, squares = self.take(where), self.squares[where]
        found = torch.empty_like(self.squares)
        for low, high, rows in self.blocks():
            found[low:high] = torch.addmm(squares, rows, others.T, alpha=-2).amin(1)
        found += self.squares
        return found.masked_fill_(found < self.unit * self.squares, 0)


def largest(values: Tensor, ties: Tensor, count: int) -> tuple[Tensor, float, int]:
    """Find the largest values, equal ones by `ties`, the lower first.

    Args:
        values: [n].
        ties: distinct, int64 [n].
        count: how many.

    Returns:
        Positions of the largest, int64 [min(count, n)], by `ties`; the largest value that is left and its tie.
    """
    if count >= len(values):
        return ties.argsort(), -torch.inf, 0
    bound = values.topk(count + 1).values[-1]
    above, equal = ((values > bound).nonzero()[:, 0], (values == bound).nonzero()[:, 0])
    equal = equal[ties[equal].argsort()]
    room = count - len(above)
    found = torch.cat([above, equal[:room]])
    return found[ties[found].argsort()], float(bound), int(ties[equal[room]])
