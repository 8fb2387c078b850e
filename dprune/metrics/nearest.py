"""The nearest training rows of each query, exactly, for training sets of any size.

The training set passes by in blocks. One matrix product a tile gives every pair an optimistic score that is never
below the true one (see `bounds`); only rows whose optimistic score reaches the k-th best score known so far are
compared with the query by float64 differences. Rows that are left out are thereby proven to be further away, so the
result is exact and needs no second search, whatever the precision of the product; copies are at exactly 0, and of
equally near rows the one with the lower id comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dprune.errors import InputError
from dprune.metrics.bounds import (
    Operand,
    optimistic_scores,
    products,
    query_operand,
    row_operand,
    summation_error,
)
from dprune.metrics.reading import SIZES, Rows, as_rows, blocks
from dprune.metrics.rows import check_dimensions, spans

# Columns of a tile are reduced in groups of up to this many before any single score is looked at.
GROUP = 128
MOST_NEIGHBOURS = 1024


@dataclass(frozen=True)
class Neighbours:
    """What a search found, on the device of the queries.

    Attributes:
        distance: Euclidean distances, ascending, float64 [q, k]; infinite where there are fewer than k rows, NaN for
            queries that are not finite.
        id: row numbers in the training set, int64 [q, k], -1 where there is none; equal distances by ascending id.
        compared: pairs whose distance was computed by differences.
    """

    distance: Tensor
    id: Tensor
    compared: int


def nearest(
    queries: Tensor,
    train: Rows | Tensor | npt.NDArray[np.floating],
    k: int = 1,
    *,
    exclude: Tensor | None = None,
    cells: tuple[Tensor, Tensor] | None = None,
    precision: Literal["auto", "bf16", "float32"] = "auto",
) -> Neighbours:
    """Find the k nearest training rows of each query by Euclidean distance, exactly.

    Training rows that hold NaN or infinity, or whose squared norm is beyond float32, are never found. Memory does not
    grow with the training set, nor with how many rows are too near each other for the product to tell them apart.

    Args:
        queries: float32 or float64 [q, d], on the device that is to work.
        train: [n, d], a tensor on any device, an array, or an object with `shape` and `rows(begin, end)`; read once.
        k: neighbours a query, at most 1024.
        exclude: int64 [q], a training row that each query must not find, such as itself; -1 for none.
        cells: cell numbers of the queries, int64 [q], and of the training rows, int64 [n]; a query then finds only
            rows of its own cell.
        precision: of the products, which changes the speed alone: `bf16`, `float32`, or `auto` for bf16 on a GPU.

    Raises:
        InputError: k is out of range, or the queries are no matrix of floats.
        MismatchError: the dimensions differ.
    """
    source = as_rows(train)
    if not 1 <= k <= MOST_NEIGHBOURS:
        raise InputError(f"{k} neighbours per sample: give 1 to {MOST_NEIGHBOURS}.")
    if queries.ndim != 2 or not queries.is_floating_point() or not queries.shape[1]:
        raise InputError(f"features are floats of shape [n, d], not {queries.dtype} of {list(queries.shape)}.")
    check_dimensions(queries.shape[1], source.shape[1])
    low_digits = precision == "bf16" or (precision == "auto" and queries.is_cuda)
    device = queries.device
    order = None if cells is None else cells[0].to(device).argsort(stable=True)
    exclude = None if exclude is None else exclude.to(device)
    search = _Search(
        queries if order is None else queries[order], k, torch.bfloat16 if low_digits else torch.float32,
        exclude if exclude is None or order is None else exclude[order],
        None if cells is None else cells[0].cpu().sort().values,
    )  # fmt: skip
    with products():
        for begin, rows in blocks(source, device):
            search.visit(begin, rows, None if cells is None else cells[1][begin : begin + len(rows)].to(device))
    return search.result(None if order is None else order.argsort())


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return |a - b|² of pairs of rows [p, d] by differences, float64 [p].

    The sum has one fixed order, whatever the device and however many pairs there are, so that equal pairs get equal
    numbers and ties can be told.
    """
    squares = a.to(torch.float64, copy=True).sub_(b).square_()
    width = squares.shape[1]
    while width > 1:
        half = (width + 1) // 2
        squares[:, : width - half] += squares[:, half:width]
        width = half
    return squares[:, 0]


@dataclass(frozen=True)
class _Block:
    rows: Tensor
    ids: Tensor
    operand: Operand
    cells: Tensor | None


