"""Matrices whose product is a proven upper bound, so that a search in low precision can still be exact.

With features centred at c, the nearest training row t of a query q has the largest score s = q·t - |t|²/2, because
|q - t|² = |q|² - 2s. Rounding both to few digits leaves residuals whose norms are known: q = q' + e and t = t' + f,
so by Cauchy and Schwarz s <= q'·t' - |t|²/2 + |q'||f| + |e||t| + (error of summation). Every term is a product of
something of the query with something of the row. So each is a column, and one matrix product of the widened
matrices gives, for every pair, the optimistic score itself: a row whose optimistic score is below the score of a row
known to be near needs no second look, whatever the precision of the product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dprune.precision import float32

# Numbers that are centred at once; on a CPU they stay in cache.
NUMBERS = {"cpu": 1 << 17, "cuda": 1 << 25}
# Widths of matrix products in bfloat16 are fast where a row's bytes are a multiple of 16.
ALIGNMENT = 8
EXTRA = 5
# What is rounded to bfloat16 loses at most 2**-8 of its size; this makes up for it and for the sums over it.
ROUND_UP = 1 + 2.0**-6
# Unit of float32, times what adding in an unknown order by tensor cores, which truncate, can cost.
SUM_UNIT = {"cpu": 2.0**-23, "cuda": 2.0**-22}


@dataclass(frozen=True)
class Operand:
    """One side of the product.

    Attributes:
        matrix: [n, d + 5, rounded up to a multiple of 8], bfloat16 or float32.
        rounded: query side: norm of what the matrix holds; row side: norm of the residual; float32 [n], rounded up.
        rest: query side: norm of the residual; row side: norm of the row; float32 [n], rounded up, 0 if unusable.
        half_squares: half the squared norm after centring, float64 [n]; infinite for unusable rows.
        usable: rows whose scores stay within float32, bool [n].
    """

    matrix: Tensor
    rounded: Tensor
    rest: Tensor
    half_squares: Tensor
    usable: Tensor


@contextlib.contextmanager
def products() -> Iterator[None]:
    """Let matrix products on a GPU keep all digits that float32 sums have, inside the block."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        with float32(tf32=False):
            yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


def optimistic_scores(queries: Tensor, rows: Tensor) -> Tensor:
    """Multiply matrices [q, w] and [n, w] of two operands: upper bounds of the scores, float32 [q, n]."""
    if queries.dtype == torch.float32:
        return queries @ rows.T
    if queries.is_cuda:
        return torch.mm(queries, rows.T, out_dtype=torch.float32)
    # Products of bfloat16 numbers are exact in float32, so a CPU computes what a GPU does.
    return queries.float() @ rows.T.float()


def summation_error(dimension: int, device: torch.device) -> float:
    """Bound the relative error of a sum of products of this length in float32."""
    return (dimension + 2 * ALIGNMENT) * SUM_UNIT[device.type]


def query_operand(x: Tensor, centre: Tensor, dtype: torch.dtype) -> Operand:
    """Prepare queries, float32 or float64 [q, d], minus `centre` float64 [d], for products in `dtype`."""
    operand = _empty(x, len(x), dtype)
    dimension = x.shape[1]
    for low, high in _spans(x):
        kept, residual, squares = _split(operand, x[low:high], centre, low, dtype)
        operand.rounded[low:high] = kept.float() * ROUND_UP
        operand.rest[low:high] = residual.float() * ROUND_UP
        operand.half_squares[low:high] = squares / 2
    operand.matrix[:, dimension : dimension + 3] = 1
    operand.matrix[:, dimension + 3] = operand.rounded * ROUND_UP
    operand.matrix[:, dimension + 4] = operand.rest * ROUND_UP
    return operand


def row_operand(x: Tensor, centre: Tensor, dtype: torch.dtype, multiple: int) -> Operand:
    """Prepare training rows [n, d] like `query_operand`, with worthless rows added up to a multiple of `multiple`."""
    operand = _empty(x, -(-len(x) // multiple) * multiple, dtype)
    dimension, error = x.shape[1], summation_error(x.shape[1], x.device)
    for low, high in _spans(x):
        kept, residual, squares = _split(operand, x[low:high], centre, low, dtype)
        operand.rounded[low:high] = (residual + error * kept).float() * ROUND_UP
        operand.rest[low:high] = squares.where(operand.usable[low:high], 0.0).sqrt().float() * ROUND_UP
        operand.half_squares[low:high] = squares / 2
    # The product adds up the half norm too, with an error of its own; three pieces hold the digits of float32.
    offset = operand.half_squares * (2 * error - 1)
    for piece in range(dimension, dimension + 3):
        operand.matrix[:, piece] = offset
        offset = torch.where(operand.usable, offset - operand.matrix[:, piece].double(), 0.0)
    operand.matrix[:, dimension + 3] = operand.rounded * ROUND_UP
    operand.matrix[:, dimension + 4] = operand.rest * ROUND_UP
    return operand


def _spans(x: Tensor) -> Iterator[tuple[int, int]]:
    step = max(1, NUMBERS[x.device.type] // x.shape[1])
    for low in range(0, len(x), step):
        yield low, min(low + step, len(x))


def _empty(x: Tensor, count: int, dtype: torch.dtype) -> Operand:
    width = -(-(x.shape[1] + EXTRA) // ALIGNMENT) * ALIGNMENT
    return Operand(
        x.new_zeros((count, width), dtype=dtype), x.new_zeros(count, dtype=torch.float32),
        x.new_zeros(count, dtype=torch.float32), x.new_full((count,), torch.inf, dtype=torch.float64),
        x.new_zeros(count, dtype=torch.bool),
    )  # fmt: skip


def _split(
    operand: Operand, rows: Tensor, centre: Tensor, low: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill in centred, rounded rows; return norms of these and of the residuals, and squared norms, float64 [n]."""
    centred = rows.to(torch.float64, copy=True).sub_(centre)
    squares = centred.square().sum(1)
    # The scores are sums of a few such numbers.
    usable = squares < torch.finfo(torch.float32).max / 64
    centred[~usable] = 0
    rounded = centred.to(dtype)
    held = rounded.double()
    kept, residual = torch.linalg.vector_norm(held, dim=1), torch.linalg.vector_norm(centred.sub_(held), dim=1)
    operand.matrix[low : low + len(rows), : rows.shape[1]] = rounded
    operand.usable[low : low + len(rows)] = usable
    return kept, residual, squares.masked_fill(~usable, torch.inf)
