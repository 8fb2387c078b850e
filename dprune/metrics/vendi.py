"""The Vendi score: how many different samples there effectively are."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dprune.metrics.jackknife import Blocks, Estimate
from dprune.metrics.rows import check_rows, spans, unit_rows
from dprune.namespace import beside

ORDERS = (0.5, 1.0, 2.0, math.inf)


def vendi(x: Tensor, orders: Sequence[float] = ORDERS, blocks: Blocks | None = None) -> dict[float, Estimate]:
    """Compute exp of the Rényi entropy of order q of the eigenvalues of K / n, K the cosine similarities, in float64.

    Friedman and Dieng (2022), for the orders Pasarkar and Dieng (2023). K = X Xᵀ has the eigenvalues of Xᵀ X besides
    zeros, so a [d, d] matrix will do where there are more samples than dimensions.

    Args:
        x: features [n, d] of any float type; rows are scaled to unit length, zero rows add nothing.
        orders: values of q, from 0 to infinity.
        blocks: for the standard errors.

    Returns:
        The score of each order; that of q = 1 is the Vendi score proper.

    Raises:
        InputError: there are no samples, or some are not finite.
    """
    check_rows(x, "generated")
    blocks = blocks or Blocks.whole(x)
    whole, replicates = _eigenvalues(x, blocks)
    values, left_out = _scores(whole, orders), [_scores(values, orders) for values in replicates]
    estimates = [blocks.estimate(value, column) for value, *column in zip(values, *left_out, strict=True)]
    return dict(zip(orders, estimates, strict=True))


def _gram(x: Tensor) -> Tensor:
    """Return the sum of the outer products of the unit rows, float64 [d, d]."""
    total = torch.zeros((x.shape[1], x.shape[1]), dtype=torch.float64, device=x.device)
    for low, high in spans(len(x), x.shape[1]):
        rows = unit_rows(x[low:high])
        total.addmm_(rows.T, rows)
    return total


def _eigenvalues(x: Tensor, blocks: Blocks) -> tuple[Tensor, list[Tensor]]:
    """Return the eigenvalues of all samples and of those outside each of several blocks; products are computed once."""
    left_out: Iterable[Tensor]
    if len(x) >= x.shape[1]:
        grams = [_gram(rows) for rows in blocks.rows(x)]
        whole = functools.reduce(torch.add, grams)
        left_out = (whole - gram for gram in grams)
    else:
        rows = unit_rows(x)
        whole = rows @ rows.T
        kept = (beside(whole, blocks.without(block)) for block in range(len(blocks)))
        left_out = (whole[ids][:, ids] for ids in kept)
    values: Tensor = torch.linalg.eigvalsh(whole)
    return values, [torch.linalg.eigvalsh(table) for table in left_out] if len(blocks) > 1 else []


def _scores(eigenvalues: Tensor, orders: Sequence[float]) -> list[float]:
    total = eigenvalues.sum()
    # What rounding leaves of a zero would count in full at order 0, and twice too much at small ones.
    noise = len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues.max()
    shares = eigenvalues[eigenvalues > noise] / total
    return [_score(shares, q) for q in orders]


def _score(shares: Tensor, q: float) -> float:
    if not len(shares):
        return math.nan
    if q == 1:
        return float(torch.special.entr(shares).sum().exp())
    if math.isinf(q):
        return float(1 / shares.max())
    return float(shares.pow(q).sum().pow(1 / (1 - q)))
