"""How like each row is to the most similar one before it, block by block of the lower triangle of all cosines."""

from __future__ import annotations

import torch
from torch import Tensor

from dprune.precision import float32
from dprune.runtime import Monitor, check_stop
from dprune.scoring.vectors import Vectors

SIZES = {"cpu": (128, 1024), "cuda": (1 << 15, 1 << 13)}
"""Rows that are compared at once, and with how many: on a CPU their cosines stay in cache."""
FIRST = -1
"""Place of what no row comes before, and its cosine, which is the least there is."""


def largest_similarities(
    x: Tensor, order: Tensor, device: torch.device, monitor: Monitor, sizes: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Find each row's largest cosine to a row that comes before it in an order, and which row that is.

    Matrix products in float32 find the row; its cosine is then told by differences, so that copies are at 1.

    Args:
        x: rows of unit length, float32 [n, d], on the device, or on the host where they do not fit there.
        order: positions of the rows in their order, int64 [n].
        device: where to compute.
        monitor: told of the rows.
        sizes: as `SIZES` has them, which change the speed alone.

    Returns:
        For each row the cosine, [n], and the position of the other, int64 [n], on the device: of the first both are -1.
    """
    some, many = sizes or SIZES[device.type]
    # Brought into their order once, or every block would gather anew all that come before it.
    x, order = x.index_select(0, order.to(x.device)), order.to(device)
    cosines, of = x.new_empty(len(x), device=device), torch.empty_like(order)
    with float32(tf32=False):
        for low in range(0, len(x), some):
            check_stop(monitor)
            here = order[low : low + some]
            rows = x[low : low + some].to(device)
            found = _most_similar(x, rows, low, many)
            of[here] = order[found]
            cosines[here] = 1 - (rows - x[found.to(x.device)].to(device)).square().sum(1) / 2
            monitor.advance(len(here))
    of[order[0]] = cosines[order[0]] = FIRST
    return cosines.clamp_(-1, 1), of


def _most_similar(x: Tensor, rows: Tensor, low: int, many: int) -> Tensor:
    """Return the place in `x` of the most similar row before each of `rows`, which stand there from `low` on."""
    best = rows.new_full((len(rows),), -torch.inf)
    place = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for first in range(0, low + len(rows), many):
        others = x[first : min(first + many, low + len(rows))].to(rows.device)
        table = rows @ others.T
        if first + len(others) > low:
            beside = table[:, max(low - first, 0) :]
            beside.masked_fill_(torch.ones_like(beside, dtype=torch.bool).triu_(min(low - first, 0)), -torch.inf)
        value, where = _largest(table)
        place = torch.where(value > best, where + first, place)
        best = torch.maximum(best, value)
    return place


def _largest(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value of each row and where it is, [n] both."""
    if table.device.type != "cpu":
        return table.max(1)
    # On a CPU numpy finds places ten times as fast as torch.
    where = torch.from_numpy(table.numpy().argmax(1))
    return table.gather(1, where.unsqueeze(1))[:, 0], where


def away_from_mean(x: Tensor, device: torch.device) -> Tensor:
    """Return each row's squared distance to the mean of all, [n], on the device."""
    vectors = Vectors(x, device)
    mean = vectors.mean().to(x.dtype)
    return torch.cat([(rows - mean).square().sum(1) for _, _, rows in vectors.blocks()])
