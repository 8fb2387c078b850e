"""How like each row is to the most similar one before it, block by block of the lower triangle of all cosines."""

from __future__ import annotations

import torch
from torch import Tensor

from dprune.precision import float32
from dprune.runtime import Monitor, check_stop
from dprune.scoring.vectors import Vectors

SIZES = {"cpu": (256, 1024), "cuda": (1 << 15, 1 << 13)}
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
    vectors, order = Vectors(x, device), order.to(device)
    cosines, of = x.new_empty(len(x), device=device), torch.empty_like(order)
    with float32(tf32=False):
        for low in range(0, len(x), some):
            check_stop(monitor)
            here = order[low : low + some]
            rows = vectors.take(here)
            found = order[_most_similar(vectors, order, rows, low, many)]
            of[here] = found
            cosines[here] = 1 - (rows - vectors.take(found)).square().sum(1) / 2
            monitor.advance(len(here))
    of[order[0]] = cosines[order[0]] = FIRST
    return cosines.clamp_(-1, 1), of


def _most_similar(vectors: Vectors, order: Tensor, rows: Tensor, low: int, many: int) -> Tensor:
    """Return the place in `order` of the most similar row before each of those that stand there from `low` on."""
    best = rows.new_full((len(rows),), -torch.inf)
    place = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    for first in range(0, low + len(rows), many):
        others = vectors.take(order[first : min(first + many, low + len(rows))])
        table = rows @ others.T
        if first + len(others) > low:
            table.masked_fill_(torch.ones_like(table, dtype=torch.bool).triu_(low - first), -torch.inf)
        value, where = table.max(1)
        place = torch.where(value > best, where + first, place)
        best = torch.maximum(best, value)
    return place


def away_from_mean(x: Tensor, device: torch.device) -> Tensor:
    """Return each row's squared distance to the mean of all, [n], on the device."""
    vectors = Vectors(x, device)
    mean = vectors.mean().to(x.dtype)
    return torch.cat([(rows - mean).square().sum(1) for _, _, rows in vectors.blocks()])
