"""Squared distances between two sets, tile by tile: fast in float32, and exact wherever a comparison hangs on it.

A matrix product gives |x - y|² with a known error. Only pairs within that error of the radius that they are compared
with are computed again, by differences in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dprune.metrics.rows import spans
from dprune.precision import float32

ROWS = 512
COLUMNS = {"cpu": 4096, "cuda": 32_768}
SPARE = 3
# Distances that differ by less, relatively, are one distance: sums of the same squares in another order.
TIE = 1e-12


@dataclass(frozen=True)
class Cloud:
    """Rows ready for products.

    Attributes:
        given: the rows as they came [n, d], any float type.
        x: minus the common centre, float32 or float64 [n, d]; products of centred rows lose the fewest digits.
        squares: their squared norms [n].
    """

    given: Tensor
    x: Tensor
    squares: Tensor

    @classmethod
    def around(cls, given: Tensor, centre: Tensor, dtype: torch.dtype = torch.float32) -> Cloud:
        """Centre rows around `centre`, float64 [d]."""
        x = torch.empty(given.shape, dtype=dtype, device=given.device)
        squares = torch.empty(len(given), dtype=dtype, device=given.device)
        for low, high in spans(len(given), given.shape[1]):
            x[low:high] = given[low:high].double() - centre
            squares[low:high] = x[low:high].double().square().sum(1)
        return cls(given, x, squares)

    def __len__(self) -> int:
        return len(self.x)

    def tiles(self, step: int) -> Iterator[tuple[slice, Cloud]]:
        """Yield views of `step` rows each, and where they are."""
        for low in range(0, len(self), step):
            where = slice(low, min(low + step, len(self)))
            yield where, Cloud(self.given[where], self.x[where], self.squares[where])


def common_centre(x: Tensor) -> Tensor:
    """Return the mean of rows [n, d], float64 [d]."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for low, high in spans(len(x), x.shape[1]):
        total += x[low:high].sum(0, dtype=torch.float64)
    return total / len(x)


def columns_at_once(x: Tensor) -> int:
    """Return how wide tiles are on the device of `x`."""
    return COLUMNS.get(x.device.type, COLUMNS["cpu"])


def product_squares(a: Cloud, b: Cloud) -> Tensor:
    """Return |x - y|² of all pairs [len(a), len(b)] by a matrix product, wrong by up to `error`."""
    with float32(tf32=False):
        table: Tensor = torch.addmm(b.squares, a.x, b.x.T, alpha=-2)
    return table.add_(a.squares.unsqueeze(1))


def error(a: Cloud, b: Cloud) -> Tensor:
    """Bound the error of `product_squares` for each row of `a`, against any row of `b`.

    Rounding the inputs costs four units in the last place of |x|² + |y|²; adding up d products costs, their errors
    being independent, a few times the root of d (Higham and Mary, 2019).
    """
    unit = torch.finfo(a.x.dtype).eps / 2
    return (a.squares + b.squares.max()) * (unit * (16 + 4 * math.sqrt(a.x.shape[1])))


def exact_squares(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return |a[row] - b[column]|² for pairs of ids [p], by differences in float64."""
    squares = torch.empty(len(rows), dtype=torch.float64, device=a.device)
    for low, high in spans(len(rows), 2 * a.shape[1]):
        difference = a.index_select(0, rows[low:high]).double() - b.index_select(0, columns[low:high])
        squares[low:high] = difference.square_().sum(1)
    return squares


def inside(squares: Tensor, radii: Tensor, a: Cloud, b: Cloud, closed: bool) -> Tensor:
    """Tell for each pair whether its distance is at most (closed) or below (open) the radius of its row.

    Args:
        squares: what `product_squares` of `a` and `b` gave [n, m].
        radii: squared radii of the balls around the rows of `a`, float64 [n].
        a: rows.
        b: columns.
        closed: whether a point on the boundary counts.

    Returns:
        bool [n, m], as exact differences would tell; where those are equal up to rounding, on the boundary.
    """
    slack = error(a, b)
    limit = radii.to(squares.dtype)
    # Where all points are one, nothing is lost by rounding and nothing is doubtful: these alone tell.
    within = torch.le if closed else torch.lt
    surely = within(squares, (limit - slack).unsqueeze(1))
    perhaps = within(squares, (limit + slack).unsqueeze(1))
    doubtful = torch.nonzero(perhaps ^ surely)
    if len(doubtful):
        rows, columns = doubtful.unbind(1)
        exact, radius = exact_squares(a.given, b.given, rows, columns), radii.index_select(0, rows)
        surely[rows, columns] = exact <= radius * (1 + TIE) if closed else exact < radius * (1 - TIE)
    return surely


def neighbours(cloud: Cloud, count: int) -> tuple[Tensor, Tensor]:
    """Find the nearest other points of each point by products.

    Returns:
        Their squared distances, ascending, as the products give them, and their ids, int64, both [n, count].
    """
    squares, ids = zip(*(_nearest(rows, where, cloud, count) for where, rows in cloud.tiles(ROWS)), strict=True)
    return torch.cat(squares), torch.cat(ids)


def _nearest(rows: Cloud, own: slice | Tensor, cloud: Cloud, count: int) -> tuple[Tensor, Tensor]:
    """Do so for some rows, whose ids `own` are no neighbours of themselves."""
    every = torch.arange(len(cloud), device=cloud.x.device)
    own_ids = every[own]
    best: tuple[Tensor, Tensor] | None = None
    for where, columns in cloud.tiles(columns_at_once(cloud.x)):
        squares = product_squares(rows, columns)
        here = torch.nonzero((own_ids >= where.start) & (own_ids < where.stop)).squeeze(1)
        squares[here, own_ids[here] - where.start] = torch.inf
        values, ids = squares.topk(min(count, len(columns)), largest=False)
        ids += where.start
        if best is not None:
            values, ids = torch.cat([best[0], values], 1), torch.cat([best[1], ids], 1)
            values, order = values.topk(min(count, values.shape[1]), largest=False)
            ids = ids.gather(1, order)
        best = values, ids
    assert best is not None
    return best


def exact_radii(cloud: Cloud, k: int, squares: Tensor, ids: Tensor, centre: Tensor) -> Tensor:
    """Return the squared distance of each point to its k-th nearest other point, float64 [n].

    The candidates are measured again by differences. Where the first point that is none may yet be nearer, the
    search is repeated in float64.

    Args:
        cloud: the points.
        k: which neighbour.
        squares: what `neighbours` found, at least k columns; more leave fewer rows to repeat.
        ids: theirs.
        centre: what the cloud was centred around.
    """
    last = min(k + SPARE, squares.shape[1])
    radii = _kth(cloud, torch.arange(len(cloud), device=cloud.x.device), ids[:, :last], k)
    if last == len(cloud) - 1:
        return radii
    doubtful = torch.nonzero(squares[:, last - 1] - error(cloud, cloud) < radii).squeeze(1)
    if len(doubtful):
        wide = Cloud.around(cloud.given, centre, torch.float64)
        for some in doubtful.split(ROWS):
            rows = Cloud(wide.given[some], wide.x[some], wide.squares[some])
            radii[some] = _kth(cloud, some, _nearest(rows, some, wide, last)[1], k)
    return radii


def _kth(cloud: Cloud, rows: Tensor, ids: Tensor, k: int) -> Tensor:
    exact = exact_squares(cloud.given, cloud.given, rows.repeat_interleave(ids.shape[1]), ids.reshape(-1))
    return exact.view(ids.shape).kthvalue(k, 1).values
