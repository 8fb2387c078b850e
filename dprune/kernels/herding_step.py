"""One step of kernel herding in one pass over the rows: their kernels with what was just taken, and what is next.

A step reads each row once and writes one number for it, at the rate of memory. Nothing waits for the device: what is
taken next is found there, by a second kernel that looks at the best of each block, and is where the next step looks.

Shapes in suffixes: N rows, D numbers each, T steps, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS, _BLOCKS = 32, 256, 4096


@dataclass(frozen=True)
class HerdingSteps:
    """What the steps read and write, all on one GPU.

    Attributes:
        x: rows, float32 or float16 [N, D], contiguous.
        factor: what makes a row of `x` the row that it stands for, float32 [N].
        squares: squared norms of those, float32 [N].
        means: mean kernel of each row with all, float64 [N].
        values: by which the next is taken, float64 [N]; minus infinity for what is taken.
        ties: distinct, int32 [N]; of equal values the lowest goes first.
        by_tie: the row of each tie, int32 [N].
        order: rows in the order in which they are taken, int32 [T + 1]; the first is there.
        scale: a kernel is exp(-scale |x - y|²).
    """

    x: Tensor
    factor: Tensor
    squares: Tensor
    means: Tensor
    values: Tensor
    ties: Tensor
    by_tie: Tensor
    order: Tensor
    scale: float

    def run(self, begin: int, end: int) -> None:
        """Do steps `begin` to `end`: each takes the row order[t], and writes order[t + 1]."""
        n, width = self.x.shape
        blocks = triton.cdiv(n, _ROWS)
        best = torch.empty(blocks, dtype=torch.float64, device=self.x.device)
        tie = torch.empty(blocks, dtype=torch.int32, device=self.x.device)
        for step in range(begin, end):
            _take[(blocks,)](self.x, self.factor, self.squares, self.means, self.values, self.ties, self.order, best,
                             tie, step, n, width, self.scale, _ROWS, _COLUMNS, num_warps=4)  # fmt: skip
            _choose[(1,)](best, tie, self.by_tie, self.order, step, blocks, _BLOCKS, num_warps=8)


# Compiled once for all numbers of rows and steps.
@triton.jit(do_not_specialize=["step", "n"])
def _take(x_ND, factor_N, squares_N, means_N, values_N, ties_N, order_T, best_B, tie_B, step, n, width, scale,
          ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    block = tl.program_id(0)
    rows = block * ROWS + tl.arange(0, ROWS)
    some = rows < n
    taken = tl.load(order_T + step).to(tl.int64)
    # Rows times numbers may be more than 2**31.
    start = rows.to(tl.int64) * width
    products = tl.zeros([ROWS, COLUMNS], tl.float32)
    for low in range(0, width, COLUMNS):
        columns = low + tl.arange(0, COLUMNS)
        inside = columns < width
        other = tl.load(x_ND + taken * width + columns, mask=inside, other=0.0).to(tl.float32)
        own = tl.load(x_ND + start[:, None] + columns[None, :], mask=some[:, None] & inside[None, :], other=0.0)
        products += own.to(tl.float32) * other[None, :]
    product = tl.sum(products, 1) * tl.load(factor_N + rows, mask=some, other=0.0) * tl.load(factor_N + taken)
    squares = tl.load(squares_N + rows, mask=some, other=0.0) + tl.load(squares_N + taken)
    kernel = tl.exp(tl.minimum(scale * (2 * product - squares), 0.0))
    means = tl.load(means_N + rows, mask=some, other=0.0)
    value = tl.load(values_N + rows, mask=some, other=float("-inf")) + (means - kernel.to(tl.float64))
    value = tl.where(rows == taken, float("-inf"), value)
    tl.store(values_N + rows, value, mask=some)
    best = tl.max(value, 0)
    ties = tl.load(ties_N + rows, mask=some, other=2147483647)
    tl.store(best_B + block, best)
    tl.store(tie_B + block, tl.min(tl.where(value == best, ties, 2147483647), 0))


@triton.jit(do_not_specialize=["step", "blocks"])
def _choose(best_B, tie_B, by_tie_N, order_T, step, blocks, BLOCKS: tl.constexpr):
    best = tl.full([BLOCKS], float("-inf"), tl.float64)
    tie = tl.full([BLOCKS], 2147483647, tl.int32)
    for low in range(0, blocks, BLOCKS):
        places = low + tl.arange(0, BLOCKS)
        some = places < blocks
        value = tl.load(best_B + places, mask=some, other=float("-inf"))
        other = tl.load(tie_B + places, mask=some, other=2147483647)
        tie = tl.where(value > best, other, tl.where(value == best, tl.minimum(tie, other), tie))
        best = tl.maximum(value, best)
    most = tl.max(best, 0)
    first = tl.min(tl.where(best == most, tie, 2147483647), 0)
    tl.store(order_T + step + 1, tl.load(by_tie_N + first))