class _Search:
    """The best rows known so far for each query, and what it takes to be a better one."""

    def __init__(
        self, queries: Tensor, k: int, dtype: torch.dtype, exclude: Tensor | None, cells: Tensor | None
    ) -> None:
        self._queries, self._k, self._exclude, self._cells = queries, k, exclude, cells
        self._sizes, self._error = SIZES[queries.device.type], summation_error(queries.shape[1], queries.device)
        self._centre = _mean(queries)
        self._operand = query_operand(queries, self._centre, dtype)
        self._squares = queries.new_full((len(queries), k), torch.inf, dtype=torch.float64)
        self._ids = torch.full((len(queries), k), -1, device=queries.device)
        # Scores below this cannot be among the k best. Masked rows score minus infinity, which is below all.
        self._threshold = torch.full((len(queries),), torch.finfo(torch.float32).min, device=queries.device)
        # Pessimistic scores of k rows.
        self._reached = self._threshold.unsqueeze(1).repeat(1, k)
        self._threshold[~self._operand.usable] = torch.inf
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting = self._compared = 0

    def result(self, order: Tensor | None) -> Neighbours:
        """Return what was found, with the queries in the order of the rows `order`."""
        distance = self._squares.sqrt()
        distance[~self._operand.usable] = torch.nan
        if order is None:
            return Neighbours(distance, self._ids, self._compared)
        return Neighbours(distance[order], self._ids[order], self._compared)

    def visit(self, begin: int, rows: Tensor, cells: Tensor | None) -> None:
        """Look at training rows [n, d] whose first id is `begin`."""
        ids = torch.arange(begin, begin + len(rows), device=rows.device)
        if cells is not None:
            cells, order = cells.sort(stable=True)
            rows, ids = rows[order], ids[order]
        block = _Block(rows, ids, row_operand(rows, self._centre, self._operand.matrix.dtype, GROUP), cells)
        for low, high in self._tiles(len(block.operand.matrix)):
            first, last = self._concerned(block, low, high)
            step = max(1, self._sizes.scores // (high - low))
            step = -(-(last - first) // max(1, -(-(last - first) // step)))
            for start in range(first, last, max(1, step)):
                self._scan(block, slice(low, high), slice(start, min(start + step, last)))
        self._settle(block)
        # Nothing is nearer than a copy, and later rows have higher ids.
        self._threshold[self._squares[:, -1] == 0] = torch.inf

    def _tiles(self, rows: int) -> Iterator[tuple[int, int]]:
        for low in range(0, rows, self._sizes.columns):
            yield low, min(low + self._sizes.columns, rows)

    def _concerned(self, block: _Block, low: int, high: int) -> tuple[int, int]:
        """Return the span of queries, sorted by cell, whose cells occur in columns `low` to `high`."""
        if block.cells is None or self._cells is None:
            return 0, len(self._queries)
        ends = block.cells[[low, min(high, len(block.cells)) - 1]].cpu()
        return (int(torch.searchsorted(self._cells, ends[0])),
                int(torch.searchsorted(self._cells, ends[1], right=True)))  # fmt: skip

    def _scan(self, block: _Block, columns: slice, span: slice) -> None:
        """Find the pairs of a tile that deserve a closer look."""
        scores = optimistic_scores(self._operand.matrix[span], block.operand.matrix[columns])
        self._mask(scores, block, columns, span)
        width = scores.shape[1]
        size = next(size for size in (128, 64, 32, 16, 8, 4, 2, 1) if width // size >= 4 * self._k or size == 1)
        # Neighbours in a file are neighbours in space, so a group takes columns that are far apart.
        table = scores.view(len(scores), size, width // size)
        best = table.amax(1)
        threshold = self._threshold[span]
        hot = best >= threshold.unsqueeze(1)
        crowded = (hot.sum(1) > self._k // 4).nonzero().squeeze(1)
        if len(crowded):
            self._raise(best, block.operand, columns, span.start, crowded)
            hot[crowded] = best[crowded] >= threshold[crowded].unsqueeze(1)
        queries, groups = hot.nonzero().unbind(1)
        step = max(1, self._sizes.numbers // size)
        for some, group in zip(queries.split(step), groups.split(step), strict=True):
            values = table[some, :, group]
            which, member = (values >= threshold[some].unsqueeze(1)).nonzero().unbind(1)
            found = columns.start + member * table.shape[2] + group[which]
            self._add(block, some[which] + span.start, found, values[which, member])

    def _mask(self, scores: Tensor, block: _Block, columns: slice, span: slice) -> None:
        """Give minus infinity to the pairs that must not be found."""
        if block.cells is not None and self._cells is not None:
            cells = block.cells[columns]
            other = self._cells[span].to(scores.device).unsqueeze(1) != cells
            scores[:, : len(cells)].masked_fill_(other, -torch.inf)
        if self._exclude is not None:
            # In a block that is sorted by cell an id may be anywhere.
            ids, places = block.ids[columns].sort()
            own = self._exclude[span].contiguous()
            place = torch.searchsorted(ids, own).clamp_(max=len(ids) - 1)
            rows = (ids[place] == own).nonzero().squeeze(1)
            scores[rows, places[place[rows]]] = -torch.inf

    def _raise(self, best: Tensor, rows: Operand, columns: slice, first: int, crowded: Tensor) -> None:
        """Raise thresholds to the k-th best pessimistic score; those of groups are each of a row of its own."""
        groups = best.shape[1]
        half = rows.half_squares[columns].where(rows.usable[columns], 0.0).float()
        rounded, rest, half = (x.view(-1, groups).amax(0) for x in (rows.rounded[columns], rows.rest[columns], half))
        for some in crowded.split(max(1, self._sizes.numbers // groups)):
            own = some + first
            doubt = self._operand.rounded[own].outer(rounded) + self._operand.rest[own].outer(rest)
            # The optimistic score is at most twice the bound's columns, themselves rounded up, above the true one.
            pessimistic = best[some] - (2.25 * doubt + 4 * self._error * half)
            reached = torch.cat([self._reached[own], pessimistic], 1).topk(self._k).values
            self._reached[own] = reached
            self._threshold[own] = torch.maximum(self._threshold[own], reached[:, -1])

    def _add(self, block: _Block, queries: Tensor, columns: Tensor, optimistic: Tensor) -> None:
        self._pending.append((queries, columns, optimistic))
        self._waiting += len(queries)
        if self._waiting > max(2 * self._squares.numel(), self._sizes.pairs):
            self._settle(block)

    def _settle(self, block: _Block) -> None:
        """Compare the pairs that wait, keep the best, and raise the thresholds to what these reach."""
        if not self._waiting:
            return
        queries, columns, optimistic = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending, self._waiting = [], 0
        kept = optimistic >= self._threshold[queries]
        queries, columns = queries[kept], columns[kept]
        squares = self._squares.new_empty(len(queries))
        step = max(1, self._sizes.numbers // self._queries.shape[1])
        for out, query, column in zip(squares.split(step), queries.split(step), columns.split(step), strict=True):
            out.copy_(squared_distances(self._queries.index_select(0, query), block.rows.index_select(0, column)))
        self._compared += len(queries)
        self._merge(queries, squares, block.ids[columns])

    def _merge(self, queries: Tensor, squares: Tensor, ids: Tensor) -> None:
        touched, owner = queries.unique(return_inverse=True)
        owner = torch.cat([owner, torch.arange(len(touched), device=owner.device).repeat_interleave(self._k)])
        squares = torch.cat([squares, self._squares[touched].flatten()])
        ids = torch.cat([ids, self._ids[touched].flatten()])
        order = ids.argsort()
        order = order[squares[order].argsort(stable=True)]
        order = order[owner[order].argsort(stable=True)]
        owner = owner[order]
        starts = torch.searchsorted(owner, torch.arange(len(touched), device=owner.device))
        order = order[torch.arange(len(owner), device=owner.device) - starts[owner] < self._k]
        self._squares[touched] = squares[order].view(-1, self._k)
        self._ids[touched] = ids[order].view(-1, self._k)
        own = 2 * self._operand.half_squares[touched]
        furthest = self._squares[touched, -1]
        # Less what float32 cannot hold.
        reached = (own - furthest) / 2 - 2.0**-20 * (own + furthest)
        self._threshold[touched] = torch.maximum(self._threshold[touched], reached.float())


def _mean(queries: Tensor) -> Tensor:
    """Return a mean of the queries, float64 [d]; any centre is right, a central one leaves few doubts.

    Queries that float32 cannot hold the squares of are left out, or the centre would be as far away as they are.
    """
    total, count = queries.new_zeros(queries.shape[1], dtype=torch.float64), 0
    for low, high in spans(*queries.shape):
        rows = queries[low:high].double()
        rows = rows[rows.square().sum(1) < torch.finfo(torch.float32).max / 256]
        total, count = total + rows.sum(0), count + len(rows)
    return total / max(1, count)
